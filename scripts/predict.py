"""Detect objects in images. Runs `mrcnn predict`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("predict")
