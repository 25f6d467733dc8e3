"""Mask R-CNN, ResNet-101 FPN, on COCO, as in the paper's tables 1, 2a and 3.

    python scripts/train.py configs/mask_rcnn_r101_fpn.py --workdir runs/mask_rcnn_r101_fpn \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet101-63fe2227.pth

The preset is meant for eight accelerators, as in the paper, and has not been trained here yet. The paper reports mask
AP 35.7 (table 1) and box AP 38.2 (table 3) on test-dev, and mask AP 35.4 on minival (table 2a).
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TrainConfig

config = Config(
    model=ModelConfig(backbone="resnet101"),
    targets=TargetsConfig(post_nms_top_n=2000),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
