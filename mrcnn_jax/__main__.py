"""`python -m mrcnn_jax` is the command `mrcnn`."""

from mrcnn_jax.main import main

main()
