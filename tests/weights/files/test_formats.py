"""Checkpoint files that the originals wrote, or that are written here, are read exactly."""

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.files import read_state_dict
from tests.weights.files import craft

FORMATS = Path(__file__).parents[2] / "golden" / "formats"
PLAIN, TORCH = ("expected",), ("expected", "expected_torch_extra")


def expected(*names: str) -> dict[str, np.ndarray]:
    return {key: array for name in names for key, array in np.load(FORMATS / f"{name}.npz").items()}


def read_bytes(content: bytes, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "made"
    path.write_bytes(content)
    return read_state_dict(path).arrays


def assert_same(found: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> None:
    """Equal names, shapes and values; floats as float32."""
    assert set(found) == set(arrays)
    for key, array in arrays.items():
        wanted = array.astype(np.float32) if array.dtype.kind == "f" else array
        assert found[key].dtype == wanted.dtype and found[key].dtype.isnative, key
        np.testing.assert_array_equal(found[key], wanted, strict=True)


@pytest.mark.parametrize(
    ("name", "kind", "contents"),
    [
        ("tiny_zip.pth", "torch zip", TORCH),
        ("tiny_legacy.pth", "torch before 1.6", TORCH),
        ("tiny_training_checkpoint.pth", "torch zip", TORCH),
        ("tiny_detectron2.pkl", "pickle (Detectron2)", PLAIN),
        ("tiny_detectron2_python2.pkl", "pickle (Detectron2)", ("expected_python2",)),
    ],
)
def test_files_of_the_originals(name: str, kind: str, contents: tuple[str, ...]) -> None:
    found = read_state_dict(FORMATS / name)
    assert found.format == kind
    assert_same(found.arrays, expected(*contents))


def test_caffe2_keeps_its_own_names() -> None:
    found = read_state_dict(FORMATS / "tiny_caffe2.pkl")
    assert found.format == "pickle (Caffe2)" and set(found.arrays) == {"conv1_w", "lr"}
    weight = expected("expected")["backbone.body.conv1.weight"]
    np.testing.assert_array_equal(found.arrays["conv1_w"], weight, strict=True)
    assert found.arrays["lr"].shape == () and found.arrays["lr"].dtype == np.float32


ARRAYS = {
    "weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -65504], np.float16),
    "double": np.array([[0.1, 1e300]]),
    "integer": np.array([[-(2**62)], [2]]),
    "small": np.arange(-3, 3, dtype=np.int8),
    "flag": np.array([True, False]),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


def as_read(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):
        return {key: array.astype(np.float32) if array.dtype.kind == "f" else array for key, array in arrays.items()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save: object, tmp_path: Path) -> None:
    extra = {"big_endian": ARRAYS["weight"].astype(">f4"), "fortran": np.asfortranarray(ARRAYS["weight"])}
    save(tmp_path / "w.npz", **ARRAYS, **extra)  # type: ignore[operator]
    found = read_state_dict(tmp_path / "w.npz")
    assert found.format == "npz"
    assert_same(found.arrays, as_read(ARRAYS | dict.fromkeys(extra, ARRAYS["weight"])))


def test_npz_of_the_second_version_and_of_python_2(tmp_path: Path) -> None:
    second = io.BytesIO()
    np.lib.format.write_array(second, ARRAYS["weight"], version=(2, 0))
    old = craft.npy("(2L, 2L)", data=np.arange(4, dtype=np.float32).tobytes())
    found = read_bytes(craft.zipped({"second.npy": second.getvalue(), "old.npy": old}), tmp_path)
    assert_same(found, {"second": ARRAYS["weight"], "old": np.array([[0, 1], [2, 3]], np.float32)})


def test_safetensors(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "w.safetensors", metadata={"format": "pt"})
    found = read_state_dict(tmp_path / "w.safetensors")
    assert found.format == "safetensors"
    assert_same(found.arrays, as_read(ARRAYS))


def test_bfloat16_of_safetensors(tmp_path: Path) -> None:
    values = np.array([1, -2.5, np.inf, 2**-120], np.float32)  # exact in bfloat16
    upper = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = {"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    assert_same(read_bytes(craft.safetensors(header, upper), tmp_path), {"w": values.reshape(2, 2)})


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "blobs"])
def test_weights_beside_other_things(key: str, tmp_path: Path) -> None:
    inner = pickle.EMPTY_DICT + craft.text("w") + craft.numpy_array() + pickle.SETITEM
    pairs = craft.text("epoch") + craft.integer(3) + craft.text(key) + inner
    content = craft.start() + pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS + pickle.STOP
    assert_same(read_bytes(content, tmp_path), {"w": np.zeros(4, np.float32)})


def test_the_wrappers_prefix_is_dropped_if_all_have_it(tmp_path: Path) -> None:
    for names, wanted in ((("module.a", "module.b"), {"a", "b"}), (("module.a", "b"), {"module.a", "b"})):
        np.savez(tmp_path / "w.npz", **dict.fromkeys(names, np.zeros(2)))
        assert set(read_state_dict(tmp_path / "w.npz").arrays) == wanted


def test_the_tests_own_writers_make_readable_files(tmp_path: Path) -> None:
    # Otherwise hostile files made by them could be refused for another reason than their own.
    numbers = np.arange(4, dtype=np.float32)
    data, square = numbers.tobytes(), {"w": numbers.reshape(2, 2)}
    entry = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    assert_same(read_bytes(craft.torch_zip(craft.table(craft.tensor()), data), tmp_path), square)
    assert_same(read_bytes(craft.torch_legacy(craft.table(craft.tensor()), data=data), tmp_path), square)
    assert_same(read_bytes(craft.table(craft.numpy_array(data=craft.raw(data))), tmp_path), {"w": numbers})
    assert_same(read_bytes(craft.zipped({"w.npy": craft.npy("(2, 2)", data=data)}), tmp_path), square)
    assert_same(read_bytes(craft.safetensors(entry, data), tmp_path), square)


@pytest.mark.parametrize(
    ("size", "stride", "offset", "wanted"),
    [
        ((2, 2), (1, 2), 0, [[0, 2], [1, 3]]),
        ((2,), (2,), 1, [1, 3]),
        ((), (), 3, 3),
        ((0, 2), (2, 1), 4, None),
        ((1, 2), (2**63 - 1, 1), 1, [[1, 2]]),
        ((1,), (2**62,), 3, [3]),
    ],
)
def test_views(size: tuple[int, ...], stride: tuple[int, ...], offset: int, wanted: object, tmp_path: Path) -> None:
    data = np.arange(4, dtype=np.float32).tobytes()
    found = read_bytes(craft.torch_zip(craft.table(craft.tensor(size, stride, offset)), data), tmp_path)
    values = np.zeros(size, np.float32) if wanted is None else np.array(wanted, np.float32)
    assert_same(found, {"w": values})


@pytest.mark.parametrize(
    ("kind", "dtype"), [("LongStorage", np.int64), ("BoolStorage", np.bool_), ("BFloat16Storage", np.float32)]
)
def test_empty_tensors_keep_their_type(kind: str, dtype: type, tmp_path: Path) -> None:
    empty = craft.storage(craft.integer(0), kind=f"torch.{kind}")
    rebuild = craft.name("torch._utils._rebuild_tensor_v2")
    value = craft.call(rebuild, empty, craft.integer(0), craft.integers(0), craft.integers(1), pickle.NEWFALSE)
    assert_same(read_bytes(craft.torch_zip(craft.table(value), b""), tmp_path), {"w": np.zeros(0, dtype)})


def test_npz_of_rounded_and_of_constant_weights(tmp_path: Path) -> None:
    # Such archives unpack to several times their size, and are no bombs.
    rounded = np.round(np.random.default_rng(0).normal(size=10**6) * 20).astype(np.float32)
    np.savez_compressed(tmp_path / "w.npz", rounded=rounded, zeros=np.zeros((512, 512, 9), np.float32))
    assert_same(
        read_state_dict(tmp_path / "w.npz").arrays, {"rounded": rounded, "zeros": np.zeros((512, 512, 9), np.float32)}
    )


def test_big_pickled_arrays(tmp_path: Path) -> None:
    # Twice as much as may be repeated, as every Python writes it: protocol 2 spells bytes as a latin-1 text.
    array = np.arange(2**18, dtype=np.float32)
    for protocol in range(2, 6):
        content = pickle.dumps({"w": array, "v": array[::2], "n": np.float32(2)}, protocol)
        assert_same(read_bytes(content, tmp_path), {"w": array, "v": array[::2], "n": np.array(2, np.float32)})


@pytest.mark.parametrize("path", sorted(FORMATS.glob("hostile_*")), ids=lambda path: path.name)
def test_given_hostile_files_are_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=path.name):
        read_state_dict(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.pth"):
        with pytest.raises(DataError, match="cannot be read"):
            read_state_dict(path)


def test_a_legacy_file_without_storages(tmp_path: Path) -> None:
    structure = craft.table(craft.tensor((0,), (1,), numel=0))
    content = craft.torch_legacy(structure, head=struct.pack("<q", 0), data=b"")
    assert_same(read_bytes(content, tmp_path), {"w": np.zeros(0, np.float32)})
