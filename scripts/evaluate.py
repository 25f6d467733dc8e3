"""Score weights on a prepared data set. The command `mrcnn evaluate`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("evaluate")
