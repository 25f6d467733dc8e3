"""Time RoIAlign, NMS and other operations alone. The command `mrcnn benchmark-ops`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("benchmark-ops")
