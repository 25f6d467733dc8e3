"""The network of Mask R-CNN: parameters and forward pass, in the four parts that `detection` composes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.models.fpn import FeaturePyramid
from mrcnn_jax.models.heads import BoxHead, MaskHead, RpnHead
from mrcnn_jax.models.layers import Array, per_channel
from mrcnn_jax.models.resnet import ResNet, compute_dtype

Variables = dict[str, Any]


class MaskRCNN(nn.Module):
    """Mask R-CNN with an FPN body. Call the parts through `model.apply(variables, ..., method=model.PART)`.

    Shapes: B images, H x W canvas in pixels, D pyramid channels, n RoIs, C classes.
    """

    config: ModelConfig
    axis_name: str | None = None
    """Mesh axis over which sync_bn sums its statistics in training; None outside of a mesh."""

    def setup(self) -> None:
        self.backbone = ResNet(self.config, self.axis_name)
        self.fpn = FeaturePyramid(self.config)
        self.rpn_head = RpnHead(self.config)
        self.box_head = BoxHead(self.config)
        self.mask_head = MaskHead(self.config)

    def extract_features(self, images: Array, image_hw: Array, train: bool = False) -> tuple[Array, ...]:
        """Returns P2..P6, each [B, H / stride, W / stride, D], zero outside the picture's own 32-multiple extent.

        `images` [B, H, W, 3] uint8 RGB, `image_hw` [B, 2] int32. With `train` sync_bn uses the batch's statistics.
        """
        config = self.config
        mean, std = per_channel(jnp.asarray(config.pixel_mean)), per_channel(jnp.asarray(config.pixel_std))
        inside = _inside_picture(images.shape[1:3], image_hw)
        pixels = jnp.where(inside, (images.astype(jnp.float32) - mean) / std, 0.0).astype(compute_dtype(config))
        return self.fpn(self.backbone(pixels, image_hw, train), image_hw)

    def score_anchors(self, pyramid: tuple[Array, ...]) -> tuple[list[Array], list[Array]]:
        """Returns per level objectness logits [B, H*W*A] and deltas [B, H*W*A, 4]."""
        scored = [self.rpn_head(feature) for feature in pyramid]
        return [logits for logits, _ in scored], [deltas for _, deltas in scored]

    def classify_rois(self, roi_features: Array) -> tuple[Array, Array]:
        """Returns class logits [n, C + 1] and deltas [n, C + 1, 4] of features [n, 7, 7, D]."""
        return self.box_head(roi_features)

    def predict_masks(self, roi_features: Array, labels: Array) -> Array:
        """Returns the mask logits [n, 28, 28] of each RoI's own label, from features [n, 14, 14, D]."""
        return self.mask_head(roi_features, labels)

    def __call__(self, images: Array, image_hw: Array) -> tuple[Array, ...]:
        """Touches every parameter once, for initialisation; returns P2..P6."""
        config = self.config
        pyramid = self.extract_features(images, image_hw)
        self.score_anchors(pyramid)
        self.classify_rois(jnp.zeros((1, config.box_pool_size, config.box_pool_size, config.fpn_channels)))
        side = config.mask_pool_size
        self.predict_masks(jnp.zeros((1, side, side, config.fpn_channels)), jnp.zeros(1, jnp.int32))
        return pyramid


def _inside_picture(canvas: tuple[int, ...], image_hw: Array) -> Array:
    """Returns [B, H, W, 1] bool."""
    rows = jnp.arange(canvas[0])[None, :] < image_hw[:, :1]
    columns = jnp.arange(canvas[1])[None, :] < image_hw[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def init_variables(model: MaskRCNN, seed: int) -> Variables:
    """Returns fresh variables, the same for a seed on every host: `params` and, by the norm, `frozen` or `batch_stats`.

    Drawn by the `rbg` generator: on a CPU the default one costs seconds of compilation per parameter shape.
    """
    images, image_hw = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64, jnp.int32)
    return jax.jit(model.init)(jax.random.key(seed, impl="rbg"), images, image_hw)


def count_parameters(variables: Variables) -> int:
    """Returns the number of trainable parameters."""
    return int(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])))
