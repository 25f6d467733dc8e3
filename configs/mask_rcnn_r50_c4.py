"""Mask R-CNN, ResNet-50 C4, on COCO: the base of the paper's tables 2a to 2c.

    python scripts/train.py configs/mask_rcnn_r50_c4.py --workdir runs/mask_rcnn_r50_c4 \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet50-0676ba61.pth

RoIs of 14 x 14 cells pass through res5, and masks are 14 x 14. Training uses 64 RoIs per image and testing 300
proposals. The preset is meant for eight accelerators, as in the paper, and has not been trained here yet. The paper
reports mask AP 30.3 (AP50 51.2, AP75 31.5) on minival (table 2a).
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TestConfig, TrainConfig

config = Config(
    model=ModelConfig(
        neck="c4",
        box_pool_size=14,
        mask_pool_size=14,
    ),
    targets=TargetsConfig(pre_nms_top_n=12_000, post_nms_top_n=2000, roi_samples=64),
    test=TestConfig(pre_nms_top_n=6000, post_nms_top_n=300),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
