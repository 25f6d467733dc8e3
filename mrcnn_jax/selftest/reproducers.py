"""Reproducers of known faults of jaxlib that take seconds, as they were reported; `known_faults` has the sources."""

import os
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.known_faults import NO_REDUCTIONS
from mrcnn_jax.selftest.findings import ELEMENTWISE, EXACT, REDUCED, Finding, Setting, random_of, relative_error

WITHOUT_REDUCTIONS = f"set XLA_FLAGS={NO_REDUCTIONS}, since jaxlib's YNNPACK fuses reductions incorrectly"
ROWS = 32769
"""Smallest number of rows with the fault."""
RANK_7 = """
import jax, jax.numpy as jnp
for shape in ((3, 1, 2, 2, 8, 8, 8), (3, 4, 2, 3, 8, 8, 8)):
    x = jnp.arange(3 * 8 * 8 * 8 * shape[1] * shape[2] * shape[3], dtype=jnp.float32).reshape(shape) % 7
    total = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(x, x)
    assert bool((total == (x * x).sum(axis=3)).all()), "wrong"
"""
RANK_7_SECONDS = 30
"""Time limit of the script, which takes two seconds; with the fault, it crashes at once or never ends."""


def check_known_faults(setting: Setting) -> Iterator[Finding]:
    """Runs reproducers of faults that are silent or end the process."""
    yield from _check_matrix_vector_products()
    if jax.default_backend() == "cpu":
        yield from _check_rank_7()
    yield from _check_arctan()
    yield from _check_eager_and_jitted()
    yield from _check_product_and_sum(setting)


def _check_matrix_vector_products() -> Iterator[Finding]:
    """Reproduces jax 39103."""
    rows = np.zeros((ROWS, 3), np.float32)
    rows[:, 0] = np.arange(ROWS)

    def run(x: jax.Array) -> jax.Array:
        matrix = jnp.eye(3, dtype=jnp.float32)
        return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(x)

    with jax.default_matmul_precision("highest"):
        found = jax.jit(run)(rows)
    error = relative_error(found, (rows.astype(np.float64) ** 2).sum(axis=1))
    remedy = WITHOUT_REDUCTIONS if jax.default_backend() == "cpu" else ""
    yield Finding("jax 39103: products of rows, squared and summed", f"{ROWS}x3", error, ELEMENTWISE, remedy)


def _check_rank_7() -> Iterator[Finding]:
    """Reproduces jax 39257 and 40412 in a separate process, because they crash or hang."""
    command = [sys.executable, "-c", RANK_7]
    environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
    try:
        failed = subprocess.run(command, env=environ, capture_output=True, timeout=RANK_7_SECONDS).returncode != 0
    except subprocess.TimeoutExpired:
        failed = True
    yield Finding("jax 39257: sums of products at rank 7", "2 programs", float(failed), EXACT, WITHOUT_REDUCTIONS)


def _check_arctan() -> Iterator[Finding]:
    """Reproduces jax 39352."""
    x = np.linspace(-10, 10, 1000, dtype=np.float32)
    error = max(relative_error(run(x), np.arctan(x.astype(np.float64))) for run in (jnp.arctan, jax.jit(jnp.arctan)))
    remedy = "install another jaxlib; this package itself does not use arctan"
    yield Finding("jax 39352: arctan", "1000", error, ELEMENTWISE, remedy)


def _check_eager_and_jitted() -> Iterator[Finding]:
    """Reproduces jax 40633: wrong operations outside of jit."""
    found = [jnp.sqrt(jnp.float32(512)), *(jnp.ones(4) + 1), jnp.arange(5, dtype=jnp.float32).sum()]
    error = relative_error([float(value) for value in found], [np.sqrt(512), 2, 2, 2, 2, 10])
    uniform = np.asarray(jax.random.uniform(jax.random.key(0), (1000,)))
    out_of_range = float((~((uniform >= 0) & (uniform < 1))).sum())
    remedy = "install another jaxlib, since operations outside of jax.jit are wrong"
    yield Finding("jax 40633: operations outside of jit", "6", error, ELEMENTWISE, remedy)
    yield Finding("jax 40633: random numbers outside of jit", "1000", out_of_range, EXACT, remedy)


def _check_product_and_sum(setting: Setting) -> Iterator[Finding]:
    """Checks products that are fused with the following operations, as in jax 39486: a softmax of 512 rows."""
    rng = random_of("fused products")
    a, b = (rng.standard_normal(shape, dtype=np.float32) / 16 for shape in ((512, 256), (256, 2048)))

    def run(a: jax.Array, b: jax.Array) -> jax.Array:
        product = a @ b
        return jax.nn.softmax(jnp.concatenate([product[:, 1024:], product[:, :1024]], axis=1), axis=-1)

    product = a.astype(np.float64) @ b.astype(np.float64)
    powers = np.exp(np.roll(product, 1024, axis=1))
    expected = powers / powers.sum(axis=1, keepdims=True)
    for name, allowed in setting.at_precisions("jax 39486: softmax of a product"):
        remedy = "see --xla_gpu_verify_triton_fusion_numerics" if allowed == REDUCED else ""
        yield Finding(name, "512x2048", relative_error(jax.jit(run)(a, b), expected), allowed, remedy)
