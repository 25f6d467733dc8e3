"""Convert a torchvision or Detectron2 checkpoint. Runs `mrcnn import`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("import")
