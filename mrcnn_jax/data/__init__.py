"""The host side: data sets, transforms, the input pipeline. NumPy only."""
