"""Attention over the edges of a graph on the CPU, as Numba kernels. Importing this package compiles nothing."""
