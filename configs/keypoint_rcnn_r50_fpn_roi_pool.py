"""Keypoints of people, ResNet-50 FPN, with RoIPool, as in the paper's table 6.

    python scripts/train.py configs/keypoint_rcnn_r50_fpn_roi_pool.py --workdir runs/keypoint_rcnn_r50_fpn_roi_pool \
        --data.train data/people:train --data.val data/people:val --train.init-from resnet50-0676ba61.pth

The data are prepared from person_keypoints_train2017.json with --annotated-only. Short sides are 640 to 800 in training
and 800 in testing, and the rate drops at steps 60,000 and 80,000 of 90,000. The preset is meant for eight accelerators,
as in the paper, and has not been trained here yet. The paper reports keypoint AP 59.8 on minival, and 64.2 with
RoIAlign (table 6).
"""

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig

config = Config(
    model=ModelConfig(num_classes=1, masks=False, num_keypoints=17, roi_op="pool", roi_reduce="max"),
    targets=TargetsConfig(post_nms_top_n=2000),
    data=DataConfig(short_sides=tuple(range(640, 801, 32))),
)
