"""Convert a checkpoint of torchvision or Detectron2. The command `mrcnn import`."""

import _checkout

if __name__ == "__main__":
    _checkout.run("import")
