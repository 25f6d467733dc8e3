"""The splits of data sets: as folders and files name them, or by a stable hash of the images' content."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from mrcnn_jax.data.coco_file import CocoImage
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.formats.format_data import FormatSplit
from mrcnn_jax.data.images import ImageError
from mrcnn_jax.errors import ConfigError, DataError

_NAMES = {
    "train": "train training trainset",
    "val": "val valid validation valset dev",
    "test": "test testing testset",
}
_SPLITS = {name: split for split, names in _NAMES.items() for name in names.split()}
HASHED_SPLITS = ("train", "val", "test")
"""Splits that `--split` names, in the order of its shares."""


def split_of_word(word: str) -> str:
    """Returns the split that a name means, such as val for valid and train for stage1_train2017; or nothing."""
    plain = re.sub(r"^(stage\d+|obj|img|images|labels)_|_(data|images|labels)$|_?\d{4}$", "", word.lower())
    return _SPLITS.get(plain, "")


def split_of_path(name: str) -> str:
    """Returns the split that a folder of a file's path names, the innermost if several do; or nothing."""
    return next(filter(None, map(split_of_word, reversed(name.split("/")[:-1]))), "")


def split_of_file(name: str) -> str:
    """Returns the split of an annotation file: by its own name, such as instances_val2017.json, or by its folder."""
    stem = name.split("/")[-1].partition(".")[0]
    words = [stem, *re.split(r"[_\-. ]", stem)[::-1]]
    return next(filter(None, map(split_of_word, words)), "") or split_of_path(name)


def parse_shares(text: str) -> tuple[float, ...]:
    """Returns the shares of train, val and test in a text such as 0.8,0.2. Raises ValueError."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if not 2 <= len(shares) <= 3 or not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"expected two or three shares that sum to 1, such as 0.8,0.2 for train and val, got {text!r}")
    return shares


def position_of(data: bytes) -> float:
    """Returns where an encoded image lies between 0 and 1: a hash of its bytes, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "big") / 2**56


def divide(split: FormatSplit, shares: Sequence[float]) -> list[FormatSplit]:
    """Returns train, val and, with three shares, test.

    An image's split depends on its own bytes alone: copies stay together, and an image stays in its split when others
    are added. Images that cannot be read are counted with train, and so is what else was found. Raises DataError if a
    split gets no image.
    """
    parts: list[list[CocoImage]] = [[] for _ in shares]
    ends = [sum(shares[: number + 1]) for number in range(len(shares) - 1)]
    for image in split.coco.images:
        try:
            position = position_of(split.folder.locate(image.file_name)[0].read_bytes())
        except (ImageError, OSError):
            position = 0.0
        parts[sum(position >= end for end in ends)].append(image)
    divided = []
    for number, (name, images) in enumerate(zip(HASHED_SPLITS, parts, strict=False)):
        if not images:
            total = len(split.coco.images)
            raise DataError(f"The split {name} gets none of {total} images. Choose another --split, or add images.")
        others = sum(len(part) for part in parts) - len(images)
        objects = sum(len(image.annotations) for image in images)
        other_objects = sum(len(image.annotations) for image in split.coco.images) - objects
        found = split.coco.findings
        if number == 0:
            findings = replace(
                found, num_images=found.num_images - others, num_objects=found.num_objects - other_objects
            )
        else:
            findings = Findings(len(images), objects)
        coco = replace(split.coco, images=tuple(images), findings=findings)
        divided.append(replace(split, name=name, coco=coco))
    return divided


def choose_splits(splits: list[FormatSplit], shares: Sequence[float]) -> list[FormatSplit]:
    """Returns the splits of the data set or, with `shares`, those by hash; a lone nameless one is train.

    Raises ConfigError if shares are given and the data set has several splits of its own.
    """
    if shares and len(splits) > 1:
        names = ", ".join(split.name for split in splits)
        raise ConfigError(f"The data set has the splits {names}; leave out --split to keep them.")
    if shares:
        return divide(splits[0], shares)
    return [replace(split, name=split.name or "train") for split in splits]
