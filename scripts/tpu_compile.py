"""Compile for a TPU slice without one; print its costs. The command `mrcnn tpu-compile`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("tpu-compile")
