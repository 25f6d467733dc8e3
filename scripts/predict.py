"""Detect objects in images. The command `mrcnn predict`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("predict")
