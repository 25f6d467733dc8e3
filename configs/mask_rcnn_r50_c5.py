"""Mask R-CNN, ResNet-50 C5, with RoIAlign at a stride of 32, as in the paper's table 2d.

    python scripts/train.py configs/mask_rcnn_r50_c5.py --workdir runs/mask_rcnn_r50_c5 \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet50-0676ba61.pth

The RPN and the RoIs use the last stage at stride 32. The paper does not specify the heads; these are those of the FPN.
The preset is meant for eight accelerators, as in the paper, and has not been trained here yet. The paper reports mask
AP 30.9 and box AP 34.0 on minival (table 2d).
"""

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TestConfig, TrainConfig

config = Config(
    model=ModelConfig(neck="c5"),
    targets=TargetsConfig(pre_nms_top_n=12_000, post_nms_top_n=2000),
    test=TestConfig(pre_nms_top_n=6000),
    train=TrainConfig(num_steps=160_000, decay_steps=(120_000,)),
)
