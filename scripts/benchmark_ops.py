"""Time RoIAlign, NMS and other single operations. Runs `mrcnn benchmark-ops`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("benchmark-ops")
