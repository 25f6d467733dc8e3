"""Mask R-CNN, ResNeXt-101 64x4d FPN, on COCO, as in the paper's tables 1, 2a and 3.

    python scripts/train.py configs/mask_rcnn_x101_64x4d_fpn.py --workdir runs/mask_rcnn_x101_64x4d_fpn \
        --data.train data/coco:train --data.val data/coco:val --train.init-from X-101-64x4d.pkl

The paper trains ResNeXt with one image per GPU: batch 8, rate 0.01. The preset is meant for eight accelerators, as in
the paper, and has not been trained here yet. The paper reports mask AP 37.1 (table 1) and box AP 39.8 (table 3) on
test-dev, and mask AP 36.7 on minival (table 2a).
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TrainConfig

config = Config(
    model=ModelConfig(backbone="resnext101_64x4d"),
    targets=TargetsConfig(post_nms_top_n=2000),
    train=TrainConfig(batch_size=8, learning_rate=0.01, num_steps=160_000, decay_steps=(120_000,)),
)
