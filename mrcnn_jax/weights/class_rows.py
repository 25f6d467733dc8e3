"""Layers with outputs for each class, from weights of one list of classes to a model of another, by class name.

Classes of both lists keep their outputs; the others are re-initialised (as the paper's Cityscapes models start from
COCO's: only the rider is new).
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

CLASS_LAYERS = {
    r"params/box_head(_\d)?/logits/(kernel|bias)": 1,
    r"params/box_head(_\d)?/deltas/(kernel|bias)": 4,
    r"params/mask_head/(logits/)?(kernel|bias)": 1,
}
"""Pattern of a leaf's name to how many of its last axis' values in a row belong to a class; class 0 is background."""

UNNAMED = "N/A"
"""Name of an output that its data set does not use."""


def outputs_of_a_class(name: str) -> int:
    """Values in a row that a class has on the last axis of the leaf; 0 for leaves that know no classes."""
    return next((count for pattern, count in CLASS_LAYERS.items() if re.fullmatch(pattern, name)), 0)


def shared_classes(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Label in our list to label in theirs, of the names in both; the background is in every list."""
    labels = {name: label for label, name in enumerate(theirs, start=1) if name != UNNAMED}
    return {0: 0} | {label: labels[name] for label, name in enumerate(ours, start=1) if name in labels}


def adopt_rows(
    fresh: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], ours: Sequence[str], theirs: Sequence[str]
) -> dict[str, np.ndarray]:
    """The leaves with outputs for each class, fresh but for what the shared classes have in `given`.

    Without a shared class they stay fresh as a whole. `fresh` and `given` are leaves by name, `ours` and `theirs` the
    names of the classes without background. Leaves that have one output for all classes are left out.
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
            continue  # another width: fresh, as any leaf of another shape
        if len(pairs) > 1:
            for label, their_label in pairs.items():
                rows[..., label, :] = source_rows[..., their_label, :]
        adopted[name] = rows.reshape(leaf.shape)
    return adopted
