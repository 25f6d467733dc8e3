"""Flax Linen modules: parameters and forward only."""
