"""COCO annotation files with their images in a folder or archive, as Roboflow and CVAT export them."""

import posixpath
from pathlib import Path
from typing import Any

from mrcnn_jax.data.coco_file import read_coco_content
from mrcnn_jax.data.coco_json import parse_coco_json
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault, MemberFolder
from mrcnn_jax.data.formats.format_data import FormatSplit
from mrcnn_jax.data.formats.split_names import split_of_file, split_of_path
from mrcnn_jax.errors import ConfigError, DataError

_NUM_NAMES = 50  # images of a file that are looked for in a folder
_SUFFIXES = (".json", ".gz")


def recognise(files: DatasetFiles) -> str:
    """Returns why the files are COCO's, or nothing."""
    found = [name for name in files.sample(*_SUFFIXES) if _load(files, name) is not None]
    return f"{found[0]} has images and annotations or categories" if found else ""


def _load(files: DatasetFiles, name: str) -> tuple[bytes, dict[str, Any], str | None] | None:
    """Returns what `parse_coco_json` does; None if the file is another."""
    if name.endswith(".gz") and not name.endswith(".json.gz"):
        return None
    try:
        data, content, note = parse_coco_json(Path(name), files.read(name))
    except (DataError, FileFault):
        return None
    is_coco = isinstance(content.get("images"), list | dict) and ("annotations" in content or "categories" in content)
    return (data, content, note) if is_coco and "segments_info" not in str(content.get("annotations"))[:2000] else None


def read(files: DatasetFiles) -> list[FormatSplit]:
    """Returns a split for each annotation file. Raises ConfigError if two are of one split, and DataError."""
    import hashlib

    found = {name: loaded for name in files.with_suffix(*_SUFFIXES) if (loaded := _load(files, name)) is not None}
    if not found:
        raise DataError(f"{files.path} has no COCO annotation file with images and annotations.")
    names: dict[str, str] = {}
    for name in found:
        split = split_of_file(name)
        if split in names:
            raise ConfigError(
                f"{names[split]} and {name} are both for {split or 'all images'}: name one with prepare coco, "
                f"--annotations {files.path / name}."
            )
        names[split] = name
    splits = []
    for split, name in sorted(names.items()):
        data, content, note = found[name]
        path = files.path / name
        notes = [f"{path}: {note}."] if note else []
        coco = read_coco_content(path, content, hashlib.sha256(data).hexdigest(), Findings(notes=notes))
        folder = _choose_folder(files, name, split, [image.file_name for image in coco.images[:_NUM_NAMES]])
        splits.append(FormatSplit(split, coco, MemberFolder(files, folder)))
    return splits


def _choose_folder(files: DatasetFiles, name: str, split: str, images: list[str]) -> str:
    """Returns the folder in which most of the images have exactly these names, or the whole data set.

    Of several, those of the file's split come first, then the nearest.
    """
    own = posixpath.dirname(name)
    folders = {posixpath.dirname(image) for image in files.images}
    folders |= {posixpath.dirname(folder) for folder in folders} | {own}

    def rank(folder: str) -> tuple[int, bool, int, str]:
        there = sum(posixpath.join(folder, image) in files for image in images)
        is_of_split = folder == own or (split != "" and split_of_path(f"{folder}/x") == split)
        return -there, not is_of_split, len(posixpath.relpath(folder or ".", own or ".").split("/")), folder

    best = min(folders, key=rank)
    return best if rank(best)[0] < 0 else ""
