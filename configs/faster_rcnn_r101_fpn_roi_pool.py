"""Faster R-CNN with RoIPool, ResNet-101 FPN, on COCO: the paper's table 3.

    python scripts/train.py configs/faster_rcnn_r101_fpn_roi_pool.py --workdir runs/faster_rcnn_r101_fpn_roi_pool \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet101-63fe2227.pth

Meant for eight accelerators, as in the paper. Not trained here yet. Published: table 3 (from the FPN paper), box AP
36.2 on test-dev.
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TrainConfig

config = Config(
    model=ModelConfig(backbone="resnet101", masks=False, roi_op="pool", roi_reduce="max"),
    targets=TargetsConfig(post_nms_top_n=2000),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
