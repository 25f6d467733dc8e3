"""Is this device computing right: our operations at real sizes against NumPy in float64. `machine` runs all checks."""
