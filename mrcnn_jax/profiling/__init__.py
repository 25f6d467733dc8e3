"""Contents and costs of compiled programs: HLO, estimates for TPUs and GPUs, and profiler traces."""
