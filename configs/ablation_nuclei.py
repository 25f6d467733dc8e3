"""Base of the ablations on nuclei: a small network on small images, so that a run takes minutes.

    python scripts/prepare_data.py coco --images DIR/images --annotations DIR/train.json --to data/nuclei --split train
    python scripts/prepare_data.py coco --images DIR/images --annotations DIR/val.json --to data/nuclei --split val
    python scripts/reproduce_ablations.py --to runs/ablations --nuclei data/nuclei

The network is trained from scratch, and docs/ablations.md lists the scores. A run takes two to three minutes on one CPU
core.
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((160, 160), (160, 224), (224, 160))

config = Config(
    model=ModelConfig(
        backbone="resnet18",
        backbone_width=32,
        num_classes=0,
        norm="group_norm",
        head_norm="group_norm",
        freeze_at=0,
        fpn_channels=64,
        anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
        box_head_dim=256,
        mask_head_dim=64,
        mask_head_convs=2,
        mask_head_fc_dim=256,
    ),
    targets=TargetsConfig(pre_nms_top_n=500, post_nms_top_n=300, roi_samples=96),
    test=TestConfig(
        short_side=160,
        max_side=224,
        canvases=CANVASES,
        batch_size=4,
        pre_nms_top_n=600,
        post_nms_top_n=300,
        max_candidates=600,
        max_detections=200,
    ),
    data=DataConfig(canvases=CANVASES, short_sides=(144, 160), max_side=224, max_objects=150, mask_size=56),
    train=TrainConfig(
        num_steps=150,
        batch_size=4,
        learning_rate=0.02,
        warmup_steps=40,
        decay_steps=(105, 135),
        eval_every=0,
        checkpoint_every=150,
        log_every=50,
        num_pictures=4,
    ),
)
