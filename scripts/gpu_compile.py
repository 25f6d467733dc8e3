"""Compile for GPUs without having any; print the costs. Runs `mrcnn gpu-compile`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("gpu-compile")
