"""Checkpoint files of other libraries, read without them and without running anything that a file asks for."""

from mrcnn_jax.weights.files.state_dict import Checkpoint, read_state_dict

__all__ = ["Checkpoint", "read_state_dict"]
