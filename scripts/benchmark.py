"""Time inference or a training step. Runs `mrcnn benchmark`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("benchmark")
