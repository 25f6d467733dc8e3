"""Write a preset for prepared data and this machine. Runs `mrcnn suggest-config`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("suggest-config")
