"""Cell nuclei in microscopy: one class, up to hundreds of small objects a picture; small enough for a CPU.

    python scripts/prepare_data.py coco --images DIR/images --annotations DIR/train.json --to data/nuclei --split train
    python scripts/prepare_data.py coco --images DIR/images --annotations DIR/val.json --to data/nuclei --split val
    JAX_NUM_CPU_DEVICES=2 python scripts/train.py configs/nuclei_r18_fpn.py --workdir runs/nuclei \
        --data.train data/nuclei:train --data.val data/nuclei:val

From scratch. `JAX_NUM_CPU_DEVICES=2` uses two cores well. Measured on two shared CPU cores, on the 112 validation
pictures of the Data Science Bowl 2018 with 500 detections each: box AP 0.483, mask AP 0.505, mask AP50 0.787 after 15
minutes (23 minutes of CPU time), start and evaluation included.
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((384, 384), (384, 512))

config = Config(
    model=ModelConfig(
        backbone="resnet18",
        body_width=32,
        num_classes=0,
        norm="group_norm",
        head_norm="group_norm",
        freeze_at=0,
        fpn_channels=64,
        anchor_sizes=(12.0, 24.0, 48.0, 96.0, 192.0),
        box_head_dim=256,
        mask_head_dim=64,
        mask_head_convs=2,
    ),
    targets=TargetsConfig(pre_nms_top_n=1000, post_nms_top_n=500, roi_samples=128),
    test=TestConfig(
        short_side=384,
        max_side=512,
        canvases=CANVASES,
        post_nms_top_n=1000,
        max_detections=500,
        max_candidates=1000,
    ),
    data=DataConfig(canvases=CANVASES, short_sides=(288, 336, 384), max_side=512, max_objects=400, mask_size=56),
    train=TrainConfig(
        num_steps=700,
        batch_size=4,
        learning_rate=0.02,
        warmup_steps=100,
        decay_steps=(500, 620),
        eval_every=0,
        checkpoint_every=200,
    ),
)
