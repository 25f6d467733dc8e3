"""Mask R-CNN, ResNet-50 FPN, on COCO in batches of 256: the 1x schedule on a pod or a cluster.

    python scripts/train.py configs/mask_rcnn_r50_fpn_batch256.py --workdir runs/r50_batch256 \
        --data.train data/coco:train --data.val data/coco:val --train.init-from resnet50-0676ba61.pth

Run the command on every host (docs/clusters.md). The preset is meant for 32 to 256 devices and has not been trained
here yet. For 1x in batches of 16, Detectron2 reports box AP 38.6 and mask AP 35.2 on val2017.

The rate is scaled linearly (Goyal et al., arXiv 1706.02677) to 0.02 for every 16 images of an update, 0.32 here, after
a longer warm-up. MegDet (arXiv 1711.07240) also warms up for batches of 256. The run uses as many images as 1x, 1.44
million, and drops the rate after as many. Others used these settings:

    batch   rate   warm-up   drops at              steps
      128   0.16     625     9,000, 12,000                  MLPerf's reference convergence points: 14 epochs
      128   0.16     250     7,500, 10,000         11,250   tensorflow/tpu v3-32, clipped
      256   0.24   1,800     5,625, 7,500                   MLPerf's reference convergence points: 17 epochs
      256   0.24   2,000     6,000, 8,000                   Google in MLPerf 0.7, TPU v3-1024
      512   0.24   1,600     6,000, 8,000, 10,000  11,250   tensorflow/tpu v2-128, clipped, momentum 0.95

Two choices are our own: the linear rate beyond 128, where none of these followed the rule, and clipping gradients at a
norm of 10 (tensorflow/tpu clips at 0.02 times the root of the number of weights, which is 133 here). The length of the
warm-up is MLPerf's. These options set MLPerf's rate and drops for 256, with half as many steps again:

    --train.learning-rate 0.015 --train.num-steps 8438 --train.decay-steps 5625,7500

These options use the same images in batches of 512 and 1024. None of the references goes beyond 512, and the linear
rates, 0.64 and 1.28, may cost AP or diverge:

    --train.batch-size 512 --train.num-steps 2813 --train.decay-steps 1875,2500 --train.warmup-steps 900
    --train.batch-size 1024 --train.num-steps 1407 --train.decay-steps 938,1250 --train.warmup-steps 450

These are tensorflow/tpu's settings for 512, with four times as many images:

    --train.batch-size 512 --train.learning-rate 0.0075 --train.momentum 0.95 --train.warmup-steps 1600 \
        --train.num-steps 11250 --train.decay-steps 6000,8000,10000

If a batch does not fit into memory, --train.batch-size 64 --train.accumulate-steps 4 also gives updates of 256 images;
multiply every option that counts steps by four.
"""

from mrcnn_jax.config import Config, ModelConfig, TrainConfig

config = Config(
    model=ModelConfig(dtype="bfloat16"),
    train=TrainConfig(
        num_steps=5625,
        batch_size=256,
        rate_batch_size=16,
        warmup_steps=1800,
        decay_steps=(3750, 5000),
        clip_norm=10.0,
        eval_every=1125,
        checkpoint_every=250,
    ),
)
