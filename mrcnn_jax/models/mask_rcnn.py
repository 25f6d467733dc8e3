"""The Mask R-CNN network: parameters and forward pass, in the parts that `detection` composes."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.models.fpn import FeaturePyramid
from mrcnn_jax.models.heads import BoxHead, KeypointHead, MaskHead, MlpMaskHead, Res5, RpnHead
from mrcnn_jax.models.layers import Array, make_extent, per_channel
from mrcnn_jax.models.resnet import ResNet, compute_dtype

Variables = dict[str, Any]


class MaskRCNN(nn.Module):
    """The Mask R-CNN network. Call its parts through `model.apply(variables, ..., method=model.PART)`.

    Shapes: B images, H x W canvas in pixels, D channels of the features, n RoIs, S side of their features, C classes,
    K keypoints.
    """

    config: ModelConfig
    axis_name: str | None = None
    """Mesh axis over which sync_bn sums its statistics in training; None outside a mesh."""

    def setup(self) -> None:
        config = self.config
        self.backbone = ResNet(config, self.axis_name)
        if config.neck == "fpn":
            self.fpn = FeaturePyramid(config)
        if config.neck == "c4":
            self.res5 = Res5(config)
        self.rpn_head = RpnHead(config)
        self.box_head = BoxHead(config)
        later_stages = range(2, config.box_head_stages + 1)
        self.later_box_heads = [BoxHead(config, name=f"box_head_{number}") for number in later_stages]
        if config.masks:
            self.mask_head = MlpMaskHead(config) if config.mask_head == "mlp" else MaskHead(config)
        if config.num_keypoints:
            self.keypoint_head = KeypointHead(config)

    def normalise(self, images: Array, image_hw: Array) -> Array:
        """Returns the network's input [B, H, W, 3] float32: (pixels - mean) / std, and zero outside the images.

        `images` is [B, H, W, 3] uint8 or float32 RGB in 0..255, and `image_hw` is [B, 2] int32.
        """
        config = self.config
        mean, std = per_channel(jnp.asarray(config.pixel_mean)), per_channel(jnp.asarray(config.pixel_std))
        height, width = images.shape[1:3]
        inside = make_extent(image_hw, (height, width), 1, 1)  # in pixels, not rounded up
        return jnp.where(inside, (images.astype(jnp.float32) - mean) / std, 0.0)

    def extract_backbone_features(self, images: Array, image_hw: Array, train: bool = False) -> tuple[Array, ...]:
        """Returns C2..C5 (C2..C4 with neck C4); without the FPN, they are zero outside the image's extent."""
        pixels = self.normalise(images, image_hw).astype(compute_dtype(self.config))
        return self.backbone(pixels, image_hw, train)

    def extract_features(self, images: Array, image_hw: Array, train: bool = False) -> tuple[Array, ...]:
        """Returns the features for the RPN and the RoIs, each [B, H / stride, W / stride, D]: P2..P6, C4 or C5.

        They are zero outside the image's extent. `images` is [B, H, W, 3] uint8 or float32 RGB in 0..255, and
        `image_hw` is [B, 2] int32. With `train`, sync_bn uses the statistics of the batch.
        """
        backbone_features = self.extract_backbone_features(images, image_hw, train)
        return self.fpn(backbone_features, image_hw) if self.config.neck == "fpn" else backbone_features[-1:]

    def score_anchors(self, features: tuple[Array, ...], image_hw: Array) -> tuple[list[Array], list[Array]]:
        """Returns the objectness logits [B, H*W*A] and the deltas [B, H*W, A*4] of each level of the features."""
        scored = []
        for feature, stride in zip(features, self.config.feature_strides, strict=True):
            height, width = feature.shape[1:3]
            extent = make_extent(image_hw, (height, width), stride, self.config.size_divisor)
            scored.append(self.rpn_head(feature, extent))
        return [logits for logits, _ in scored], [deltas for _, deltas in scored]

    def classify_rois(self, roi_features: Array, stage: int = 0) -> tuple[Array, Array]:
        """Returns class logits [n, C + 1] and deltas [n, C + 1, 4] for RoI features [n, S, S, D].

        In a cascade, `stage` selects the box head, 0 for the first, and the deltas are [n, 1, 4].
        """
        return (self.box_head, *self.later_box_heads)[stage](self._to_heads(roi_features))[1:]

    def predict_masks(self, roi_features: Array, labels: Array) -> Array:
        """Returns the mask logits [n, m, m] of each RoI's own label for RoI features [n, S, S, D].

        For a softmax over classes, which needs all of them, the logits are [n, m, m, C + 1].
        """
        return self.mask_head(self._to_heads(roi_features), labels)

    def predict_keypoints(self, roi_features: Array) -> Array:
        """Returns the keypoints' heat-map logits [n, 4 S, 4 S, K] for RoI features [n, S, S, D]."""
        return self.keypoint_head(roi_features)

    def _to_heads(self, roi_features: Array) -> Array:
        return self.res5(roi_features) if self.config.neck == "c4" else roi_features

    def __call__(self, images: Array, image_hw: Array) -> tuple[Array, ...]:
        """Uses every parameter once, so that `init` creates all of them, and returns the features."""
        config = self.config
        features = self.extract_features(images, image_hw)
        self.score_anchors(features, image_hw)

        def zeros(side: int) -> Array:
            return jnp.zeros((1, side, side, config.feature_channels))

        for stage in range(config.box_head_stages):
            self.classify_rois(zeros(config.box_pool_size), stage)
        if config.masks:
            self.predict_masks(zeros(config.mask_pool_size), jnp.zeros(1, jnp.int32))
        if config.num_keypoints:
            self.predict_keypoints(zeros(config.keypoint_pool_size))
        return features


def init_variables(model: MaskRCNN, seed: int) -> Variables:
    """Returns new variables: `params` and, depending on the norm, `frozen` or `batch_stats`.

    They are the same on every host for a seed. They are drawn by the `rbg` generator, since on a CPU the default one
    costs seconds of compilation per parameter shape.
    """
    images, image_hw = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64, jnp.int32)
    return jit_init(model)(jax.random.key(seed, impl="rbg"), images, image_hw)


@functools.lru_cache(maxsize=8)
def jit_init(model: MaskRCNN) -> Callable[..., Variables]:
    """Returns the jitted `model.init`, cached so that it is traced only once for shapes and values."""
    return jax.jit(model.init)


@functools.lru_cache(maxsize=64)
def variable_shapes(model: MaskRCNN) -> Variables:
    """Returns a `jax.ShapeDtypeStruct` for each of the model's variables, without computing them."""
    return jax.eval_shape(lambda: init_variables(model, 0))


def count_parameters(variables: Variables) -> int:
    """Returns the number of trainable parameters."""
    return int(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])))
