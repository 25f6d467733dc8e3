"""Check that this device computes correctly. Runs `mrcnn check-machine`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("check-machine")
