"""Mask R-CNN, ResNet-50 C4, with one mask for all classes: the paper's section 4.2.

    python scripts/train.py configs/mask_rcnn_r50_c4_agnostic.py --workdir runs/mask_rcnn_r50_c4_agnostic \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet50-0676ba61.pth

Meant for eight accelerators, as in the paper. Not trained here yet. Published: mask AP 29.7, class-specific 30.3, on
minival.
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TestConfig, TrainConfig

config = Config(
    model=ModelConfig(neck="c4", box_pool_size=14, mask_pool_size=14, class_agnostic_masks=True),
    targets=TargetsConfig(pre_nms_top_n=12_000, post_nms_top_n=2000, roi_samples=64),
    test=TestConfig(pre_nms_top_n=6000, post_nms_top_n=300),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
