"""Cell nuclei in microscopy images: one class, up to hundreds of small objects per image; small enough for a CPU.

    python scripts/prepare_data.py coco --images DIR/images --annotations DIR/train.json --to data/nuclei --split train
    python scripts/prepare_data.py coco --images DIR/images --annotations DIR/val.json --to data/nuclei --split val
    JAX_NUM_CPU_DEVICES=2 python scripts/train.py configs/nuclei_r18_fpn.py --workdir runs/nuclei \
        --data.train data/nuclei:train --data.val data/nuclei:val

The network is trained from scratch. `JAX_NUM_CPU_DEVICES=2` makes good use of two cores; the batch of 2 is for one or
two devices. On two shared CPU cores, it reached box AP 0.487, mask AP 0.513 and mask AP50 0.804 on the 112 validation
images of the Data Science Bowl 2018, with 500 detections each, after 12.3 minutes, including start and evaluation. Runs
that differ only by rounding differ by up to 0.006 in AP50.
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((384, 384),)
TEST_CANVASES = ((512, 512),)
"""Larger than the training canvases: objects of a few pixels are detected better, at no cost in training."""

config = Config(
    model=ModelConfig(
        backbone="resnet18",
        backbone_width=16,
        num_classes=0,
        norm="group_norm",
        head_norm="group_norm",
        freeze_at=0,
        fpn_channels=32,
        anchor_sizes=(12.0, 24.0, 48.0, 96.0, 192.0),
        box_head_dim=256,
        mask_head_dim=32,
        mask_head_convs=2,
    ),
    targets=TargetsConfig(pre_nms_top_n=1000, post_nms_top_n=500, roi_samples=64, roi_foreground_fraction=0.5),
    test=TestConfig(
        short_side=512,
        max_side=512,
        canvases=TEST_CANVASES,
        post_nms_top_n=1000,
        max_detections=500,
        max_candidates=1000,
    ),
    data=DataConfig(canvases=CANVASES, short_sides=(320, 352, 384), max_side=384, max_objects=400, mask_size=56),
    train=TrainConfig(
        num_steps=1350,
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
        checkpoint_every=450,
    ),
)
