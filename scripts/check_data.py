"""Check that a prepared data set preserves its annotations. Runs `mrcnn check-data`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("check-data")
