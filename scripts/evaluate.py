"""Score weights on a prepared data set. Runs `mrcnn evaluate`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("evaluate")
