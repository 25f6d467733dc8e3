"""Time the restart of a run. Runs `mrcnn benchmark-restart`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("benchmark-restart")
