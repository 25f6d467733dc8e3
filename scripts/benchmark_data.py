"""Time the input pipeline. The command `mrcnn benchmark-data`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("benchmark-data")
