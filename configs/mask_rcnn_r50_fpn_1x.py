"""Mask R-CNN, ResNet-50 FPN, on COCO for 90,000 steps ("1x"): frozen batch norm, drops at 60k and 80k.

    python scripts/train.py configs/mask_rcnn_r50_fpn_1x.py --workdir runs/r50_1x \
        --data.train DIR:train --data.val DIR:val --train.init-from resnet50.npz

Needs an ImageNet backbone. Hardware and time: not measured yet. Box and mask AP on val2017: not measured yet.
"""

from mrcnn_jax.config import Config

config = Config()
