"""Person boxes, masks and keypoints in one small model, for a handful of images on two CPU cores.

    JAX_NUM_CPU_DEVICES=2 python scripts/train.py configs/people_tiny.py --workdir runs/people \
        --data.train data/people:train --data.val data/people:train

The network is trained from scratch, with 17 keypoints per person, as in COCO's person_keypoints. In
tests/slow/test_people.py, which overfits on sixteen images of large people from COCO's person_keypoints and requires
mask AP 0.7 and keypoint AP 0.8, it reached box AP 0.941, mask AP 0.858 and keypoint AP 0.931 after 13 minutes on two
CPU cores.
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((288, 288),)

config = Config(
    model=ModelConfig(
        backbone="resnet18",
        backbone_width=32,
        num_classes=0,
        norm="group_norm",
        head_norm="group_norm",
        freeze_at=0,
        fpn_channels=64,
        anchor_sizes=(32.0, 64.0, 96.0, 160.0, 256.0),
        anchor_ratios=(1.0, 2.0, 3.0),
        box_head_dim=256,
        mask_head_dim=64,
        mask_head_convs=2,
        num_keypoints=17,
        keypoint_head_dim=128,
        keypoint_head_convs=3,
    ),
    targets=TargetsConfig(rpn_samples=128, pre_nms_top_n=300, post_nms_top_n=150, roi_samples=64),
    test=TestConfig(
        short_side=288,
        max_side=288,
        canvases=CANVASES,
        batch_size=2,
        pre_nms_top_n=300,
        post_nms_top_n=150,
        max_candidates=600,
        max_detections=20,
    ),
    data=DataConfig(canvases=CANVASES, short_sides=(288,), max_side=288, flip_probability=0.0, max_objects=20),
    train=TrainConfig(
        num_steps=800,
        batch_size=4,
        learning_rate=0.02,
        warmup_steps=100,
        decay_steps=(600, 720),
        eval_every=0,
        checkpoint_every=400,
        log_every=50,
    ),
)
