"""Mask R-CNN, ResNet-50 FPN, on Cityscapes, starting from COCO weights, as in the paper's table 7.

    python scripts/train.py configs/mask_rcnn_r50_fpn_cityscapes_coco.py --workdir runs/cityscapes_coco \
        --data.train data/cityscapes:train --data.val data/cityscapes:val --train.init-from runs/r50_1x

This command computes the official AP:

    python scripts/evaluate.py --weights runs/cityscapes_coco \
        --data data/cityscapes --split val --cityscapes

The preset is meant for eight accelerators, as in the paper, and has not been trained here yet. The paper reports AP
36.4 on val and 32.0 on test (table 7).
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((1024, 2048),)

config = Config(
    model=ModelConfig(num_classes=8),
    targets=TargetsConfig(post_nms_top_n=2000),
    test=TestConfig(short_side=1024, max_side=2048, canvases=CANVASES),
    data=DataConfig(canvases=CANVASES, short_sides=tuple(range(800, 1025, 32)), max_side=2048),
    train=TrainConfig(batch_size=8, learning_rate=0.01, num_steps=4000, decay_steps=(3000,), eval_every=1000),
)
