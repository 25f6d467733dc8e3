"""Base of the ablations on generated images: a small Mask R-CNN on overlapping shapes with thin parts.

    python scripts/reproduce_ablations.py --to runs/ablations

The network is trained from scratch, and docs/ablations.md lists the scores. A run takes two to four minutes on one CPU
core.
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((128, 128),)

config = Config(
    model=ModelConfig(
        backbone="resnet18",
        backbone_width=32,
        num_classes=0,
        norm="group_norm",
        head_norm="group_norm",
        freeze_at=0,
        fpn_channels=64,
        anchor_sizes=(16.0, 32.0, 48.0, 64.0, 96.0),
        box_head_dim=256,
        mask_head_dim=64,
        mask_head_convs=2,
        mask_head_fc_dim=256,
    ),
    targets=TargetsConfig(rpn_samples=128, pre_nms_top_n=300, post_nms_top_n=150, roi_samples=48),
    test=TestConfig(
        short_side=128,
        max_side=128,
        canvases=CANVASES,
        batch_size=4,
        pre_nms_top_n=300,
        post_nms_top_n=150,
        max_candidates=600,
        max_detections=50,
    ),
    data=DataConfig(canvases=CANVASES, short_sides=(128,), max_side=128, max_objects=12, mask_size=56),
    train=TrainConfig(
        num_steps=500,
        batch_size=4,
        learning_rate=0.02,
        warmup_steps=50,
        decay_steps=(350, 450),
        eval_every=0,
        checkpoint_every=500,
        log_every=50,
        num_pictures=4,
    ),
)
