"""Damaged files are read or refused: nothing else escapes the reader."""

import io
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.files import read_state_dict

FORMATS = Path(__file__).parents[2] / "golden" / "formats"
GIVEN = ("tiny_zip.pth", "tiny_legacy.pth", "tiny_detectron2.pkl", "tiny_detectron2_python2.pkl", "tiny_caffe2.pkl")
MADE = ("stored.npz", "compressed.npz", "made.safetensors")
NUM_CUTS, NUM_FLIPS, NUM_SCRAMBLES = 200, 300, 40


def original(name: str) -> bytes:
    if name in GIVEN:
        return (FORMATS / name).read_bytes()
    arrays = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5), "c": np.zeros((0, 2), np.float16)}
    if name == "made.safetensors":
        return save(arrays, metadata={"format": "pt"})
    file = io.BytesIO()
    (np.savez if name == "stored.npz" else np.savez_compressed)(file, **arrays)
    return file.getvalue()


def is_refused(content: bytes, path: Path) -> bool:
    path.write_bytes(content)
    try:
        found = read_state_dict(path)
    except DataError as error:
        assert str(path) in str(error) and str(error).isprintable()
        return True
    assert found.arrays and all(array.dtype.kind in "fiub" for array in found.arrays.values())
    return False


@pytest.mark.parametrize("name", [*GIVEN, *MADE])
def test_cut_files(name: str, tmp_path: Path) -> None:
    content = original(name)
    cuts = range(0, len(content), 1 + len(content) // NUM_CUTS)
    accepted = [cut for cut in cuts if not is_refused(content[:cut], tmp_path / name)]
    assert accepted == []
    assert not is_refused(content, tmp_path / name)


@pytest.mark.parametrize("name", [*GIVEN, *MADE])
def test_flipped_bytes(name: str, tmp_path: Path) -> None:
    content, rng = original(name), np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, len(content), NUM_FLIPS):
        damaged = bytearray(content)
        damaged[position] ^= rng.integers(1, 256)
        refused += is_refused(bytes(damaged), tmp_path / name)
    assert refused > NUM_FLIPS // 20


@pytest.mark.parametrize("name", [*GIVEN, *MADE])
def test_scrambled_files(name: str, tmp_path: Path) -> None:
    """Parts of the file moved, repeated and overwritten."""
    content, rng = original(name), np.random.default_rng(1)
    for _ in range(NUM_SCRAMBLES):
        start, end, target = np.sort(rng.integers(8, len(content), 3))
        part = content[start:end]
        is_refused(content[:target] + part + content[target:], tmp_path / name)
        is_refused(content[:start] + content[end:], tmp_path / name)
        is_refused(content[:start] + bytes(end - start) + content[end:], tmp_path / name)
