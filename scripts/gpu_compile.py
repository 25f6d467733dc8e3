"""Compile for GPUs without one; print their costs. The command `mrcnn gpu-compile`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("gpu-compile")
