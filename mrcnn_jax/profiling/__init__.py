"""What compiled programs hold and cost: HLO, estimates for TPUs and GPUs, traces of the profiler."""
