"""The quickstart: a small Mask R-CNN on generated images of overlapping shapes, from scratch, on two CPU cores.

    python scripts/prepare_data.py shapes --to runs/quickstart/data
    python scripts/train.py configs/shapes_tiny.py --workdir runs/quickstart \
        --data.train runs/quickstart/data:train --data.val runs/quickstart/data:val

On 100 validation images, it reached box AP 0.663, mask AP 0.661 and mask AP50 0.899. The batch of 2 is for one or two
devices. An earlier version of the code reached mask AP 0.654; tested at 128 px, the size on which it is trained,
0.596; with `--train.num-steps 2000`, 0.548.
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((128, 128),)
TEST_CANVASES = ((160, 160),)
"""Larger than the training canvases: small objects are detected better, at no cost in training."""

config = Config(
    model=ModelConfig(
        backbone="resnet10",
        backbone_width=16,
        num_classes=0,
        norm="group_norm",
        head_norm="group_norm",
        freeze_at=0,
        fpn_channels=32,
        anchor_sizes=(16.0, 32.0, 48.0, 64.0, 96.0),
        box_head_dim=256,
        mask_head_dim=32,
        mask_head_convs=2,
    ),
    targets=TargetsConfig(
        rpn_samples=128, pre_nms_top_n=300, post_nms_top_n=150, roi_samples=64, roi_foreground_fraction=0.5
    ),
    test=TestConfig(
        short_side=160,
        max_side=160,
        canvases=TEST_CANVASES,
        batch_size=4,
        pre_nms_top_n=300,
        post_nms_top_n=150,
        max_candidates=600,
    ),
    data=DataConfig(canvases=CANVASES, short_sides=(128,), max_side=128, max_objects=12, mask_size=56),
    train=TrainConfig(
        num_steps=3000,
        batch_size=2,
        optimizer="adamw",
        learning_rate=0.003,
        weight_decay=0.05,
        schedule="cosine",
        warmup_steps=100,
        decay_steps=(),
        clip_norm=10.0,
        ema_decay=0.998,
        eval_every=0,
        checkpoint_every=750,
    ),
)
