"""Data sets, transforms and the input pipeline. All of it runs on the host, with NumPy arrays."""
