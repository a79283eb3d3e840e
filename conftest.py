"""Which files doctest leaves alone."""

import importlib.util

# the CUDA kernels are written in Triton, which is not everywhere
collect_ignore = [] if importlib.util.find_spec("triton") else ["graphattn/ops/_impl/triton"]
