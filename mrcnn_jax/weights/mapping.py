"""Mapping the arrays of a foreign checkpoint to the leaves of our tree, with a table of one row per array.

A family's table lists modules; `module` and `norm` expand a module into rows. Applying a table is strict: every array
of the source and every leaf of ours is accounted for, and everything that does not fit is reported at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mrcnn_jax.named_leaves import count_not_finite

NOT_POSITIVE = "is not positive"
Convert = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Row:
    """One array of the source and the leaf that it becomes."""

    source: str
    target: str
    convert: Convert


def keep(array: np.ndarray) -> np.ndarray:
    """Returns the array unchanged, for biases, scales and statistics."""
    return array


def conv_kernel(array: np.ndarray) -> np.ndarray:
    """Converts a convolution's kernel from [out, in, h, w] to [h, w, in, out]."""
    return array.transpose(2, 3, 1, 0)


def stem_kernel(array: np.ndarray, *, is_bgr: bool) -> np.ndarray:
    """Converts the first convolution's kernel from [out, 3, h, w] to [h, w, RGB, out]."""
    return conv_kernel(array[:, ::-1] if is_bgr else array)


def dense_kernel(array: np.ndarray) -> np.ndarray:
    """Converts a fully connected layer's kernel from [out, in] to [in, out]."""
    return array.T


def roi_dense_kernel(array: np.ndarray, *, channels: int) -> np.ndarray:
    """Converts a kernel for RoIs flattened channels first, [out, channels * S * S], to [S * S * channels, out]."""
    side = round((array.shape[1] / channels) ** 0.5)
    return array.reshape(-1, channels, side, side).transpose(2, 3, 1, 0).reshape(-1, array.shape[0])


def upconv_kernel(array: np.ndarray) -> np.ndarray:
    """Converts the [in, out, h, w] of a transposed convolution of stride h (no overlap) to [h, w, in, out]."""
    return array.transpose(2, 3, 0, 1)


def flipped_upconv_kernel(array: np.ndarray) -> np.ndarray:
    """Converts a transposed convolution's [in, out, h, w] to [h, w, in, out], flipped, since ours dilates its input."""
    return array[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)


def background_first(array: np.ndarray, *, group: int = 1) -> np.ndarray:
    """Moves the last class, background, to the front. Each class has `group` rows."""
    return np.roll(array, group, axis=0)


def add_background(array: np.ndarray, *, group: int = 1) -> np.ndarray:
    """Adds zeros for background in front, which our heads never read. Each class has `group` rows."""
    return np.concatenate([np.zeros((group, *array.shape[1:]), array.dtype), array])


def squeeze_1x1(array: np.ndarray) -> np.ndarray:
    """Converts a 1x1 convolution's kernel from [out, in, 1, 1] to [in, out]."""
    return array[:, :, 0, 0].T


def chain(*steps: Convert) -> Convert:
    """Returns the composition of the steps, applied in order."""

    def apply(array: np.ndarray) -> np.ndarray:
        for step in steps:
            array = step(array)
        return array

    return apply


def module(source: str, target: str, kernel: Convert, *, classes: Convert = keep, bias: bool = True) -> list[Row]:
    """Returns the rows of a layer's weight and bias. `classes` is applied to both first, to reorder classes."""
    rows = [Row(f"{source}.weight", f"params/{target}/kernel", chain(classes, kernel))]
    return rows + [Row(f"{source}.bias", f"params/{target}/bias", classes)] * bias


NORM_LEAVES = (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var"))


def norm(source: str, target: str, *, trained: bool = False) -> list[Row]:
    """Returns the rows of a batch norm, as constants if it is frozen, or as parameters and running statistics."""
    statistics = "batch_stats" if trained else "frozen"
    collections = ("params", "params", statistics, statistics) if trained else ("frozen",) * 4
    return [
        Row(f"{source}.{theirs}", f"{collection}/{target}/{ours}", keep)
        for (theirs, ours), collection in zip(NORM_LEAVES, collections, strict=True)
    ]


@dataclass(frozen=True)
class Mapped:
    """Leaves of our tree by name, and how the arrays were used."""

    leaves: dict[str, np.ndarray]
    used: tuple[str, ...]
    left_over: tuple[str, ...]
    problems: tuple[str, ...]
    """Every array and leaf that does not fit, by name and shape; empty if everything fits."""


def apply_rows(
    rows: Iterable[Row],
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    is_surplus: Callable[[str], bool],
    norm_eps: float,
) -> Mapped:
    """Converts the arrays to leaves of our tree, which has the names and shapes in `shapes`.

    Arrays without a row are reported as problems unless `is_surplus` accepts them. So are values that are not finite,
    and variances that produce such values with `norm_eps`.
    """
    leaves: dict[str, np.ndarray] = {}
    problems: list[str] = []
    used: list[str] = []
    for row in rows:
        if row.source not in arrays:
            problems.append(f"{row.source} is missing (for {row.target})")
            continue
        array = arrays[row.source]
        used.append(row.source)
        expected = shapes.get(row.target)
        try:
            leaf = row.convert(np.asarray(array, np.float32))
        except (ValueError, IndexError):
            leaf = None
        if expected is None:
            problems.append(f"{row.source} {_shape(array)} has no place in this model ({row.target})")
        elif leaf is None or leaf.shape != tuple(expected):
            problems.append(f"{row.source} {_shape(array)} does not fit {row.target} {list(expected)}")
        elif problem := describe_bad_values(row, leaf, norm_eps):
            problems.append(problem)
        else:
            leaves[row.target] = np.ascontiguousarray(leaf)
    left_over = tuple(name for name in arrays if name not in set(used))
    problems += [f"{name} {_shape(arrays[name])} is unknown" for name in left_over if not is_surplus(name)]
    targets = {row.target for row in rows}
    problems += [f"no array fills {name} {list(shape)}" for name, shape in shapes.items() if name not in targets]
    return Mapped(leaves, tuple(used), left_over, tuple(problems))


def describe_bad_values(row: Row, leaf: np.ndarray, norm_eps: float) -> str:
    """Returns a description of values that are not finite or variances without a root; "" if there are none."""
    if not np.isfinite(leaf).all():
        return f"{row.source} is not finite in {count_not_finite(leaf)}"
    num_bad = int((leaf + np.float32(norm_eps) <= 0).sum()) if row.target.endswith("/var") else 0  # as in the norm
    if not num_bad:
        return ""
    if leaf.min() < 0:
        return f"{row.source}, a variance, is negative in {num_bad} of {leaf.size} values (smallest: {leaf.min():g})"
    return f"{row.source} + model.norm_eps {norm_eps:g} {NOT_POSITIVE} in {num_bad} of {leaf.size} values"


def advise(problems: Sequence[str]) -> str:
    """Returns what to do about variances of 0 and other anchors among the problems; "" if there are none."""
    text = " Float16 turns small variances into 0: set --model.norm-eps 1e-5, or use the float32 file." * any(
        NOT_POSITIVE in problem for problem in problems
    )
    return text + (
        " The RPN was trained with another number of anchors per cell: set --model.anchor-ratios to its own."
        * any("does not fit params/rpn_head/objectness/kernel" in problem for problem in problems)
    )


def _shape(array: np.ndarray) -> str:
    return str(list(np.shape(array)))


def roi_dense(channels: int) -> Convert:
    """Returns the conversion for the first fully connected layer after RoI features with `channels` channels."""
    return partial(roi_dense_kernel, channels=channels)
