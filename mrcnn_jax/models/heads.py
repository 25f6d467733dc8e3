"""The heads: RPN on the maps; box, mask and keypoint head on RoIs (paper section 3, figure 4; section 5 for keypoints).

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
    """One map [B, H, W, D] to objectness logits [B, H*W*A] and deltas [B, H*W, A*4], float32.

    A anchors a cell; the order is row, column, size, ratio, as `ops.anchors` makes them. All levels share the weights.
    The deltas of a cell stay one row; `ops.anchors.take_deltas` explains it. `extent` [B, H, W, 1] is True inside the
    image: a second convolution reads the first one's features, which have to be zero outside of it.
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
        # A product with rows of one 1 and zeros, exact: a gather's gradient is a scatter, with atomic additions.
        is_own = jax.nn.one_hot(own, shape[1], dtype=jnp.float32)
        rows = jnp.einsum("nc,dc->nd", is_own, kernel, precision=jax.lax.Precision.HIGHEST).astype(dtype)
        own_bias = jnp.sum(is_own * bias[None], axis=1)
        return upconv.score_doubled(x, rows) + own_bias[:, None, None]


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
            x = relu(fc(x))
        count = config.num_mask_channels
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
    def weights(self, depth: int) -> tuple[Array, Array]:
        """Returns the kernel [2, 2, C, D] and the bias [D] in the compute dtype."""
        kernel = self.param("kernel", he_normal, (2, 2, depth, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def __call__(self, x: Array) -> Array:
        return double(x.astype(self.dtype), *self.weights(x.shape[-1]))

    def score_doubled(self, x: Array, rows: Array) -> Array:
        """Returns the product [n, 2 S, 2 S] of each doubled and rectified cell with its RoI's row [n, D], float32."""
        inputs = (x.astype(self.dtype), rows, *self.weights(x.shape[-1]))
        return choose_form(*inputs, cpu=score_in_parts, gpu=score_by_cell, default=score_at_once)


def double(x: Array, kernel: Array, bias: Array) -> Array:
    """Returns [2, 2, n, S, S, D] of x [n, S, S, C]."""
    return add_bias(jnp.einsum("nhwc,abcd->abnhwd", x, kernel), bias)


def score_at_once(x: Array, rows: Array, kernel: Array, bias: Array) -> Array:
    """Returns the logits [n, 2 S, 2 S] without the last bias."""
    cells = relu(double(x, kernel, bias))
    logits = jnp.einsum("abnhwd,nd->abnhw", cells, rows, preferred_element_type=jnp.float32)
    return interleave(logits[..., None])[..., 0]


def score_by_cell(x: Array, rows: Array, kernel: Array, bias: Array) -> Array:
    """Returns what `score_at_once` does. A GPU's threads read the channels of a cell side by side; apart they would
    each read two bytes of another line of memory. One product of matrices takes its bias and ReLU along."""
    count, side, _, depth = x.shape
    flat_kernel = kernel.transpose(0, 1, 3, 2).reshape(-1, depth)  # [4 D, C]
    cells = relu(jnp.einsum("mc,kc->mk", x.reshape(-1, depth), flat_kernel) + jnp.tile(bias, 4)[None])
    cells = cells.reshape(count, -1, len(bias))  # [n, 4 S S, D]
    logits = jnp.einsum("nkd,nd->nk", cells, rows, preferred_element_type=jnp.float32)
    return logits.reshape(count, side, side, 2, 2).transpose(0, 1, 3, 2, 4).reshape(count, 2 * side, 2 * side)


@jax.custom_vjp
def score_in_parts(x: Array, rows: Array, kernel: Array, bias: Array) -> Array:
    """Returns what `score_at_once` does, some RoIs at a time; the gradient computes their doubled cells again.

    On a CPU a part stays in the cache, and all doubled cells never lie in memory: they are the step's largest array.
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
        # Matrix products that read these through another operation take several times as long.
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
