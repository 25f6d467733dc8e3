"""Boxes of people alone, ResNet-50 FPN: the paper's table 5.

    python scripts/train.py configs/person_faster_rcnn_r50_fpn.py --workdir runs/person_faster_rcnn_r50_fpn \
        --data.train data/people:train --data.val data/people:val --train.init-from resnet50-0676ba61.pth

Prepared from person_keypoints_train2017.json with --annotated-only. Short sides of 640 to 800 in training, 800 in
testing; 90,000 steps, drops at 60k and 80k. Meant for eight accelerators, as in the paper. Not trained here yet.
Published: table 5, box AP 52.5 on minival.
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig

config = Config(
    model=ModelConfig(num_classes=1, masks=False),
    targets=TargetsConfig(post_nms_top_n=2000),
    data=DataConfig(short_sides=tuple(range(640, 801, 32))),
)
