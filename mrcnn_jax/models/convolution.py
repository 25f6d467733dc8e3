"""Convolutions, with forms that fill a TPU's tiles if images or channels are few, and gradients for CPUs.

Shapes: B images, H x W map, D channels, F features. Maps are NHWC, and kernels are [h, w, D / groups, F].
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrcnn_jax.integers import ceil_div

Array = jax.Array

TILE_IMAGES = 8
"""Images of a batch that fill a TPU's tiles."""
TILE_CHANNELS = 128
"""Channels that fill a TPU's tiles."""

PART_VALUES = 2**17
"""Values of the input or of the output's gradient, whichever has more, from which a CPU computes a kernel's gradient at
a time: half a megabyte."""
PART_ROWS = 512
"""Rows of two matrices that a CPU multiplies at a time; as many as the first one has columns, if these are more."""


def convolve(x: Array, kernel: Array, *, stride: int, dilation: int, groups: int) -> Array:
    """Returns the convolution [B, ceil(H / stride), ceil(W / stride), F] with symmetric padding, as in PyTorch."""
    return _convolve(x, kernel, ConvWindow(kernel.shape[0], stride, dilation, groups))


class ConvWindow(NamedTuple):
    """The static parameters of a convolution: kernel side, stride, dilation and number of channel groups."""

    size: int
    stride: int
    dilation: int
    groups: int

    @property
    def padding(self) -> int:
        """Number of zero cells on each side."""
        return self.dilation * (self.size - 1) // 2


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, window: ConvWindow) -> Array:
    library, for_tpu = partial(convolve_library, window=window), choose_tpu_form(x, kernel, window)
    return jax.lax.platform_dependent(x, kernel, tpu=for_tpu, default=library) if for_tpu else library(x, kernel)


def _convolve_forward(x: Array, kernel: Array, window: ConvWindow) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, window), (x, kernel)


def _convolve_backward(window: ConvWindow, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """Returns the gradients of the map and of the kernel.

    The platform is selected here and not around the whole convolution, where JAX would differentiate every form.
    """
    forms = {
        "cpu": partial(differentiate_on_cpu, window=window),
        "tpu": differentiate_form(choose_tpu_form(*residuals, window)),
        "default": differentiate_form(partial(convolve_library, window=window)),
    }
    return jax.lax.platform_dependent(*residuals, gradient, **{name: form for name, form in forms.items() if form})


_convolve.defvjp(_convolve_forward, _convolve_backward)


def differentiate_form(form: Callable[..., Array] | None) -> Callable[..., tuple[Array, Array]] | None:
    """Returns the function of (x, kernel, gradient) with which JAX differentiates a form; None if there is no form."""
    return form and (lambda x, kernel, gradient: jax.vjp(form, x, kernel)[1](gradient))


def differentiate_on_cpu(x: Array, kernel: Array, gradient: Array, window: ConvWindow) -> tuple[Array, Array]:
    """Returns the gradients of the map and of the kernel in forms that are fast on a CPU."""
    of_kernel = differentiate_kernel(x, gradient, window).astype(kernel.dtype)
    return differentiate_input(x, kernel, gradient, window), of_kernel


def convolve_library(x: Array, kernel: Array, window: ConvWindow) -> Array:
    """Returns the convolution as a single XLA operation, a matrix product for an ungrouped 1x1 kernel."""
    if window.size == window.groups == 1:
        return jnp.einsum("bhwc,cd->bhwd", x[:, :: window.stride, :: window.stride], kernel[0, 0])
    return _slide(x, kernel, [(window.padding, window.padding)] * 2, window)


def _slide(x: Array, kernel: Array, padding: Sequence[tuple[int, int]], window: ConvWindow) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(window.stride, window.stride),
        padding=padding,
        rhs_dilation=(window.dilation, window.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )


def differentiate_input(x: Array, kernel: Array, gradient: Array, window: ConvWindow) -> Array:
    """Returns the gradient [B, H, W, D] of a convolution's input, in a form that a CPU's library supports.

    The library supports convolutions of stride 1 of undilated maps. With a stride, each phase of the map (the cells
    whose positions have the same remainder) is therefore a convolution of its own, with the taps that reach it.
    """
    stride, padding, (height, width) = window.stride, window.padding, x.shape[1:3]
    if window.size == 1 or (window.dilation > 1 and stride > 1):
        return jax.vjp(lambda x: convolve_library(x, kernel, window), x)[1](gradient)[0]
    turned = transpose_kernel(kernel, window.groups)
    if stride == 1:
        return _slide(gradient, turned[::-1, ::-1], [(padding, padding)] * 2, window)
    rows, columns = ceil_div(height + 2 * padding, stride), ceil_div(width + 2 * padding, stride)
    once = window._replace(stride=1)

    def compute_phase(row: int, column: int) -> Array:
        taps = turned[row::stride, column::stride][::-1, ::-1]
        before = taps.shape[0] - 1, taps.shape[1] - 1
        after = rows - gradient.shape[1], columns - gradient.shape[2]
        return _slide(gradient, taps, list(zip(before, after, strict=True)), once)  # [B, rows, columns, D]

    phases = jnp.stack([jnp.stack([compute_phase(i, j) for j in range(stride)], axis=3) for i in range(stride)], axis=2)
    padded = phases.reshape(x.shape[0], rows * stride, columns * stride, x.shape[3])
    return padded[:, padding : padding + height, padding : padding + width]


def transpose_kernel(kernel: Array, groups: int) -> Array:
    """Returns a kernel [h, w, D / groups, F] as [h, w, F / groups, D]."""
    height, width, depth, features = kernel.shape
    apart = kernel.reshape(height, width, depth, groups, features // groups)
    return apart.transpose(0, 1, 4, 3, 2).reshape(height, width, features // groups, groups * depth)


def differentiate_kernel(x: Array, gradient: Array, window: ConvWindow) -> Array:
    """Returns the gradient [h, w, D / groups, F] of a convolution's kernel, float32.

    It is summed over parts of the batch that stay in the cache. XLA's own form processes the batch at once: at a third
    of the speed if the batch does not fit, and at less than a hundredth with groups.
    """
    if window.size == window.groups == 1:
        x = x[:, :: window.stride, :: window.stride]
        return multiply_in_parts(x.reshape(-1, x.shape[3]), gradient.reshape(-1, gradient.shape[3]))[None, None]
    size, stride, dilation, groups = window
    batch, height, width, features = gradient.shape
    depth, padding = x.shape[3] // groups, window.padding
    images, rows = choose_part(x, gradient)
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    seen = [(cells - 1) * stride + 1 + dilation * (size - 1) for cells in (rows, width)]

    def add_part(total: Array, part: Array | int) -> tuple[Array, None]:
        image, row = part // (height // rows) * images, part % (height // rows) * rows
        inputs = _take(padded, (image, row * stride, 0, 0), (images, *seen, x.shape[3]))
        outputs = _take(gradient, (image, row, 0, 0), (images, rows, width, features))
        # A convolution that swaps the roles of images and channels and uses the gradient as its kernel. The axes are
        # transposed here because XLA, inside a loop, does not change them to the order that its library supports.
        inputs = inputs.reshape(images, *seen, groups, depth).transpose(4, 1, 2, 3, 0)
        of_part = jax.lax.conv_general_dilated(
            inputs.reshape(depth, *seen, groups * images).astype(jnp.float32),
            outputs.transpose(1, 2, 0, 3).astype(jnp.float32),
            window_strides=(dilation, dilation),
            padding="VALID",
            rhs_dilation=(stride, stride),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return total + of_part, None

    total = _sum_parts(add_part, (depth, size, size, features), batch // images * (height // rows))
    return total.transpose(1, 2, 0, 3)


def choose_part(x: Array, gradient: Array) -> tuple[int, int]:
    """Returns how many images, and rows of each image's gradient, a CPU processes at a time; both divide evenly."""
    batch, height = gradient.shape[:2]
    values = max(x.size, gradient.size)
    if values <= 3 * PART_VALUES:  # the loop would cost more than it gains
        return batch, height
    of_image = values // batch
    if of_image <= PART_VALUES:
        return largest_divisor(batch, PART_VALUES // (4 * of_image)), height  # several as channels run slower
    return 1, largest_divisor(height, PART_VALUES * height // of_image)


def multiply_in_parts(x: Array, y: Array) -> Array:
    """Returns the product [D, F], float32, of x [M, D] transposed and y [M, F], summed over parts of their rows."""
    rows = largest_divisor(x.shape[0], max(PART_ROWS, x.shape[1]))

    def add_part(total: Array, part: Array | int) -> tuple[Array, None]:
        left, right = (_take(array, (part * rows, 0), (rows, array.shape[1])) for array in (x, y))
        return total + jnp.einsum("md,mf->df", left, right, preferred_element_type=jnp.float32), None

    return _sum_parts(add_part, (x.shape[1], y.shape[1]), x.shape[0] // rows)


def _take(array: Array, starts: Sequence[Array | int], sizes: tuple[int, ...]) -> Array:
    """Returns a slice of an array, or the array itself if the slice is all of it."""
    return array if array.shape == sizes else jax.lax.dynamic_slice(array, starts, sizes)


def _sum_parts(add: Callable[[Array, Array | int], tuple[Array, None]], shape: tuple[int, ...], parts: int) -> Array:
    """Returns the float32 sum [shape] to which `add` adds part 0, 1, ...; a single part needs no loop."""
    nothing = jnp.zeros(shape, jnp.float32)
    return jax.lax.scan(add, nothing, jnp.arange(parts))[0] if parts > 1 else add(nothing, 0)[0]


@jax.custom_vjp
def add_bias(x: Array, bias: Array) -> Array:
    """Returns x [..., F] plus a bias [F]."""
    return x + bias[(None,) * (x.ndim - 1)]


def _add_bias_backward(bias: Array, gradient: Array) -> tuple[Array, Array]:
    axes = tuple(range(gradient.ndim - 1))
    of_bias = jax.lax.platform_dependent(gradient, cpu=_sum_rows, default=partial(jax.lax.reduce_sum, axes=axes))
    return gradient, of_bias.astype(bias.dtype)


def _sum_rows(gradient: Array) -> Array:
    # A CPU takes thirty times as long to sum over several axes, and without the barrier XLA would restore them.
    rows = jax.lax.optimization_barrier(gradient.reshape(-1, gradient.shape[-1]))
    return jnp.sum(rows, axis=0, dtype=jnp.float32).astype(gradient.dtype)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_backward)


def largest_divisor(number: int, most: int) -> int:
    """Returns the largest divisor of a number, which may be symbolic, up to `most`, at least 1."""
    if isinstance(number, int):
        most = max(min(number, most), 1)
    return max(n for n in range(1, most + 1) if number % n == 0)


def choose_tpu_form(x: Array, kernel: Array, window: ConvWindow) -> Callable[..., Array] | None:
    """Returns the form that fills a TPU's tiles better than the library's, or None if these shapes have none."""
    if window.size == 1:
        return None
    plain = partial(
        jax.lax.conv_general_dilated,
        window_strides=(window.stride, window.stride),
        rhs_dilation=(window.dilation, window.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    strips = count_strips(*x.shape[:2]) if window.stride == window.groups == 1 else 1
    merged = count_merged(window.groups, kernel.shape[2])
    if strips > 1:
        return partial(convolve_strips, plain, strips, window.padding)
    if merged > 1:
        return partial(convolve_merged, plain, window.groups, merged, [(window.padding, window.padding)] * 2)
    return None


def count_strips(batch: int, height: int) -> int:
    """Returns the number of row strips per map on a TPU: the largest that divides the height and fits in a tile."""
    if not isinstance(batch, int):  # symbolic in an export
        return 1
    return max((n for n in range(1, TILE_IMAGES // max(batch, 1) + 1) if height % n == 0), default=1)


def convolve_strips(plain: Callable[..., Array], strips: int, padding: int, x: Array, kernel: Array) -> Array:
    """Returns the stride-1 convolution of x [B, H, W, D], with `strips` parts of each map as if in a larger batch.

    A TPU lays out the input of a convolution in tiles of eight images. To fill them with fewer images, the compiler
    itself would cut the maps between columns, which moves each of their tiles several times.
    """
    batch, height, width, channels = x.shape
    rows = height // strips
    padded = jnp.pad(x, ((0, 0), (padding, padding), (0, 0), (0, 0)))
    parts = jnp.stack([padded[:, start : start + rows + 2 * padding] for start in range(0, height, rows)], axis=1)
    parts = parts.reshape(batch * strips, rows + 2 * padding, width, channels)
    return plain(parts, kernel, padding=[(0, 0), (padding, padding)]).reshape(batch, height, width, -1)


def count_merged(groups: int, depth: int) -> int:
    """Returns how many groups of `depth` channels a TPU merges: the most that divide `groups` and fit in a tile."""
    return max((n for n in range(1, TILE_CHANNELS // depth + 1) if groups % n == 0), default=1)


def convolve_merged(
    plain: Callable[..., Array], groups: int, merged: int, padding: list[tuple[int, int]], x: Array, kernel: Array
) -> Array:
    """Returns the grouped convolution of x [B, H, W, D] with every `merged` groups as one, with zeros between them.

    A TPU pads the channels of a group to 128: by its compiler's estimate, a group of 4 costs as much as one of 128.
    """
    height, width, depth, features = kernel.shape
    fewer = groups // merged
    apart = kernel.reshape(height, width, 1, depth, fewer, merged, features // groups)
    own = jnp.eye(merged, dtype=kernel.dtype).reshape(1, 1, merged, 1, 1, merged, 1)  # 1 within a group
    together = (own * apart).reshape(height, width, merged * depth, features)
    return plain(x, together, padding=padding, feature_group_count=fewer)
