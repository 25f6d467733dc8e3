"""Serve a web page and an HTTP interface for detection. Runs `mrcnn demo`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("demo")
