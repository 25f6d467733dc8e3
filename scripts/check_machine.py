"""Check that this device computes correctly. The command `mrcnn check-machine`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("check-machine")
