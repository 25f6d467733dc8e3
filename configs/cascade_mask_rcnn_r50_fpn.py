"""Cascade Mask R-CNN, ResNet-50 FPN, on COCO, with three successive box heads (arXiv 1712.00726).

    python scripts/train.py configs/cascade_mask_rcnn_r50_fpn.py --workdir runs/cascade_mask_rcnn_r50_fpn \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet50-0676ba61.pth

The schedule is Detectron2's 3x, with its short sides of 640 to 800. The preset is meant for eight accelerators and has
not been trained here yet. Detectron2's model zoo reports box AP 44.3 and mask AP 38.5 on val2017, and 42.1 and 36.4
with the 1x schedule and the same short sides.
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TrainConfig

config = Config(
    model=ModelConfig(box_head_stages=3),
    targets=TargetsConfig(post_nms_top_n=2000),
    data=DataConfig(short_sides=(640, 672, 704, 736, 768, 800)),
    train=TrainConfig(num_steps=270_000, decay_steps=(210_000, 250_000)),
)
