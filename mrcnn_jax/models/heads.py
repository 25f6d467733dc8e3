"""The heads: the RPN on features; box, mask and keypoint head on RoIs (paper section 3, figure 4, and section 5).

Shapes: n RoIs, S side of the RoI features, D their channels, C classes, K keypoints.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.models.convolution import add_bias, largest_divisor
from mrcnn_jax.models.fpn import HeadConv
from mrcnn_jax.models.layers import Array, Conv, he_normal, lecun_uniform, per_channel, relu, zero_outside
from mrcnn_jax.models.resnet import apply_stage, compute_dtype
from mrcnn_jax.platforms import choose_form

PART_ROIS = 4
"""RoIs whose masks a CPU computes at a time."""

normal_001 = nn.initializers.normal(0.01)


class RpnHead(nn.Module):
    """Computes objectness logits [B, H*W*A] and deltas [B, H*W, A*4], float32, from one level [B, H, W, D].

    Anchors, A per cell, are ordered by row, column, size and ratio, as in `ops.anchors`. All levels share the weights.
    The deltas of a cell stay in one row, for the reason given in `ops.anchors.take_deltas`. `extent` [B, H, W, 1] is
    True inside the image: further convolutions read the output of the first, which has to be zero outside it.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, feature: Array, extent: Array) -> tuple[Array, Array]:
        config = self.config
        batch, num_anchors = feature.shape[0], config.anchors_per_cell
        x, dtype = feature, compute_dtype(config)
        for index in range(config.rpn_convs):
            name = "conv" if index == 0 else f"conv{index + 1}"
            x = zero_outside(x, extent) if index > 0 else x
            x = relu(Conv(config.feature_channels, 3, kernel_init=normal_001, dtype=dtype, name=name)(x))
        logits = Conv(num_anchors, 1, kernel_init=normal_001, dtype=dtype, name="objectness")(x)
        deltas = Conv(4 * num_anchors, 1, kernel_init=normal_001, dtype=dtype, name="deltas")(x)
        logits, deltas = logits.astype(jnp.float32), deltas.astype(jnp.float32)
        return logits.reshape(batch, -1), deltas.reshape(batch, -1, 4 * num_anchors)


class Res5(nn.Module):
    """Computes [n, S / 2, S / 2, 2 D] from RoI features [n, S, S, D]: the last stage, which C4 has in the heads."""

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array) -> Array:
        everywhere = jnp.ones((1, 1, 1, 1), bool)
        x = roi_features.astype(compute_dtype(self.config))
        return apply_stage(self.config, 3, x, everywhere, everywhere, stride=2, train=False, axis_name=None)


class BoxHead(nn.Module):
    """Computes hidden features, class logits and deltas, all float32, from RoI features [n, S, S, D].

    They are [n, box_head_dim], [n, C + 1] (0 is background) and [n, C + 1, 4] ([n, 1, 4] in a cascade). The hidden
    layers are convolutions and fully connected layers; with C4, the mean over res5's cells, [n, D], replaces them.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array) -> tuple[Array, Array, Array]:
        config = self.config
        num_logits, dtype = config.num_classes + 1, compute_dtype(config)
        x = roi_features
        if config.neck == "c4":
            # XLA for CPUs fuses a sum with a preceding ReLU and turns NaN into 0; this operation separates them.
            x = jnp.where(jnp.isnan(x), jnp.nan, x).mean(axis=(1, 2))
        else:
            for index in range(config.box_head_convs):
                x = relu(HeadConv(config, config.box_head_conv_dim, 3, he_normal, name=f"conv{index + 1}")(x))
            x = x.reshape(x.shape[0], -1)
            for index in range(config.box_head_fcs):
                fc = nn.Dense(config.box_head_dim, kernel_init=lecun_uniform, dtype=dtype, name=f"fc{index + 1}")
                x = relu(fc(x))
        logits = nn.Dense(num_logits, kernel_init=normal_001, dtype=dtype, name="logits")(x)
        num_deltas = config.num_box_deltas
        deltas = nn.Dense(4 * num_deltas, kernel_init=nn.initializers.normal(0.001), dtype=dtype, name="deltas")(x)
        hidden, logits, deltas = (output.astype(jnp.float32) for output in (x, logits, deltas))
        return hidden, logits, deltas.reshape(-1, num_deltas, 4)


class MaskHead(nn.Module):
    """The fully convolutional head of figure 4: mask logits, float32, from RoI features [n, S, S, D] and labels [n].

    They are [n, 2 S, 2 S] for each RoI's own label, or [n, 2 S, 2 S, C + 1] for a softmax over classes. Only the row
    of the RoI's own class is applied in the last 1x1 convolution, which gives the same numbers as computing all C + 1
    masks and picking one. With C4, res5 precedes the deconvolution.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array, labels: Array) -> Array:
        config = self.config
        x, dtype = roi_features, compute_dtype(config)
        for index in range(0 if config.neck == "c4" else config.mask_head_convs):
            x = relu(HeadConv(config, config.mask_head_dim, 3, he_normal, name=f"conv{index + 1}")(x))
        upconv = Upconv(config.mask_head_dim, dtype, name="upconv")
        shape = (config.mask_head_dim, config.num_mask_channels)
        kernel = self.param("kernel", he_normal, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        if config.mask_activation == "softmax":
            x = relu(upconv(x))  # [2, 2, n, S, S, D]
            maps = jnp.einsum("abnhwd,dc->abnhwc", x, kernel.astype(dtype), preferred_element_type=jnp.float32)
            return interleave(maps) + per_channel(bias)
        own = jnp.zeros_like(labels) if config.class_agnostic_masks else labels
        # An exact product with one-hot rows: the gradient of a gather would be a scatter, with atomic additions.
        is_own = jax.nn.one_hot(own, shape[1], dtype=jnp.float32)
        rows = jnp.einsum("nc,dc->nd", is_own, kernel, precision=jax.lax.Precision.HIGHEST).astype(dtype)
        own_bias = jnp.sum(is_own * bias[None], axis=1)
        return upconv.score_doubled(x, rows) + own_bias[:, None, None]


class MlpMaskHead(nn.Module):
    """The MLP head of table 2e: fully connected layers with the inputs and outputs of `MaskHead`.

    Each output of the last layer is one pixel of one class.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array, labels: Array) -> Array:
        config = self.config
        x, dtype, side = roi_features, compute_dtype(config), config.mask_size
        x = x.reshape(x.shape[0], -1)
        for index in range(config.mask_head_fcs):
            fc = nn.Dense(config.mask_head_fc_dim, kernel_init=lecun_uniform, dtype=dtype, name=f"fc{index + 1}")
            x = relu(fc(x))
        count = config.num_mask_channels
        maps = nn.Dense(side * side * count, kernel_init=normal_001, dtype=dtype, name="logits")(x)
        maps = maps.astype(jnp.float32).reshape(-1, side, side, count)
        if config.mask_activation == "softmax":
            return maps
        own = jnp.zeros_like(labels) if config.class_agnostic_masks else labels
        return jnp.take_along_axis(maps, own[:, None, None, None], axis=3)[..., 0]


class Upconv(nn.Module):
    """Transposed 2x2 convolution of stride 2: one matrix product, because its windows do not overlap.

    Returns [2, 2, n, S, S, D] for [n, S, S, C], with even and odd rows and columns separate. The operations that follow
    act on single cells, so `interleave` reorders their results and not D values per cell.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def weights(self, depth: int) -> tuple[Array, Array]:
        """Returns the kernel [2, 2, C, D] and the bias [D] in the compute dtype."""
        kernel = self.param("kernel", he_normal, (2, 2, depth, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def __call__(self, x: Array) -> Array:
        return double(x.astype(self.dtype), *self.weights(x.shape[-1]))

    def score_doubled(self, x: Array, rows: Array) -> Array:
        """Returns the product [n, 2 S, 2 S] of each upsampled, rectified cell with its RoI's row [n, D], float32."""
        inputs = (x.astype(self.dtype), rows, *self.weights(x.shape[-1]))
        return choose_form(*inputs, cpu=score_in_parts, gpu=score_by_cell, default=score_at_once)


def double(x: Array, kernel: Array, bias: Array) -> Array:
    """Returns x [n, S, S, C] upsampled to [2, 2, n, S, S, D]."""
    return add_bias(jnp.einsum("nhwc,abcd->abnhwd", x, kernel), bias)


def score_at_once(x: Array, rows: Array, kernel: Array, bias: Array) -> Array:
    """Returns the logits [n, 2 S, 2 S] without the last bias."""
    cells = relu(double(x, kernel, bias))
    logits = jnp.einsum("abnhwd,nd->abnhw", cells, rows, preferred_element_type=jnp.float32)
    return interleave(logits[..., None])[..., 0]


def score_by_cell(x: Array, rows: Array, kernel: Array, bias: Array) -> Array:
    """Returns the same as `score_at_once`, with the channels of a cell contiguous, since GPU threads read them side by
    side and would otherwise read two bytes of a cache line each. Bias and ReLU are fused into the matrix product."""
    count, side, _, depth = x.shape
    flat_kernel = kernel.transpose(0, 1, 3, 2).reshape(-1, depth)  # [4 D, C]
    cells = relu(jnp.einsum("mc,kc->mk", x.reshape(-1, depth), flat_kernel) + jnp.tile(bias, 4)[None])
    cells = cells.reshape(count, -1, len(bias))  # [n, 4 S S, D]
    logits = jnp.einsum("nkd,nd->nk", cells, rows, preferred_element_type=jnp.float32)
    return logits.reshape(count, side, side, 2, 2).transpose(0, 1, 3, 2, 4).reshape(count, 2 * side, 2 * side)


@jax.custom_vjp
def score_in_parts(x: Array, rows: Array, kernel: Array, bias: Array) -> Array:
    """Returns the same as `score_at_once`, a few RoIs at a time; the gradient recomputes their upsampled cells.

    On a CPU, each part stays in the cache, and the upsampled cells, a step's largest array, are never all in memory.
    """
    _, logits = jax.lax.scan(lambda _, part: (None, _score(part[0], part[1], kernel, bias)), None, _in_parts(x, rows))
    return logits.reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[2])


def _in_parts(*values: Array) -> tuple[Array, ...]:
    """Returns arrays [n, ...] as [parts, n / parts, ...]."""
    count = values[0].shape[0]
    part = largest_divisor(count, PART_ROIS)
    return tuple(value.reshape(count // part, part, *value.shape[1:]) for value in values)


def _score(x: Array, rows: Array, kernel: Array, bias: Array) -> Array:
    cells = relu(jnp.einsum("nhwc,abcd->nhwabd", x, kernel) + bias[(None,) * 5])
    return jnp.einsum("nhwabd,nd->nhawb", cells, rows, preferred_element_type=jnp.float32)


def _score_forward(x: Array, rows: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    return score_in_parts(x, rows, kernel, bias), (x, rows, kernel, bias)


def _score_backward(residuals: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    x, rows, kernel, bias = residuals
    count, side, _, depth = x.shape
    features = rows.shape[1]
    flat_kernel = kernel.transpose(2, 0, 1, 3).reshape(depth, -1)  # [C, 4 D]
    slopes = gradient.reshape(count, side, 2, side, 2).transpose(0, 1, 3, 2, 4).reshape(count, -1, 1)  # [n, 4 S S, 1]

    def add_part(sums: tuple[Array, Array], part: tuple[Array, ...]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        x, rows, slopes = part
        cells = (x.reshape(-1, depth) @ flat_kernel).reshape(len(x), -1, features) + bias[None, None]
        # Without the barrier, the products are fused with these operations and take several times as long.
        cells, slopes_in = jax.lax.optimization_barrier(
            (relu(cells), jnp.where(cells > 0, slopes.astype(x.dtype) * rows[:, None], 0))
        )
        as_rows = slopes_in.reshape(-1, flat_kernel.shape[1])
        of_kernel = jax.lax.dot_general(
            x.reshape(-1, depth), as_rows, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        of_bias = jnp.sum(slopes_in.reshape(-1, features), axis=0, dtype=jnp.float32)
        of_x = (as_rows @ flat_kernel.T).reshape(x.shape)
        of_rows = jnp.einsum("nkd,nkl->nd", cells, slopes.astype(cells.dtype))
        return (sums[0] + of_kernel, sums[1] + of_bias), (of_x, of_rows)

    zeros = jnp.zeros(flat_kernel.shape, jnp.float32), jnp.zeros(features, jnp.float32)
    sums, (of_x, of_rows) = jax.lax.scan(add_part, zeros, _in_parts(x, rows, slopes))
    of_kernel = sums[0].reshape(depth, 2, 2, features).transpose(1, 2, 0, 3)
    return (
        of_x.reshape(x.shape),
        of_rows.reshape(rows.shape),
        of_kernel.astype(kernel.dtype),
        sums[1].astype(bias.dtype),
    )


score_in_parts.defvjp(_score_forward, _score_backward)


def interleave(x: Array) -> Array:
    """Returns [2, 2, n, S, S, D], with even and odd rows and columns separate, as [n, 2 S, 2 S, D]."""
    _, _, batch, height, width, channels = x.shape
    return x.transpose(2, 3, 0, 4, 1, 5).reshape(batch, 2 * height, 2 * width, channels)


class KeypointHead(nn.Module):
    """Computes heat-map logits [n, 4 S, 4 S, K], float32, from RoI features [n, S, S, D] (section 5).

    The layers are 3x3 convolutions, a transposed 4x4 convolution of stride 2, and bilinear upsampling by 2.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, roi_features: Array) -> Array:
        config = self.config
        x, dtype = roi_features, compute_dtype(config)
        for index in range(config.keypoint_head_convs):
            conv = Conv(config.keypoint_head_dim, 3, kernel_init=he_normal, dtype=dtype, name=f"conv{index + 1}")
            x = relu(conv(x))
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
