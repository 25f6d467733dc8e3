"""Mask R-CNN, ResNet-50 FPN, on COCO as in the paper (section 3.1): 160,000 steps, with a rate drop at 120,000.

The defaults are batch 16, rate 0.02, 512 RoIs per image at 1:3 and 1000 test proposals. Training uses 2000 proposals
per image, as in the original code.

    python scripts/train.py configs/mask_rcnn_r50_fpn_paper.py --workdir runs/r50_paper \
        --data.train DIR:train --data.val DIR:val --train.init-from resnet50.npz

The run starts from an ImageNet backbone. The preset has not been trained here yet, so time and AP are not measured.
"""

from mrcnn_jax.config import Config, TargetsConfig, TrainConfig

config = Config(
    targets=TargetsConfig(post_nms_top_n=2000),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
