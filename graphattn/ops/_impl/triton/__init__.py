"""Attention over the edges of a graph on CUDA, as Triton kernels. Importing this package compiles nothing."""
