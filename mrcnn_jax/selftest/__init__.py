"""Checks of a device: operations at real sizes are compared with NumPy in float64. `machine` runs all checks."""
