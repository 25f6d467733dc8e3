"""Train the model of a preset, or continue a run. Runs `mrcnn train`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("train")
