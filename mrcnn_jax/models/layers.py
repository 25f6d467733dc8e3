"""Building blocks: convolutions, normalisation, and the mask that keeps padding out of features.

Shapes: B images, H x W map, D channels. Features are NHWC. `extent` is [B, H, W, 1] bool, True inside the image's size
rounded up to a multiple of `size_divisor`. Outside it, a map is zero wherever a window or a RoI reads it, as if the
canvas ended there.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrcnn_jax.models.convolution import add_bias, convolve
from mrcnn_jax.ops.extent import find_inside

Array = jax.Array
Initializer = Callable[..., Array]

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
lecun_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def make_extent(image_hw: Array, feature_hw: tuple[int, int], stride: int, divisor: int) -> Array:
    """Returns the extent [B, H, W, 1] at one stride for images of size `image_hw` [B, 2] in pixels."""
    return find_inside(image_hw, feature_hw, stride, divisor)[..., None]


def zero_outside(x: Array, extent: Array) -> Array:
    """Returns x with zeros outside the extent, even where x is NaN."""
    return jnp.where(extent, x, jnp.zeros((), x.dtype))


def per_channel(values: Array) -> Array:
    """Returns values [D] as [1, 1, 1, D], which broadcast over maps."""
    return values[None, None, None, :]


@jax.custom_jvp
def relu(x: Array) -> Array:
    """Returns max(x, 0).

    The gradient depends on the result, which is not zero where x is positive or NaN. So x need not be kept, and a GPU's
    library can apply the ReLU inside its convolution. XLA would turn a test `> 0` into a comparison of x again.
    """
    return jnp.maximum(x, 0)


relu.defjvps(lambda tangent, result, x: jnp.where(result != 0, tangent, jnp.zeros((), tangent.dtype)))


class Conv(nn.Module):
    """Convolution with symmetric padding, as in PyTorch; a 1x1 convolution is a matrix product.

    `scale` and `shift` [features] apply a frozen normalisation to the result. The kernel is scaled, since it is smaller
    than a map, and the shift is added as a bias, which a GPU's library does itself.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = he_normal
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if scale is not None:
            kernel = kernel * per_channel(scale)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = convolve(x, kernel, stride=self.stride, dilation=self.dilation, groups=self.groups)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            x = add_bias(x, bias.astype(self.dtype))
        return x if shift is None else add_bias(x, shift.astype(self.dtype))


class FrozenBatchNorm(nn.Module):
    """Batch norm with constant statistics, scale and bias, which are in the `frozen` collection and not trained.

    Returns scale and shift [features], float32; the normalised x is x * scale + shift.
    """

    eps: float

    @nn.compact
    def __call__(self, features: int) -> tuple[Array, Array]:
        def constant(name: str, value: float) -> Array:
            return self.variable("frozen", name, jnp.full, (features,), value, jnp.float32).value

        scale = constant("scale", 1.0) * jax.lax.rsqrt(constant("var", 1.0) + self.eps)
        return scale, constant("bias", 0.0) - constant("mean", 0.0) * scale


class SyncBatchNorm(nn.Module):
    """Batch norm over all valid cells of the global batch, with running statistics in `batch_stats`.

    If `train` is set, statistics of the batch are summed over the mesh axis `axis_name`, unless that is None.
    """

    eps: float
    train: bool
    axis_name: str | None
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: Array, extent: Array) -> Array:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        mean, var = running_mean.value, running_var.value
        if self.train:
            mean, var, count = self._batch_statistics(x.astype(jnp.float32), extent)
            unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        normalised = (x.astype(jnp.float32) - per_channel(mean)) * per_channel(jax.lax.rsqrt(var + self.eps))
        return (normalised * per_channel(scale) + per_channel(bias)).astype(x.dtype)

    def _batch_statistics(self, x: Array, extent: Array) -> tuple[Array, Array, Array]:
        def total(value: Array) -> Array:
            return value if self.axis_name is None else jax.lax.psum(value, self.axis_name)

        count = jnp.maximum(total(jnp.sum(extent, dtype=jnp.float32)), 1.0)
        mean = total(jnp.sum(jnp.where(extent, x, 0.0), axis=(0, 1, 2))) / count
        centred = jnp.where(extent, x - per_channel(mean), 0.0)
        return mean, total(jnp.sum(centred * centred, axis=(0, 1, 2))) / count, count


class GroupNorm(nn.Module):
    """Group norm (arXiv 1803.08494) over the cells inside the extent, with float32 statistics."""

    eps: float
    num_groups: int = 32

    @nn.compact
    def __call__(self, x: Array, extent: Array | None = None) -> Array:
        channels = x.shape[-1]
        groups = min(self.num_groups, channels)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        inside = jnp.ones((1, 1, 1, 1), bool) if extent is None else extent
        count = jnp.maximum(jnp.sum(jnp.broadcast_to(inside, (*x.shape[:3], 1)), axis=(1, 2, 3)), 1)  # [B]
        count = count.astype(jnp.float32)[:, None] * (channels // groups)  # [B, 1]
        values = jnp.where(inside, x, 0).astype(jnp.float32).reshape(x.shape[0], -1, channels)  # one axis of cells

        def mean_of(total: Array) -> Array:  # [B, D] to [B, D], the mean over each channel's group
            per_group = total.reshape(-1, groups, channels // groups).sum(axis=-1) / count  # [B, groups]
            return jnp.repeat(per_group, channels // groups, axis=-1)

        # One pass over x for both sums and one multiply-add per value: half the time of the centred form on a CPU.
        mean, mean_square = mean_of(values.sum(axis=1)), mean_of((values * values).sum(axis=1))
        factor = jax.lax.rsqrt(jnp.maximum(mean_square - mean * mean, 0.0) + self.eps) * scale[None, :]
        shift = bias[None, :] - mean * factor
        return (x.astype(jnp.float32) * factor[:, None, None, :] + shift[:, None, None, :]).astype(x.dtype)
