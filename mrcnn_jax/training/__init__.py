"""Training: the optimizer, the sharded step, checkpoints and the training loop."""
