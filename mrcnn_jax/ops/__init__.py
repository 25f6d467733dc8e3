"""Pure array functions for one image."""
