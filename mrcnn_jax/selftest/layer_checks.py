"""Checks of normalisation, reductions, softmax, and the layers that double the size of features."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.models import fpn, heads, layers
from mrcnn_jax.selftest.findings import (
    ELEMENTWISE,
    EXACT,
    FLOAT32,
    Finding,
    Setting,
    random_of,
    relative_error,
    shape_text,
)

GROUPS = 32
EPS = 1e-5


def check_layers(setting: Setting) -> Iterator[Finding]:
    """Checks group norm and its gradient, both batch norms, reductions over whole features, softmax and upsampling."""
    yield from _check_group_norm(setting)
    yield from _check_batch_norms(setting)
    yield from _check_reductions(setting)
    yield from _check_upsampling(setting)


def _check_group_norm(setting: Setting) -> Iterator[Finding]:
    rng = random_of("group norm")
    shape = (1, *setting.map_hw(8), 256)
    x = (1 + 2 * rng.standard_normal(shape)).astype(np.float32)
    upstream = rng.standard_normal(shape).astype(np.float32)
    scale, bias = rng.standard_normal((2, shape[-1])).astype(np.float32)
    norm = layers.GroupNorm(EPS, GROUPS)

    @jax.jit
    def run(x: jax.Array, scale: jax.Array, bias: jax.Array, upstream: jax.Array) -> tuple[jax.Array, ...]:
        y, backward = jax.vjp(
            lambda *inputs: norm.apply({"params": dict(zip(("scale", "bias"), inputs[1:], strict=True))}, inputs[0]),
            x,
            scale,
            bias,
        )
        return y, *backward(upstream)

    def grouped(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float64).reshape(-1, GROUPS, shape[-1] // GROUPS)

    def mean(values: np.ndarray) -> np.ndarray:
        return values.mean(axis=(0, 2), keepdims=True)

    values, gain = grouped(x), scale.astype(np.float64).reshape(GROUPS, -1)
    deviation = np.sqrt(mean((values - mean(values)) ** 2) + EPS)
    normalised, pulled = (values - mean(values)) / deviation, grouped(upstream) * gain
    expected = (
        normalised * gain + bias.reshape(GROUPS, -1),
        (pulled - mean(pulled) - normalised * mean(pulled * normalised)) / deviation,
        (grouped(upstream) * normalised).sum(axis=0),
        grouped(upstream).sum(axis=0),
    )
    names = ("", ": map gradient", ": scale gradient", ": bias gradient")
    for name, found, truth in zip(names, run(x, scale, bias, upstream), expected, strict=True):
        error = relative_error(np.asarray(found).reshape(truth.shape), truth)
        yield Finding(f"group norm{name}", shape_text(*shape), error, FLOAT32)


def _check_batch_norms(setting: Setting) -> Iterator[Finding]:
    rng = random_of("batch norms")
    shape = (2, *setting.map_hw(8), 128)
    x = (1 + 2 * rng.standard_normal(shape)).astype(np.float32)
    scale, bias, mean = rng.standard_normal((3, shape[-1])).astype(np.float32)
    var = np.exp(rng.standard_normal(shape[-1])).astype(np.float32)
    constants = {"scale": scale, "bias": bias, "mean": mean, "var": var}
    wide = x.astype(np.float64)

    def normalise(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
        return (wide - mean) / np.sqrt(var.astype(np.float64) + EPS) * scale + bias

    @jax.jit
    def normalise_by_constants(x: jax.Array, constants: dict[str, jax.Array]) -> jax.Array:
        factor, shift = layers.FrozenBatchNorm(EPS).apply({"frozen": constants}, x.shape[-1])
        return x * layers.per_channel(factor) + layers.per_channel(shift)

    error = relative_error(normalise_by_constants(x, constants), normalise(mean, var))
    yield Finding("frozen batch norm", shape_text(*shape), error, ELEMENTWISE)

    inside = np.zeros((*shape[:3], 1), bool)
    inside[:, : shape[1] - 3, : shape[2] - 5] = True
    cells = wide[inside[..., 0]]  # [cells, D]
    synchronised = layers.SyncBatchNorm(EPS, train=True, axis_name=None)

    def run(
        x: jax.Array, inside: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array
    ) -> tuple:
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
        return synchronised.apply(variables, x, inside, mutable=["batch_stats"])

    found, updates = jax.jit(run)(x, inside, scale, bias, mean, var)
    yield Finding(
        "batch norm",
        shape_text(*shape),
        relative_error(found, normalise(cells.mean(axis=0), cells.var(axis=0))),
        FLOAT32,
    )
    running = 0.9 * var + 0.1 * cells.var(axis=0, ddof=1)
    error = relative_error(updates["batch_stats"]["var"], running)
    yield Finding("batch norm: running variance", shape_text(*shape), error, FLOAT32)


def _check_reductions(setting: Setting) -> Iterator[Finding]:
    rng = random_of("reductions")
    height, width = setting.map_hw(4)
    x = rng.standard_normal((height * width, 96), dtype=np.float32) + np.float32(0.5)
    wide = x.astype(np.float64)

    def run(x: jax.Array) -> tuple[jax.Array, ...]:
        return x.sum(axis=0), (x * x).sum(axis=1), x.mean(), x.max(axis=0), jax.nn.log_softmax(x, axis=-1)

    shifted = wide - wide.max(axis=1, keepdims=True)
    expected = (
        wide.sum(axis=0),
        (wide * wide).sum(axis=1),
        wide.mean(),
        wide.max(axis=0),
        shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)),
    )
    names = ("sum over rows", "sum of squares of each row", "mean", "maximum", "log softmax")
    for name, found, truth in zip(names, jax.jit(run)(x), expected, strict=True):
        yield Finding(name, shape_text(*x.shape), relative_error(found, truth), FLOAT32)


def _check_upsampling(setting: Setting) -> Iterator[Finding]:
    kind = "transposed convolution"
    rng = random_of(kind)
    x = rng.standard_normal((max(setting.num_rois // 8, 4), 14, 14, 256), dtype=np.float32)
    kernel = rng.standard_normal((2, 2, 256, 256), dtype=np.float32) / np.float32(16)
    bias = rng.standard_normal(256, dtype=np.float32)
    signs = rng.choice([-1.0, 1.0], 256)
    upconv = heads.Upconv(256, jnp.dtype("float32"))
    expected = np.einsum("nhwd,abd->nhawb", x.astype(np.float64), kernel.astype(np.float64) @ signs, optimize=True)
    expected = expected.reshape(len(x), 28, 28) + bias.astype(np.float64) @ signs

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return heads.interleave(upconv.apply({"params": {"kernel": kernel, "bias": bias}}, x))

    for name, allowed in setting.at_precisions(kind):
        found = np.asarray(run(x, kernel, bias), np.float64) @ signs
        yield Finding(name, shape_text(*x.shape), relative_error(found, expected), allowed)

    coarse = rng.standard_normal((1, *setting.map_hw(16), 256), dtype=np.float32)
    wrong = np.asarray(jax.jit(fpn.upsample_nearest)(coarse)) != coarse.repeat(2, axis=1).repeat(2, axis=2)
    yield Finding("nearest upsampling", shape_text(*coarse.shape), float(jnp.sum(wrong)), EXACT)
