"""Mask R-CNN, ResNet-50 C5, with RoIPool on a stride of 32: the paper's table 2d.

    python scripts/train.py configs/mask_rcnn_r50_c5_roi_pool.py --workdir runs/mask_rcnn_r50_c5_roi_pool \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet50-0676ba61.pth

RPN and RoIs see the last stage at stride 32. The paper does not say which heads: here those of the FPN. Meant for
eight accelerators, as in the paper. Not trained here yet. Published: table 2d, mask AP 23.6, box AP 28.2 on minival.
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TestConfig, TrainConfig

config = Config(
    model=ModelConfig(neck="c5", roi_op="pool", roi_reduce="max"),
    targets=TargetsConfig(pre_nms_top_n=12_000, post_nms_top_n=2000),
    test=TestConfig(pre_nms_top_n=6000),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
