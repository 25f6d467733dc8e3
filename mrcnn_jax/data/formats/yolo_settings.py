"""What accompanies YOLO's labels: data.yaml with names, splits and keypoints, or a plain list of names."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault, join
from mrcnn_jax.data.formats.split_names import split_of_word
from mrcnn_jax.data.json_values import read_integer
from mrcnn_jax.errors import DataError

_SPLIT_KEYS = ("train", "val", "valid", "test")
_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels.txt", "notes.names")
_MAX_YAML = 2**24  # bytes


@dataclass
class YoloSettings:
    """What the labels do not contain themselves."""

    name: str = ""  # of the file
    names: list[str] = field(default_factory=list)  # of the classes by number; empty if there is no list
    splits: dict[str, list[str]] = field(default_factory=dict)  # folders of images, or .txt files that list images
    keypoint_shape: tuple[int, int] = (0, 0)  # number of keypoints, and numbers a keypoint: 2, or 3 with visibility
    keypoints: list[str] = field(default_factory=list)  # names
    notes: list[str] = field(default_factory=list)


def find_settings(files: DatasetFiles) -> str:
    """Returns the YAML file with names or, without one, the list of names; nothing if there is neither."""
    for name in sorted(files.with_suffix(".yaml", ".yml"), key=lambda name: name.count("/")):
        if "names" in _load_yaml(files, name):
            return name
    lists = [name for name in files.names if posixpath.basename(name).lower() in _NAME_FILES]
    return min(lists, key=lambda name: name.count("/"), default="")


def _load_yaml(files: DatasetFiles, name: str) -> Mapping[str, Any]:
    import yaml

    try:
        text = files.read_text(name)
        content = yaml.safe_load(text) if len(text) <= _MAX_YAML and "<<" not in text else None
    except (FileFault, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def read_settings(files: DatasetFiles) -> YoloSettings:
    """Returns the settings of a data set. Raises DataError if data.yaml has an entry that cannot be read."""
    name = find_settings(files)
    if not name:
        note = "There is no data.yaml and no classes.txt: classes are named by their numbers."
        return YoloSettings(notes=[note])
    if not name.endswith((".yaml", ".yml")):
        try:
            lines = [line.strip() for line in files.read_text(name).splitlines()]
        except FileFault as fault:
            raise DataError(f"{files.path / name}: {fault.reason}.") from None
        return YoloSettings(name, _unique(files, name, [line for line in lines if line]))
    content = _load_yaml(files, name)
    settings = YoloSettings(name, _read_names(files, name, content["names"]))
    for key in _SPLIT_KEYS:
        entries = content.get(key)
        found = []
        for entry in entries if isinstance(entries, list) else [entries] if entries else []:
            if place := _find_place(files, name, content.get("path"), str(entry)):
                found.append("" if place == "." else place)
            else:
                settings.notes.append(f"{name}: {key} names {str(entry)[:200]!r}, which is not in the data set.")
        if found:
            settings.splits.setdefault(split_of_word(key), []).extend(found)
    _read_keypoints(files, name, content, settings)
    return settings


def _read_names(files: DatasetFiles, name: str, given: object) -> list[str]:
    if isinstance(given, dict):
        numbers = {read_integer(key): str(value) for key, value in given.items()}
        count = max((number for number in numbers if number is not None), default=-1) + 1
        if None in numbers or not 0 < count <= 10**5 or min(number or 0 for number in numbers) < 0:
            raise DataError(f"{files.path / name}: names is not a list, nor names by number from 0 on.")
        return _unique(files, name, [numbers.get(number, f"class {number}") for number in range(count)])
    if not isinstance(given, list) or not given:
        raise DataError(f"{files.path / name}: names is not a list, nor names by number from 0 on.")
    return _unique(files, name, list(map(str, given)))


def _unique(files: DatasetFiles, name: str, names: list[str]) -> list[str]:
    repeated = sorted({each for each in names if names.count(each) > 1}) if len(names) < 10**4 else []
    if repeated or not names:
        what = f"names {repeated[0]!r} twice" if repeated else "lists no names"
        raise DataError(f"{files.path / name} {what}. Give each class a name of its own.")
    return names


def _find_place(files: DatasetFiles, name: str, root: object, entry: str) -> str | None:
    """Returns the folder or list in the data set that an entry means, whatever machine it was written on."""
    folder = posixpath.dirname(name)
    entry = entry.replace("\\", "/").rstrip("/")
    under = root.replace("\\", "/") if isinstance(root, str) else ""
    parts = [part for part in entry.split("/") if part not in ("", ".", "..")]
    candidates = [join(join(folder, under), entry), join(folder, entry)]
    candidates += [join(folder, "/".join(parts[start:])) for start in range(len(parts) + 1)]
    for place in candidates:
        if place in files if place.endswith(".txt") else _has_images(files, place):
            return place
    return None


def _has_images(files: DatasetFiles, folder: str) -> bool:
    if folder == ".":
        return False
    return any(name.startswith(f"{folder}/") for name in files.images)


def _read_keypoints(files: DatasetFiles, name: str, content: Mapping[str, Any], settings: YoloSettings) -> None:
    shape = content.get("kpt_shape")
    if shape is None:
        return
    numbers = [read_integer(side) for side in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or not 0 < (numbers[0] or 0) < 1000 or numbers[1] not in (2, 3):
        raise DataError(f"{files.path / name}: kpt_shape is not [number of keypoints, 2 or 3].")
    count, per_point = numbers
    assert count is not None and per_point is not None
    settings.keypoint_shape = (count, per_point)
    given = content.get("kpt_names")
    rows = list(given.values()) if isinstance(given, dict) else [given]
    first = rows[0] if rows else None
    if isinstance(first, list) and len(first) == count:
        settings.keypoints = list(map(str, first))
        return
    pairs = content.get("flip_idx")
    pairs = pairs if isinstance(pairs, list) and len(pairs) == count else list(range(count))
    settings.keypoints = [_name_keypoint(index, other) for index, other in enumerate(pairs)]
    settings.notes.append(f"{name} has no kpt_names: keypoints are numbered, and left and right follow flip_idx.")


def _name_keypoint(index: int, other: object) -> str:
    """Returns a name by which a flip exchanges the keypoint with its `other`."""
    if not isinstance(other, int) or other == index:
        return f"keypoint_{index + 1}"
    return f"left_keypoint_{index + 1}" if index < other else f"right_keypoint_{other + 1}"
