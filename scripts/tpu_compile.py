"""Compile for TPUs without having any; print the costs. Runs `mrcnn tpu-compile`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("tpu-compile")
