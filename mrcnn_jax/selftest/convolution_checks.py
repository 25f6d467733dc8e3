"""Checks of convolutions, matrix products and the gradients of both.

A whole convolution in float64 would take minutes, so each result is multiplied by random signs over its last axis
(Freivalds' check). The expected product takes one multiplication for each value of the input and covers every value of
the result: a single wrong one always changes it, except for rounding.

Shapes: B images, H x W features, D channels, F features, G groups; kernels [k, k, D / G, F].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.integers import ceil_div
from mrcnn_jax.models import layers
from mrcnn_jax.selftest.findings import REDUCED, Finding, Setting, random_of, relative_error, shape_text

ConvWindow = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Form:
    """A convolution of the network."""

    name: str
    map_stride: int
    """Stride of the input."""
    depth: int
    features: int
    size: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    batch: int = 1
    dtype: str = "float32"


FORMS = (
    Form("7x7 stride 2, the stem", 1, 3, 64, size=7, stride=2),
    Form("1x1", 4, 256, 64, size=1),
    Form("1x1 stride 2", 4, 256, 512, size=1, stride=2),
    Form("3x3", 4, 64, 64, batch=2),
    Form("3x3", 8, 256, 256),
    Form("3x3", 8, 128, 128, dtype="bfloat16"),
    Form("3x3 stride 2", 4, 128, 128, stride=2),
    Form("3x3 dilation 2", 16, 512, 512, dilation=2),
    Form("3x3 in 32 groups", 8, 512, 512, groups=32),
)


def check_convolutions(setting: Setting, forms: tuple[Form, ...] = FORMS) -> Iterator[Finding]:
    """Checks values and gradients in input, kernel and bias for every form of convolution in the network."""
    for form in forms:
        yield from _check_form(form, setting)


def _check_form(form: Form, setting: Setting) -> Iterator[Finding]:
    rng = random_of(repr(form))
    height, width = setting.map_hw(form.map_stride)
    conv = layers.Conv(form.features, form.size, form.stride, form.dilation, form.groups, dtype=jnp.dtype(form.dtype))

    def draw(*shape: int, mean: float = 0.0) -> np.ndarray:
        values = rng.standard_normal(shape, dtype=np.float32) + np.float32(mean)
        return np.asarray(jnp.asarray(values, form.dtype), np.float32)  # as the layer rounds it

    x = draw(form.batch, height, width, form.depth)
    kernel = draw(form.size, form.size, form.depth // form.groups, form.features)
    bias = draw(form.features)
    # Mostly of one sign: bfloat16 cannot count beyond 256, which sums of both signs would hardly reveal.
    upstream = draw(form.batch, ceil_div(height, form.stride), ceil_div(width, form.stride), form.features, mean=1.0)

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, bias: jax.Array, upstream: jax.Array) -> tuple[jax.Array, ...]:
        def apply(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
            return conv.apply({"params": {"kernel": kernel, "bias": bias}}, x)

        y, backward = jax.vjp(apply, x, kernel, bias)
        return y, *backward(upstream.astype(y.dtype))

    expected = ProjectedConvolution(form, x, kernel, bias, upstream, rng)
    kind = f"convolution {form.name}" + ("" if form.dtype == "float32" else f", {form.dtype}")
    size = f"{shape_text(*x.shape)} to {form.features}"
    for name, allowed in setting.at_precisions(kind):
        y, dx, dkernel, dbias = (np.asarray(part, np.float64) for part in run(x, kernel, bias, upstream))
        allowed = allowed if form.dtype == "float32" else REDUCED
        yield Finding(name, size, relative_error(y @ expected.signs, expected.value()), allowed)
        yield Finding(f"{name}: map gradient", size, relative_error(dx @ expected.depth_signs, expected.dx()), allowed)
        projected = expected.project_kernel(dkernel)
        yield Finding(f"{name}: kernel gradient", size, relative_error(projected, expected.dkernel()), allowed)
        yield Finding(f"{name}: bias gradient", size, relative_error(dbias, expected.dbias()), allowed)


class ProjectedConvolution:
    """A convolution with symmetric padding and its gradients, multiplied by random signs over features or channels."""

    def __init__(
        self,
        form: Form,
        x: np.ndarray,
        kernel: np.ndarray,
        bias: np.ndarray,
        upstream: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        self.form, self.x_shape = form, x.shape
        self.bias, self.upstream = bias.astype(np.float64), upstream.astype(np.float64)
        padding = form.dilation * (form.size - 1) // 2
        self.padding = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
        self.padded = np.pad(x.astype(np.float64), self.padding)
        per_group = form.features // form.groups
        self.grouped = kernel.astype(np.float64).reshape(
            form.size**2, -1, form.groups, per_group
        )  # [taps, D/G, G, F/G]
        self.signs = rng.choice([-1.0, 1.0], form.features)
        self.depth_signs = rng.choice([-1.0, 1.0], form.depth)
        self.group_signs = self.signs.reshape(form.groups, per_group)

    def windows(self) -> Iterator[tuple[int, ConvWindow]]:
        """Yields each tap of the kernel with the cells of the padded input that it multiplies."""
        height, width = self.upstream.shape[1:3]
        for tap in range(self.form.size**2):
            row, column = (index * self.form.dilation for index in divmod(tap, self.form.size))
            step = self.form.stride
            rows = slice(row, row + step * (height - 1) + 1, step)
            yield tap, (slice(None), rows, slice(column, column + step * (width - 1) + 1, step))

    def value(self) -> np.ndarray:
        """Returns the value times signs, [B, H, W]."""
        by_depth = np.einsum("tdgf,gf->tgd", self.grouped, self.group_signs).reshape(self.form.size**2, -1)  # [taps, D]
        return sum((self.padded[at] @ by_depth[tap] for tap, at in self.windows()), self.bias @ self.signs)

    def dx(self) -> np.ndarray:
        """Returns the gradient in the input times signs, [B, H, W]."""
        signs = self.depth_signs.reshape(self.form.groups, -1)
        by_feature = np.einsum("tdgf,gd->tgf", self.grouped, signs).reshape(self.form.size**2, -1)  # [taps, F]
        total = np.zeros(self.padded.shape[:3])
        for tap, at in self.windows():
            total[at] += self.upstream @ by_feature[tap]
        edge = self.padding[1][0]
        return total[:, edge : edge + self.x_shape[1], edge : edge + self.x_shape[2]]

    def dkernel(self) -> np.ndarray:
        """Returns the gradient in the kernel times signs, [taps, G, D / G]."""
        upstream = self.upstream.reshape(-1, *self.group_signs.shape)  # [cells, G, F / G]
        weights = np.einsum("ngf,gf->ng", upstream, self.group_signs)
        cells = (self.padded[at].reshape(len(weights), self.form.groups, -1) for _, at in self.windows())
        if self.form.groups == 1:
            return np.stack([(weights.T @ cell[:, 0])[None, 0] for cell in cells])
        return np.stack([np.einsum("ng,ngd->gd", weights, cell) for cell in cells])

    def project_kernel(self, gradient: np.ndarray) -> np.ndarray:
        """Returns a kernel's gradient times signs, [taps, G, D / G]."""
        return np.einsum("tdgf,gf->tgd", gradient.reshape(self.grouped.shape), self.group_signs)

    def dbias(self) -> np.ndarray:
        """Returns the gradient in the bias, [F]."""
        return self.upstream.sum(axis=(0, 1, 2))


def check_products(setting: Setting) -> Iterator[Finding]:
    """Checks the matrix product of the box head's first layer and its gradients."""
    kind = "product of matrices"
    rng = random_of(kind)
    rows, depth, features = setting.num_rois, 12544 if setting.num_rois > 100 else 784, 1024
    a, b, upstream = (
        rng.standard_normal(shape, dtype=np.float32) for shape in ((rows, depth), (depth, features), (rows, features))
    )
    signs, depth_signs = rng.choice([-1.0, 1.0], features), rng.choice([-1.0, 1.0], depth)

    @jax.jit
    def run(a: jax.Array, b: jax.Array, upstream: jax.Array) -> tuple[jax.Array, ...]:
        y, backward = jax.vjp(jnp.matmul, a, b)
        return y, *backward(upstream)

    wide = [part.astype(np.float64) for part in (a, b, upstream)]
    expected = (wide[0] @ (wide[1] @ signs), wide[2] @ (wide[1].T @ depth_signs), wide[0].T @ (wide[2] @ signs))
    size = f"{shape_text(*a.shape)} by {shape_text(*b.shape)}"
    for name, allowed in setting.at_precisions(kind):
        found = [np.asarray(part, np.float64) for part in run(a, b, upstream)]
        for part, value, by, truth in zip(
            ("", ": gradient of the left", ": gradient of the right"),
            found,
            (signs, depth_signs, signs),
            expected,
            strict=True,
        ):
            yield Finding(f"{name}{part}", size, relative_error(value @ by, truth), allowed)
