"""Write a kept checkpoint of a run as a weights folder. Runs `mrcnn weights`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("weights")
