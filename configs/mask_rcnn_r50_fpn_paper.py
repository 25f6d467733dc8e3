"""Mask R-CNN, ResNet-50 FPN, on COCO as in the paper (section 3.1): 160,000 steps, drop at 120,000.

Batch 16, rate 0.02, 512 RoIs 1:3 per image and 1000 test proposals are the defaults. Training proposals are 2000 an
image as in the original code.

    python scripts/train.py configs/mask_rcnn_r50_fpn_paper.py --workdir runs/r50_paper \
        --data.train DIR:train --data.val DIR:val --train.init-from resnet50.npz

Needs an ImageNet backbone. Hardware and time: not measured yet. Box and mask AP on val2017: not measured yet.
"""

from mrcnn_jax.config import Config, TargetsConfig, TrainConfig

config = Config(
    targets=TargetsConfig(post_nms_top_n=2000),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
