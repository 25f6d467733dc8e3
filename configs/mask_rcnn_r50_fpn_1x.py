"""Mask R-CNN, ResNet-50 FPN, on COCO for 90,000 steps ("1x"), with rate drops at 60,000 and 80,000.

    python scripts/train.py configs/mask_rcnn_r50_fpn_1x.py --workdir runs/r50_1x \
        --data.train DIR:train --data.val DIR:val --train.init-from resnet50.npz

The run starts from an ImageNet backbone and keeps its batch norm frozen. The preset has not been trained here yet, so
time and AP are not measured.
"""

from mrcnn_jax.config import Config

config = Config()
