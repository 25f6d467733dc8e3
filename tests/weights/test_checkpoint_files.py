"""Foreign checkpoint files: what the originals write is read exactly, all else is refused, quickly, in words."""

import resource
import time
from pathlib import Path

import numpy as np
import pytest

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.files import read_state_dict
from tests.weights import hostile

FORMATS = Path(__file__).parents[1] / "golden" / "formats"
HOSTILE = hostile.all_files()


def expected(*names: str) -> dict[str, np.ndarray]:
    return {key: array for name in names for key, array in np.load(FORMATS / f"{name}.npz").items()}


@pytest.mark.parametrize(
    ("name", "kind", "contents"),
    [
        ("tiny_zip.pth", "torch zip", ("expected", "expected_torch_extra")),
        ("tiny_legacy.pth", "torch before 1.6", ("expected", "expected_torch_extra")),
        ("tiny_training_checkpoint.pth", "torch zip", ("expected", "expected_torch_extra")),
        ("tiny_detectron2.pkl", "pickle (Detectron2)", ("expected",)),
        ("tiny_detectron2_python2.pkl", "pickle (Detectron2)", ("expected_python2",)),
    ],
)
def test_files_of_the_originals(name: str, kind: str, contents: tuple[str, ...]) -> None:
    found, arrays = read_state_dict(FORMATS / name), expected(*contents)
    assert found.format == kind
    # Python numbers are no arrays; the originals' scalars are.
    assert {key for key, array in arrays.items() if array.ndim} <= set(found.arrays) <= set(arrays)
    for key, array in found.arrays.items():
        dtype = np.dtype(np.float32) if arrays[key].dtype.kind == "f" else arrays[key].dtype
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, arrays[key].astype(dtype))


def test_caffe2_pickle() -> None:
    found = read_state_dict(FORMATS / "tiny_caffe2.pkl")
    assert found.format == "pickle (Caffe2)" and found.arrays["conv1_w"].shape == (4, 3, 7, 7)
    assert np.isfinite(found.arrays["conv1_w"]).all()


def test_npz_and_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1.5, 2], np.float16),
        "c": np.array([[1], [2]], np.int64),
        "d": np.zeros((0, 3), np.float64),
    }
    np.savez(tmp_path / "w.npz", **arrays, fortran=np.asfortranarray(arrays["a.weight"]))
    save_file(arrays, tmp_path / "w.safetensors")
    for name, kind in (("w.npz", "npz"), ("w.safetensors", "safetensors")):
        found = read_state_dict(tmp_path / name)
        assert found.format == kind
        for key, array in arrays.items():
            np.testing.assert_array_equal(found.arrays[key], array)
    np.testing.assert_array_equal(read_state_dict(tmp_path / "w.npz").arrays["fortran"], arrays["a.weight"])


def test_the_wrappers_prefix_is_dropped(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{"module.a": np.zeros(2), "module.b": np.zeros(3)})
    assert set(read_state_dict(tmp_path / "w.npz").arrays) == {"a", "b"}


def test_the_test_files_own_writer_makes_readable_files(tmp_path: Path) -> None:
    # Otherwise the hostile ones below could be refused for another reason than their own.
    (tmp_path / "good.pth").write_bytes(hostile.torch_zip(hostile.GOOD, np.arange(4, dtype=np.float32).tobytes()))
    np.testing.assert_array_equal(read_state_dict(tmp_path / "good.pth").arrays["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize("name", [*sorted(path.name for path in FORMATS.glob("hostile_*")), *HOSTILE])
def test_hostile_files_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name.replace("/", "_")
    path.write_bytes(HOSTILE[name] if name in HOSTILE else (FORMATS / name).read_bytes())
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(DataError) as error:
        read_state_dict(path)
    seconds, grown = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 1000
    assert seconds < 5 and grown < 200_000  # kB; a second on an idle machine, and CI is none
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.pth"):
        with pytest.raises(DataError, match="cannot be read"):
            read_state_dict(path)


@pytest.mark.parametrize(
    "name", ["tiny_zip.pth", "tiny_legacy.pth", "tiny_detectron2.pkl", "tiny_detectron2_python2.pkl", "tiny_caffe2.pkl"]
)
def test_damage_is_read_or_refused(name: str, tmp_path: Path) -> None:
    data, path, rng = (FORMATS / name).read_bytes(), tmp_path / name, np.random.default_rng(0)
    damaged = [data[:length] for length in range(0, len(data), 1 + len(data) // 150)]
    for position, bit in zip(rng.integers(0, len(data), 300), rng.integers(0, 8, 300), strict=True):
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read_state_dict(path)
        except DataError:
            refused += 1
    assert refused > 100
