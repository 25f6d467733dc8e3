"""Time the input pipeline. Runs `mrcnn benchmark-data`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("benchmark-data")
