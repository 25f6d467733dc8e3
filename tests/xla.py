"""XLA's flags for tests, which compile more than they run."""

from importlib.metadata import version

# Level 0 because compiling random initialisers takes seconds per shape otherwise. One part of a program, since the
# tests' own processes keep the cores busy, and cutting it costs a tenth. Without the emitters of whole fusions a step
# compiles in half the time; jaxlib 0.12 no longer knows that flag, and XLA ends the process at an unknown one.
FAST_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
