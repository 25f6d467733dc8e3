"""Find faults of prepared data, and write a report with drawn images. Runs `mrcnn inspect-data`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("inspect-data")
