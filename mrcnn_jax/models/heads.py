"""The three heads: RPN on the pyramid, box head and mask head on RoIs (paper section 3, figure 4 right)."""

import flax.linen as nn
import jax.numpy as jnp

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.models.fpn import HeadConv
from mrcnn_jax.models.layers import Array, Conv, he_normal, lecun_uniform, per_channel
from mrcnn_jax.models.resnet import compute_dtype

normal_001 = nn.initializers.normal(0.01)


class RpnHead(nn.Module):
    """One level of the pyramid [B, H, W, D] to objectness logits [B, H*W*A] and deltas [B, H*W*A, 4], float32.

    A anchors a cell; the order is row, column, ratio, as `ops.anchors` makes them. All levels share the weights.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, feature: Array) -> tuple[Array, Array]:
        config = self.config
        batch, num_anchors = feature.shape[0], len(config.anchor_ratios)
        dtype = compute_dtype(config)
        x = nn.relu(Conv(config.fpn_channels, 3, kernel_init=normal_001, dtype=dtype, name="conv")(feature))
        logits = Conv(num_anchors, 1, kernel_init=normal_001, dtype=dtype, name="objectness")(x)
        deltas = Conv(4 * num_anchors, 1, kernel_init=normal_001, dtype=dtype, name="deltas")(x)
        return logits.astype(jnp.float32).reshape(batch, -1), deltas.astype(jnp.float32).reshape(batch, -1, 4)


class BoxHead(nn.Module):
    """RoI features [n, 7, 7, D] to class logits [n, C + 1] (0 is background) and deltas [n, C + 1, 4], float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array) -> tuple[Array, Array]:
        config = self.config
        num_logits, dtype = config.num_classes + 1, compute_dtype(config)
        x = roi_features.reshape(roi_features.shape[0], -1)
        for name in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(config.box_head_dim, kernel_init=lecun_uniform, dtype=dtype, name=name)(x))
        logits = nn.Dense(num_logits, kernel_init=normal_001, dtype=dtype, name="logits")(x)
        deltas = nn.Dense(4 * num_logits, kernel_init=nn.initializers.normal(0.001), dtype=dtype, name="deltas")(x)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32).reshape(-1, num_logits, 4)


class MaskHead(nn.Module):
    """RoI features [n, 14, 14, D] and labels [n] to the mask logits [n, 28, 28] of each RoI's label, float32.

    The fully convolutional head of figure 4. Of the last 1x1 convolution only the row of the RoI's own class is
    applied: the same numbers as computing all C + 1 maps and picking one.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array, labels: Array) -> Array:
        config = self.config
        x, dtype = roi_features, compute_dtype(config)
        for index in range(config.mask_head_convs):
            x = nn.relu(HeadConv(config, config.mask_head_dim, 3, he_normal, name=f"conv{index + 1}")(x))
        x = nn.relu(Upconv(config.mask_head_dim, dtype, name="upconv")(x))  # [n, 28, 28, D]
        shape = (config.mask_head_dim, config.num_classes + 1)
        kernel = self.param("kernel", he_normal, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        rows = kernel.T[labels].astype(dtype)  # [n, D]
        logits = jnp.einsum("nhwd,nd->nhw", x, rows, preferred_element_type=jnp.float32)
        return logits + bias[labels][:, None, None]


class Upconv(nn.Module):
    """Transposed 2x2 convolution of stride 2. Windows do not overlap, so it is one matrix product and a reshape."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", he_normal, (2, 2, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = jnp.einsum("nhwc,abcd->nhawbd", x.astype(self.dtype), kernel.astype(self.dtype))
        return x.reshape(batch, 2 * height, 2 * width, self.features) + per_channel(bias.astype(self.dtype))
