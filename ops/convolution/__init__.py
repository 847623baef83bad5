"""Convolutions whose kernels are compiled for the CPU, and what stands between them."""
