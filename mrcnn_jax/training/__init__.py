"""Optimizer, sharded step, checkpoints and the loop around them."""
