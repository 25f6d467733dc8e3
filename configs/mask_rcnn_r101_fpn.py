"""Mask R-CNN, ResNet-101 FPN, on COCO: the paper's tables 1, 2a and 3.

    python scripts/train.py configs/mask_rcnn_r101_fpn.py --workdir runs/mask_rcnn_r101_fpn \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet101-63fe2227.pth

Meant for eight accelerators, as in the paper. Not trained here yet. Published: table 1, mask AP 35.7 on test-dev;
table 3, box AP 38.2; table 2a, mask AP 35.4 on minival.
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TrainConfig

config = Config(
    model=ModelConfig(backbone="resnet101"),
    targets=TargetsConfig(post_nms_top_n=2000),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
