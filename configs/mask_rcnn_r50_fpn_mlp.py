"""Mask R-CNN, ResNet-50 FPN, with an MLP of two hidden layers for masks, as in the paper's table 2e.

    python scripts/train.py configs/mask_rcnn_r50_fpn_mlp.py --workdir runs/mask_rcnn_r50_fpn_mlp \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet50-0676ba61.pth

The preset is meant for eight accelerators, as in the paper, and has not been trained here yet. The paper reports mask
AP 31.5 on minival, and 33.6 with convolutions (table 2e).
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TrainConfig

config = Config(
    model=ModelConfig(mask_head="mlp"),
    targets=TargetsConfig(post_nms_top_n=2000),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
