"""Readers of other frameworks' checkpoints. They do not need the frameworks and never execute code from a file."""

from mrcnn_jax.weights.files.state_dict import Checkpoint, read_state_dict

__all__ = ["Checkpoint", "read_state_dict"]
