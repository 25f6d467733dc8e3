"""Opening prepared folders: which split a name means, and damage is an error that says what to do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.errors import ConfigError, DataError


def test_names_of_splits(small_coco: Any) -> None:
    small_coco.prepare("train")
    folder = small_coco.root / "prepared"
    assert open_dataset(str(folder)).path == folder / "train"
    small_coco.prepare("val")
    assert open_dataset(f"{folder}:val").name == "prepared:val"
    assert open_dataset(str(folder / "val")).path == folder / "val"
    with pytest.raises(ConfigError, match=r"several splits; choose one of .*prepared:train, .*prepared:val"):
        open_dataset(str(folder))
    with pytest.raises(ConfigError, match=r"no split 'tests'; choose one of .*prepared:train"):
        open_dataset(f"{folder}:tests")


@pytest.mark.parametrize("spec", ["", "nowhere", "nowhere:train", "."])
def test_missing_folders_say_how_to_make_them(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"mrcnn prepare"):
        open_dataset(spec)


def test_sizes_and_ids_are_known_without_decoding(small_coco: Any) -> None:
    dataset = small_coco.prepare()
    np.testing.assert_array_equal(dataset.sizes, [[24, 32], [40, 30], [24, 32]])
    assert len(dataset) == 3 and dataset.image_ids.dtype == np.int64 and len(dataset.fingerprint) == 64
    with pytest.raises(IndexError):
        dataset[3]
    with pytest.raises(IndexError):
        dataset[-1]


def test_other_formats_and_damaged_folders_are_refused(small_coco: Any) -> None:
    path = small_coco.prepare().path
    metadata, info = path / "metadata.json", path / "dataset_info.json"
    content = json.loads(metadata.read_text())
    for file, text, message in (
        (metadata, json.dumps(content | {"format": 3}), "has format 3"),
        (metadata, json.dumps(content | {"image_ids": [1], "image_hw": [[2, 3]]}), "incomplete"),
        (metadata, "{", "cannot be read"),
        (info, "{}", "cannot be read"),
        (info, "text", "cannot be read"),
    ):
        before = file.read_text()
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            open_dataset(str(path))
        file.write_text(before)
    assert len(open_dataset(str(path))) == 3


def test_flipped_bits_in_the_records_are_errors_or_harmless(small_coco: Any) -> None:
    dataset = small_coco.prepare()
    expected = [record.image.tobytes() for record in dataset]
    (file,) = dataset.path.glob("*.array_record*")
    original = file.read_bytes()
    outcomes = set()
    for position in range(0, 4000, 97):
        damaged = bytearray(original)
        damaged[position] ^= 16
        file.write_bytes(damaged)
        try:
            outcomes.add([record.image.tobytes() for record in open_dataset(str(dataset.path))] == expected)
        except DataError:
            outcomes.add("refused")
    assert outcomes == {True, "refused"}
