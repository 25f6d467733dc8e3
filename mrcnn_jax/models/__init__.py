"""Flax Linen modules: parameters and forward pass only."""
