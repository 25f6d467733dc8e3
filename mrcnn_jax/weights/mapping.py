"""From the arrays of a foreign checkpoint to the leaves of our tree: rows of a table, each one array and its leaf.

A family's table lists modules; `module` and `norm` turn one into its rows. Applying a table is strict: every array of
the source and every leaf of ours is accounted for, and what does not fit is reported all at once.
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
    """Returns the array as it is: biases, scales, statistics."""
    return array


def conv_kernel(array: np.ndarray) -> np.ndarray:
    """Returns [h, w, in, out] of a convolution's [out, in, h, w]."""
    return array.transpose(2, 3, 1, 0)


def stem_kernel(array: np.ndarray, *, is_bgr: bool) -> np.ndarray:
    """Returns [h, w, RGB, out] of the first convolution's [out, 3, h, w]."""
    return conv_kernel(array[:, ::-1] if is_bgr else array)


def dense_kernel(array: np.ndarray) -> np.ndarray:
    """Returns [in, out] of a fully connected layer's [out, in]."""
    return array.T


def roi_dense_kernel(array: np.ndarray, *, channels: int) -> np.ndarray:
    """Returns [S * S * channels, out] of the layer behind a RoI flattened channels first, [out, channels * S * S]."""
    side = round((array.shape[1] / channels) ** 0.5)
    return array.reshape(-1, channels, side, side).transpose(2, 3, 1, 0).reshape(-1, array.shape[0])


def upconv_kernel(array: np.ndarray) -> np.ndarray:
    """Returns [h, w, in, out] of a transposed convolution's [in, out, h, w] of stride h, without overlap."""
    return array.transpose(2, 3, 0, 1)


def flipped_upconv_kernel(array: np.ndarray) -> np.ndarray:
    """Returns [h, w, in, out], flipped, of a transposed convolution's [in, out, h, w]: ours dilates its input."""
    return array[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)


def background_first(array: np.ndarray, *, group: int = 1) -> np.ndarray:
    """Returns rows of `group` per class with the last class, background, moved to the front."""
    return np.roll(array, group, axis=0)


def add_background(array: np.ndarray, *, group: int = 1) -> np.ndarray:
    """Returns rows of `group` per class with zeros for background in front; our heads never read them."""
    return np.concatenate([np.zeros((group, *array.shape[1:]), array.dtype), array])


def squeeze_1x1(array: np.ndarray) -> np.ndarray:
    """Returns [in, out] of a 1x1 convolution's [out, in, 1, 1]."""
    return array[:, :, 0, 0].T


def chain(*steps: Convert) -> Convert:
    """Returns the composition of the steps, first one first."""

    def apply(array: np.ndarray) -> np.ndarray:
        for step in steps:
            array = step(array)
        return array

    return apply


def module(source: str, target: str, kernel: Convert, *, classes: Convert = keep, bias: bool = True) -> list[Row]:
    """Returns the rows of a layer: weight and bias, each with its classes reordered first."""
    rows = [Row(f"{source}.weight", f"params/{target}/kernel", chain(classes, kernel))]
    return rows + [Row(f"{source}.bias", f"params/{target}/bias", classes)] * bias


NORM_LEAVES = (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var"))


def norm(source: str, target: str, *, trained: bool = False) -> list[Row]:
    """Returns the rows of a batch norm: constants of a frozen one, or parameters and running statistics."""
    statistics = "batch_stats" if trained else "frozen"
    collections = ("params", "params", statistics, statistics) if trained else ("frozen",) * 4
    return [
        Row(f"{source}.{theirs}", f"{collection}/{target}/{ours}", keep)
        for (theirs, ours), collection in zip(NORM_LEAVES, collections, strict=True)
    ]


@dataclass(frozen=True)
class Mapped:
    """Leaves of our tree by name, and what was done."""

    leaves: dict[str, np.ndarray]
    used: tuple[str, ...]
    left_over: tuple[str, ...]
    problems: tuple[str, ...]
    """Every array and leaf that does not fit, by name and shape; empty if all is well."""


def apply_rows(
    rows: Iterable[Row],
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    is_surplus: Callable[[str], bool],
    norm_eps: float,
) -> Mapped:
    """Converts the arrays to leaves of our tree, whose names and shapes are `shapes`.

    Arrays that no row names are left over where `is_surplus` knows them, and a problem elsewhere. So are values that
    are not finite, and variances that make such values with `norm_eps`.
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
            problems.append(f"{row.source} is {_shape(array)}, which does not become {row.target} {list(expected)}")
        elif problem := describe_bad_values(row, leaf, norm_eps):
            problems.append(problem)
        else:
            leaves[row.target] = np.ascontiguousarray(leaf)
    left_over = tuple(name for name in arrays if name not in set(used))
    problems += [f"{name} {_shape(arrays[name])} is unknown" for name in left_over if not is_surplus(name)]
    targets = {row.target for row in rows}
    problems += [f"nothing fills {name} {list(shape)}" for name, shape in shapes.items() if name not in targets]
    return Mapped(leaves, tuple(used), left_over, tuple(problems))


def describe_bad_values(row: Row, leaf: np.ndarray, norm_eps: float) -> str:
    """What the network cannot compute with in a leaf: values that are not finite, variances without a root; or ""."""
    if not np.isfinite(leaf).all():
        return f"{row.source} is not finite in {count_not_finite(leaf)}"
    num_bad = int((leaf + np.float32(norm_eps) <= 0).sum()) if row.target.endswith("/var") else 0  # as the norm adds
    if not num_bad:
        return ""
    if leaf.min() < 0:
        return f"{row.source}, a variance, is negative in {num_bad} of {leaf.size} values (smallest: {leaf.min():g})"
    return f"{row.source} + model.norm_eps {norm_eps:g} {NOT_POSITIVE} in {num_bad} of {leaf.size} values"


def advise(problems: Sequence[str]) -> str:
    """What to do about variances of 0 among the problems; "" if there are none."""
    return " Float16 turns small variances into 0: set --model.norm-eps 1e-5, or take the float32 file." * any(
        NOT_POSITIVE in problem for problem in problems
    )


def _shape(array: np.ndarray) -> str:
    return str(list(np.shape(array)))


def roi_dense(channels: int) -> Convert:
    """Returns the conversion of the first fully connected layer behind RoI features of so many channels."""
    return partial(roi_dense_kernel, channels=channels)
