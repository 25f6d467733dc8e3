"""Mask R-CNN, ResNet-50 C4, with RoIWarp and maxima, as in the paper's table 2c.

    python scripts/train.py configs/mask_rcnn_r50_c4_roi_warp_max.py --workdir runs/mask_rcnn_r50_c4_roi_warp_max \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet50-0676ba61.pth

The preset is meant for eight accelerators, as in the paper, and has not been trained here yet. The paper reports mask
AP 27.2 on minival, and 30.2 with RoIAlign (table 2c).
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TestConfig, TrainConfig

config = Config(
    model=ModelConfig(neck="c4", box_pool_size=14, mask_pool_size=14, roi_op="warp", roi_reduce="max"),
    targets=TargetsConfig(pre_nms_top_n=12_000, post_nms_top_n=2000, roi_samples=64),
    test=TestConfig(pre_nms_top_n=6000, post_nms_top_n=300),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
