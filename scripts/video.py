"""Detect and track objects in videos. Runs `mrcnn video`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("video")
