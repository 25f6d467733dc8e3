"""Faster R-CNN with RoIPool, ResNet-101 FPN, on COCO, as in the paper's table 3.

    python scripts/train.py configs/faster_rcnn_r101_fpn_roi_pool.py --workdir runs/faster_rcnn_r101_fpn_roi_pool \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet101-63fe2227.pth

The preset is meant for eight accelerators, as in the paper, and has not been trained here yet. The paper reports box AP
36.2 on test-dev (table 3, from the FPN paper).
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TrainConfig

config = Config(
    model=ModelConfig(backbone="resnet101", masks=False, roi_op="pool", roi_reduce="max"),
    targets=TargetsConfig(post_nms_top_n=2000),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
