"""Convert a data set (COCO, Cityscapes, generated shapes). Runs `mrcnn prepare`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("prepare")
