"""Export a model as programs that need no mrcnn_jax. Runs `mrcnn export`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("export")
