"""Mask R-CNN, ResNet-50 FPN, on Cityscapes' eight classes with fine annotations only, as in the paper's table 7.

    python scripts/train.py configs/mask_rcnn_r50_fpn_cityscapes.py --workdir runs/mask_rcnn_r50_fpn_cityscapes \
        --data.train data/cityscapes:train --data.val data/cityscapes:val --train.init-from resnet50-0676ba61.pth

This command computes the official AP:

    python scripts/evaluate.py --weights runs/mask_rcnn_r50_fpn_cityscapes \
        --data data/cityscapes --split val --cityscapes

The preset is meant for eight accelerators, as in the paper, and has not been trained here yet. The paper reports AP
31.5 on val and 26.2 on test (table 7).
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((1024, 2048),)

config = Config(
    model=ModelConfig(num_classes=8),
    targets=TargetsConfig(post_nms_top_n=2000),
    test=TestConfig(short_side=1024, max_side=2048, canvases=CANVASES),
    data=DataConfig(canvases=CANVASES, short_sides=tuple(range(800, 1025, 32)), max_side=2048),
    train=TrainConfig(batch_size=8, learning_rate=0.01, num_steps=24_000, decay_steps=(18_000,), eval_every=2000),
)
