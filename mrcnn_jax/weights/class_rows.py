"""Transfer of per-class outputs between models with different lists of classes, by class name.

Classes in both lists keep their outputs, and the others are re-initialised. This is how the paper's Cityscapes models
start from COCO's: only the rider is new.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

CLASS_LAYERS = {
    r"params/box_head(_\d)?/logits/(kernel|bias)": 1,
    r"params/box_head(_\d)?/deltas/(kernel|bias)": 4,
    r"params/mask_head/(logits/)?(kernel|bias)": 1,
}
"""Maps patterns of leaf names to the number of consecutive values per class on the last axis. Background is class 0."""

UNNAMED = "N/A"
"""Name of a class output that the data set does not use."""


def outputs_of_a_class(name: str) -> int:
    """Returns the number of consecutive values per class on the leaf's last axis; 0 for leaves without classes."""
    return next((count for pattern, count in CLASS_LAYERS.items() if re.fullmatch(pattern, name)), 0)


def shared_classes(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Returns a map from our labels to theirs for the names in both lists; background is in every list."""
    labels = {name: label for label, name in enumerate(theirs, start=1) if name != UNNAMED}
    return {0: 0} | {label: labels[name] for label, name in enumerate(ours, start=1) if name in labels}


def adopt_rows(
    fresh: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], ours: Sequence[str], theirs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns the leaves with per-class outputs: shared classes have those of `given`, the others those of `fresh`.

    Without shared classes, all outputs are those of `fresh`. `fresh` and `given` are leaves by name; `ours` and
    `theirs` are the names of the classes without background. Leaves with one output for all classes are left out.
    """
    pairs = shared_classes(ours, theirs)
    adopted = {}
    for name, leaf in fresh.items():
        per_class = outputs_of_a_class(name)
        source = given.get(name)
        if not per_class or source is None or leaf.ndim != source.ndim:
            continue
        sides = [(leaf, (len(ours) + 1) * per_class), (source, (len(theirs) + 1) * per_class)]
        if any(array.shape[-1] % width for array, width in sides):
            continue
        rows = np.array(leaf).reshape(*leaf.shape[:-1], -1, len(ours) + 1, per_class)
        source_rows = np.asarray(source).reshape(*source.shape[:-1], -1, len(theirs) + 1, per_class)
        if rows.shape[:-2] != source_rows.shape[:-2]:
            continue  # different width: stays fresh, like any leaf with a different shape
        if len(pairs) > 1:
            for label, their_label in pairs.items():
                rows[..., label, :] = source_rows[..., their_label, :]
        adopted[name] = rows.reshape(leaf.shape)
    return adopted
