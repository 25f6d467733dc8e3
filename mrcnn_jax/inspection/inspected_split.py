"""The splits that are inspected: the facts of their images, read once, and their objects as one table.

Shapes: N images, K objects of all images in their order.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.config import Canvas, Config
from mrcnn_jax.data.dataset import Dataset, open_dataset
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.transforms import fit_size
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inspection.image_facts import ImageFacts, measure_image

_CHUNK = 32  # images between two reports of the progress


class ObjectTable:
    """The objects of a split, with the columns of `ObjectFacts` joined; crowds are included."""

    def __init__(self, images: Sequence[ImageFacts]) -> None:
        facts = [image.objects for image in images]

        def join(name: str, empty: tuple[int, ...] = (0,)) -> np.ndarray:
            columns = [getattr(each, name) for each in facts if len(each)]
            return np.concatenate(columns) if columns else np.zeros(empty)

        self.image = np.repeat(np.arange(len(facts)), [len(each) for each in facts])  # [K] positions of images
        self.place = np.concatenate(
            [np.arange(len(each)) for each in facts] or [np.zeros(0, int)]
        )  # [K] within its image
        self.labels = join("labels").astype(np.int64)  # [K]
        self.is_crowd = join("is_crowd").astype(np.bool_)  # [K]
        self.boxes = join("boxes", (0, 4))  # [K, 4]
        self.outside = join("outside")  # [K]
        self.areas = join("areas")  # [K]
        self.mask_boxes = join("mask_boxes", (0, 4))  # [K, 4]
        self.mask_areas = join("mask_areas")  # [K]
        self.is_rectangle = join("is_rectangle").astype(np.bool_)  # [K]

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class InspectedSplit:
    """One split with the facts of its images, and the sizes at which the model gets them."""

    name: str
    dataset: Dataset
    images: tuple[ImageFacts, ...]
    is_training: bool  # else it is evaluated
    network_hw: np.ndarray  # [N, 2] size of each image at the network's input
    canvas_hw: np.ndarray  # [N, 2]

    @cached_property
    def objects(self) -> ObjectTable:
        """All objects of the split."""
        return ObjectTable(self.images)

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of objects of each image without crowds, [N]."""
        own = self.objects
        return np.bincount(own.image[~own.is_crowd], minlength=len(self.images))

    @cached_property
    def network_boxes(self) -> np.ndarray:
        """Boxes of all objects at the network's input, [K, 4]."""
        scale = self.network_hw / np.maximum(self.dataset.sizes, 1)  # [N, 2]
        return self.objects.boxes * scale[:, [1, 0, 1, 0]][self.objects.image]

    @cached_property
    def class_counts(self) -> np.ndarray:
        """Number of objects of each category without crowds, [C]."""
        labels = self.objects.labels[~self.objects.is_crowd]
        return np.bincount(labels, minlength=len(self.dataset.categories) + 1)[1:]

    def find_objects(self, label: int) -> np.ndarray:
        """Returns the rows of the objects of a class without crowds, the largest first."""
        rows = np.flatnonzero((self.objects.labels == label) & ~self.objects.is_crowd)
        return rows[np.argsort(-self.objects.areas[rows], kind="stable")]

    @cached_property
    def preparation(self) -> dict[str, Any]:
        """What preparation wrote into skipped.json; empty if it is missing or damaged."""
        try:
            content = json.loads((self.dataset.path / "skipped.json").read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class InspectedData:
    """All splits, and the settings with which they are to be used."""

    splits: tuple[InspectedSplit, ...]
    config: Config


def find_splits(specs: Sequence[str], names: Sequence[str] = ()) -> list[tuple[str, Dataset]]:
    """Opens all splits that `specs` name, each DIR or DIR:SPLIT; of a DIR only the splits `names`, or all if empty.

    Returns the datasets with unique names, training splits first. Raises DataError or ConfigError.
    """
    if not specs:
        raise ConfigError("Name the prepared data: --data DIR. See --help.")
    opened: dict[Path, Dataset] = {}
    for spec in specs:
        folder = Path(spec)
        has_splits = folder.is_dir() and not (folder / "metadata.json").is_file()
        found = sorted(path.parent.name for path in folder.glob("[!.]*/metadata.json")) if has_splits else []
        wanted = [f"{spec}:{name}" for name in (names or found)] if found else [spec]
        for each in wanted:
            dataset = open_dataset(each)
            opened.setdefault(dataset.path.resolve(), dataset)
    datasets = sorted(opened.values(), key=lambda dataset: not _is_training(dataset))
    short = [dataset.path.resolve().name for dataset in datasets]
    is_unique = len(set(short)) == len(short)
    return [(name if is_unique else dataset.name, dataset) for name, dataset in zip(short, datasets, strict=True)]


def _is_training(dataset: Dataset) -> bool:
    return dataset.path.resolve().name.startswith("train")


def inspect_splits(
    found: Sequence[tuple[str, Dataset]],
    config: Config,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> InspectedData:
    """Returns the facts of all images of the splits, each of which is decoded once. Several threads read.

    A split is for training if its name starts with `train`; if there is none, the first one is.
    """
    total = sum(len(dataset) for _, dataset in found)
    num_training = max(1, sum(_is_training(dataset) for _, dataset in found))
    done = 0
    splits = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for position, (name, dataset) in enumerate(found):
            images: list[ImageFacts] = []
            for start in range(0, len(dataset), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(dataset)))
                images += pool.map(partial(measure_image, dataset), chunk)
                done += len(chunk)
                progress(done, total)
            is_training = position < num_training
            network_hw, canvas_hw = fit_sizes(dataset.sizes, config, is_training=is_training)
            splits.append(InspectedSplit(name, dataset, tuple(images), is_training, network_hw, canvas_hw))
    return InspectedData(tuple(splits), config)


def fit_sizes(sizes: np.ndarray, config: Config, *, is_training: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sizes [N, 2] at the network's input, at the largest short side, and the canvases [N, 2]."""
    short_side = max(config.data.short_sides) if is_training else config.test.short_side
    section = config.data if is_training else config.test
    fitted: dict[ImageHW, tuple[ImageHW, Canvas]] = {}
    for height, width in np.unique(sizes, axis=0).tolist():
        fitted[height, width] = fit_size((height, width), short_side, section.max_side, section.canvases)
    rows = [fitted[height, width] for height, width in sizes.tolist()]
    network_hw = np.array([network for network, _ in rows], np.int64).reshape(-1, 2)
    return network_hw, np.array([canvas for _, canvas in rows], np.int64).reshape(-1, 2)
