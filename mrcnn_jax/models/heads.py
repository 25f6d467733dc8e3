"""The heads: RPN on the maps; box, mask and keypoint head on RoIs (paper section 3, figure 4; section 5 for keypoints).

Shapes: n RoIs, S side of the RoI features, D their channels, C classes, K keypoints.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.models.fpn import HeadConv
from mrcnn_jax.models.layers import Array, Conv, he_normal, lecun_uniform, per_channel
from mrcnn_jax.models.resnet import apply_stage, compute_dtype

normal_001 = nn.initializers.normal(0.01)


class RpnHead(nn.Module):
    """One map [B, H, W, D] to objectness logits [B, H*W*A] and deltas [B, H*W, A*4], float32.

    A anchors a cell; the order is row, column, size, ratio, as `ops.anchors` makes them. All levels share the weights.
    The deltas of a cell stay one row: `ops.anchors.take_deltas` says why.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, feature: Array) -> tuple[Array, Array]:
        config = self.config
        batch, num_anchors = feature.shape[0], config.anchors_per_cell
        x, dtype = feature, compute_dtype(config)
        for index in range(config.rpn_convs):
            name = "conv" if index == 0 else f"conv{index + 1}"
            x = nn.relu(Conv(config.map_channels, 3, kernel_init=normal_001, dtype=dtype, name=name)(x))
        logits = Conv(num_anchors, 1, kernel_init=normal_001, dtype=dtype, name="objectness")(x)
        deltas = Conv(4 * num_anchors, 1, kernel_init=normal_001, dtype=dtype, name="deltas")(x)
        logits, deltas = logits.astype(jnp.float32), deltas.astype(jnp.float32)
        return logits.reshape(batch, -1), deltas.reshape(batch, -1, 4 * num_anchors)


class Res5(nn.Module):
    """RoI features [n, S, S, D] to [n, S / 2, S / 2, 2 D]: the last stage, which with C4 belongs to the heads."""

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array) -> Array:
        everywhere = jnp.ones((1, 1, 1, 1), bool)
        x = roi_features.astype(compute_dtype(self.config))
        return apply_stage(self.config, 3, x, everywhere, everywhere, stride=2, train=False, axis_name=None)


class BoxHead(nn.Module):
    """RoI features [n, S, S, D] to hidden features [n, box_head_dim] and what the last two layers make of them: class
    logits [n, C + 1] (0 is background) and deltas [n, C + 1, 4], in a cascade [n, 1, 4], all float32.

    Hidden layers are convolutions and fully connected layers; with C4, whose RoIs went through res5, the mean.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array) -> tuple[Array, Array, Array]:
        config = self.config
        num_logits, dtype = config.num_classes + 1, compute_dtype(config)
        x = roi_features
        if config.neck == "c4":
            # XLA for CPUs fuses a sum with the ReLU before it and makes 0 of NaN; not with this between the two.
            x = jnp.where(jnp.isnan(x), jnp.nan, x).mean(axis=(1, 2))
        else:
            for index in range(config.box_head_convs):
                x = nn.relu(HeadConv(config, config.box_head_conv_dim, 3, he_normal, name=f"conv{index + 1}")(x))
            x = x.reshape(x.shape[0], -1)
            for index in range(config.box_head_fcs):
                fc = nn.Dense(config.box_head_dim, kernel_init=lecun_uniform, dtype=dtype, name=f"fc{index + 1}")
                x = nn.relu(fc(x))
        logits = nn.Dense(num_logits, kernel_init=normal_001, dtype=dtype, name="logits")(x)
        num_deltas = config.num_box_deltas
        deltas = nn.Dense(4 * num_deltas, kernel_init=nn.initializers.normal(0.001), dtype=dtype, name="deltas")(x)
        hidden, logits, deltas = (output.astype(jnp.float32) for output in (x, logits, deltas))
        return hidden, logits, deltas.reshape(-1, num_deltas, 4)


class MaskHead(nn.Module):
    """RoI features [n, S, S, D] and labels [n] to mask logits, float32: [n, 2 S, 2 S] of each RoI's own label, or, for
    a softmax over classes, [n, 2 S, 2 S, C + 1].

    The fully convolutional head of figure 4. Of the last 1x1 convolution only the row of the RoI's own class is
    applied: the same numbers as computing all C + 1 maps and picking one. With C4 res5 stands before the deconvolution.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array, labels: Array) -> Array:
        config = self.config
        x, dtype = roi_features, compute_dtype(config)
        for index in range(0 if config.neck == "c4" else config.mask_head_convs):
            x = nn.relu(HeadConv(config, config.mask_head_dim, 3, he_normal, name=f"conv{index + 1}")(x))
        x = nn.relu(Upconv(config.mask_head_dim, dtype, name="upconv")(x))  # [2, 2, n, S, S, D]
        shape = (config.mask_head_dim, config.num_mask_maps)
        kernel = self.param("kernel", he_normal, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        if config.mask_activation == "softmax":
            maps = jnp.einsum("abnhwd,dc->abnhwc", x, kernel.astype(dtype), preferred_element_type=jnp.float32)
            return interleave(maps) + per_channel(bias)
        own = jnp.zeros_like(labels) if config.class_agnostic_masks else labels
        rows = kernel.T[own].astype(dtype)  # [n, D]
        logits = jnp.einsum("abnhwd,nd->abnhw", x, rows, preferred_element_type=jnp.float32)
        return interleave(logits[..., None])[..., 0] + bias[own][:, None, None]


class MlpMaskHead(nn.Module):
    """What table 2e compares the convolutional head with: the same inputs and outputs, by fully connected layers.

    Each of the last layer's outputs is one pixel of one class.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array, labels: Array) -> Array:
        config = self.config
        x, dtype, side = roi_features, compute_dtype(config), config.mask_size
        x = x.reshape(x.shape[0], -1)
        for index in range(config.mask_head_fcs):
            fc = nn.Dense(config.mask_head_fc_dim, kernel_init=lecun_uniform, dtype=dtype, name=f"fc{index + 1}")
            x = nn.relu(fc(x))
        count = config.num_mask_maps
        maps = nn.Dense(side * side * count, kernel_init=normal_001, dtype=dtype, name="logits")(x)
        maps = maps.astype(jnp.float32).reshape(-1, side, side, count)
        if config.mask_activation == "softmax":
            return maps
        own = jnp.zeros_like(labels) if config.class_agnostic_masks else labels
        return jnp.take_along_axis(maps, own[:, None, None, None], axis=3)[..., 0]


class Upconv(nn.Module):
    """Transposed 2x2 convolution of stride 2. Windows do not overlap, so it is one matrix product.

    Returns [2, 2, n, S, S, D] of [n, S, S, C]: rows and columns, even and odd ones apart. What follows is done cell by
    cell, so that `interleave` can put single values into their order instead of D of them.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", he_normal, (2, 2, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = jnp.einsum("nhwc,abcd->abnhwd", x.astype(self.dtype), kernel.astype(self.dtype))
        return x + bias.astype(self.dtype)[None, None, None, None, None, :]


def interleave(x: Array) -> Array:
    """Returns [n, 2 S, 2 S, D] of [2, 2, n, S, S, D], rows and columns that lie apart."""
    _, _, batch, height, width, channels = x.shape
    return x.transpose(2, 3, 0, 4, 1, 5).reshape(batch, 2 * height, 2 * width, channels)


class KeypointHead(nn.Module):
    """RoI features [n, S, S, D] to the heat maps' logits [n, 4 S, 4 S, K], float32 (section 5).

    3x3 convolutions, a transposed 4x4 convolution of stride 2, and a bilinear doubling.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array) -> Array:
        config = self.config
        x, dtype = roi_features, compute_dtype(config)
        for index in range(config.keypoint_head_convs):
            conv = Conv(config.keypoint_head_dim, 3, kernel_init=he_normal, dtype=dtype, name=f"conv{index + 1}")
            x = nn.relu(conv(x))
        kernel = self.param("kernel", he_normal, (4, 4, x.shape[-1], config.num_keypoints), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (config.num_keypoints,), jnp.float32)
        x = jax.lax.conv_general_dilated(
            x.astype(dtype),
            kernel.astype(dtype),
            (1, 1),
            [(2, 2)] * 2,
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # [n, 2 S, 2 S, K]
        x = x.astype(jnp.float32) + per_channel(bias)
        shape = (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3])
        return jax.image.resize(x, shape, "linear")
