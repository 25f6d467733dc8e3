"""Mask R-CNN, ResNeXt-101 32x8d FPN, on COCO: the ResNeXt backbone for which Detectron2 publishes weights.

    python scripts/train.py configs/mask_rcnn_x101_32x8d_fpn.py --workdir runs/mask_rcnn_x101_32x8d_fpn \
        --data.train data/coco:train --data.val data/coco:val --train.init-from X-101-32x8d.pkl

The paper trains ResNeXt with one image per GPU: batch 8, rate 0.01. The preset is meant for eight accelerators, as in
the paper, and has not been trained here yet. Detectron2's model zoo reports box AP 44.3 and mask AP 39.5 on val2017
with a 3x schedule.
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TrainConfig

config = Config(
    model=ModelConfig(backbone="resnext101_32x8d"),
    targets=TargetsConfig(post_nms_top_n=2000),
    train=TrainConfig(batch_size=8, learning_rate=0.01, num_steps=160_000, decay_steps=(120_000,)),
)
