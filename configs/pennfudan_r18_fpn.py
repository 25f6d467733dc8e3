"""Pedestrians in street photographs (Penn-Fudan): one class, a hundred training pictures; small enough for a CPU.

    python scripts/prepare_data.py coco --images DIR/images --annotations DIR/train.json --to data/people --split train
    python scripts/prepare_data.py coco --images DIR/images --annotations DIR/val.json --to data/people --split val
    python scripts/train.py configs/pennfudan_r18_fpn.py --workdir runs/pennfudan \
        --data.train data/people:train --data.val data/people:val

From scratch, or from a ResNet-18 body with `--train.init-from resnet18.npz --model.norm frozen_bn`.
Time on two CPU cores: not measured yet. Box and mask AP: not measured yet.
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((320, 416), (416, 320))

config = Config(
    model=ModelConfig(
        backbone="resnet18",
        num_classes=0,
        norm="group_norm",
        head_norm="group_norm",
        freeze_at=0,
        fpn_channels=128,
        anchor_sizes=(32.0, 64.0, 128.0, 192.0, 256.0),
        anchor_ratios=(1.0, 2.0, 3.0),
        box_head_dim=256,
        mask_head_dim=128,
    ),
    targets=TargetsConfig(pre_nms_top_n=500, post_nms_top_n=300, roi_samples=128),
    test=TestConfig(
        short_side=320,
        max_side=416,
        canvases=CANVASES,
        pre_nms_top_n=500,
        post_nms_top_n=300,
        max_candidates=500,
    ),
    data=DataConfig(canvases=CANVASES, short_sides=(272, 288, 304, 320), max_side=416, max_objects=20),
    train=TrainConfig(
        num_steps=1500,
        batch_size=4,
        learning_rate=0.01,
        warmup_steps=200,
        decay_steps=(1100, 1400),
        eval_every=500,
        checkpoint_every=250,
    ),
)
