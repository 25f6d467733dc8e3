"""Keypoints of people without masks, ResNet-50 FPN, as in the paper's tables 4 to 6.

    python scripts/train.py configs/keypoint_rcnn_r50_fpn.py --workdir runs/keypoint_rcnn_r50_fpn \
        --data.train data/people:train --data.val data/people:val --train.init-from resnet50-0676ba61.pth

The data are prepared from person_keypoints_train2017.json with --annotated-only. Short sides are 640 to 800 in training
and 800 in testing, and the rate drops at steps 60,000 and 80,000 of 90,000. The preset is meant for eight accelerators,
as in the paper, and has not been trained here yet. The paper reports keypoint AP 62.7 on test-dev (table 4), and box AP
50.7 and keypoint AP 64.2 on minival (table 5).
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig

config = Config(
    model=ModelConfig(num_classes=1, masks=False, num_keypoints=17),
    targets=TargetsConfig(post_nms_top_n=2000),
    data=DataConfig(short_sides=tuple(range(640, 801, 32))),
)
