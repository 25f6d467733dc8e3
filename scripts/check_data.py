"""Compare a prepared data set with what the heads can learn. The command `mrcnn check-data`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("check-data")
