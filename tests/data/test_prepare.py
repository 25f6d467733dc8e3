"""Preparing: what goes in comes out exactly, bad parts are skipped and counted, and the disk is never half written."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.data.builder import write_split
from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.errors import ConfigError, DataError, StorageError

ROOT = Path(__file__).resolve().parents[2]


def test_annotations_come_back_exactly(small_coco: Any) -> None:
    dataset = small_coco.prepare()
    coco = dataset.coco_dict()
    names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
    assert coco["annotations"] == [{key: a[key] for key in names} for a in small_coco.content["annotations"]]
    assert [image["id"] for image in coco["images"]] == [42, 5, 6] == dataset.image_ids.tolist()
    assert coco["images"][1] == {"id": 5, "file_name": "5.jpg", "height": 40, "width": 30}
    assert coco["categories"] == [{"id": 7, "name": "zebra"}, {"id": 90, "name": "ant"}]
    assert [o.label for o in dataset[0].objects] == [1, 2] and dataset[1].objects[1].is_crowd
    assert dataset[2].objects == ()


def test_tfds_alone_reads_the_original_bytes(small_coco: Any) -> None:
    """In a process that has neither TensorFlow nor our package."""
    small_coco.prepare()
    code = """
import sys, pathlib, tensorflow_datasets as tfds
prepared, images = map(pathlib.Path, sys.argv[1:])
builder = tfds.builder_from_directory(prepared)
source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
for record in source:
    assert record["image"] == (images / record["image/filename"].decode()).read_bytes()
first = source[0]["objects"]
assert list(first["label"]) == [1, 2] and list(first["id"]) == [1, 2]
y0, x0, y1, x1 = first["bbox"][0]
assert abs(y0 - 6 / 24) < 1e-6 and abs(x1 - 14.25 / 32) < 1e-6
assert "tensorflow" not in sys.modules and "mrcnn_jax" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(small_coco.root / "prepared" / "train"), str(small_coco.images)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=small_coco.root)
    assert done.returncode == 0, done.stderr


def test_keypoints_are_kept(small_coco: Any) -> None:
    small_coco.content["categories"][1]["keypoints"] = ["nose", "tail"]
    small_coco.content["annotations"][0] |= {"keypoints": [1, 2, 2, 0, 0, 0], "num_keypoints": 1}
    dataset = small_coco.prepare()
    assert dataset[0].objects[0].keypoints == (1, 2, 2, 0, 0, 0)
    first, second, third, _ = dataset.coco_dict()["annotations"]
    assert (first["keypoints"], first["num_keypoints"]) == ([1, 2, 2, 0, 0, 0], 1)
    assert "keypoints" not in second  # the category has none
    assert (third["keypoints"], third["num_keypoints"]) == ([0.0] * 6, 0)
    assert dataset.categories[0].keypoints == ("nose", "tail")


def test_missing_area_and_crowd_mask_are_filled_in(small_coco: Any) -> None:
    small_coco.add_object(9, 6, area=None)
    small_coco.add_object(10, 6, area=None, iscrowd=1, segmentation=None, bbox=[28, 20, 300, 200])
    square, crowd = small_coco.prepare()[2].objects
    assert square.area == 100
    assert crowd.segmentation == [[28, 20, 32, 20, 32, 24, 28, 24]] and crowd.area == 16


def test_bad_parts_are_repaired_or_left_out_and_counted(small_coco: Any) -> None:
    (small_coco.images / "5.jpg").unlink()
    small_coco.add_image(11, (24, 32))
    (small_coco.images / "11.png").write_text("text")
    small_coco.add_object(12, 11)
    small_coco.add_object(13, 6, bbox=[0, 0, 0, 0])
    small_coco.add_object(14, 6, segmentation=[[0, 0, 1, 1e10, 2, 2]])
    small_coco.add_object(15, 42, segmentation=[[0, 0, 1, 1]])
    small_coco.add_object(16, 42, segmentation={"size": [24, 32], "counts": [0, 1]}, bbox=[40, 0, 3, 3])
    small_coco.add_object(17, 6, segmentation={"size": [24, 32], "counts": [768]})
    dataset = small_coco.prepare()
    assert dataset.image_ids.tolist() == [42, 6]
    kept = {a["id"]: a for a in dataset.coco_dict()["annotations"]}
    assert sorted(kept) == [1, 2, 13, 14, 15]
    assert kept[13]["bbox"] == [4, 6, 10, 10] and kept[13]["segmentation"] == kept[1]["segmentation"]
    assert not kept[14].get("segmentation") and not kept[15].get("segmentation")
    summary = json.loads((dataset.path / "skipped.json").read_text())
    assert summary["num_images"] == 4 and summary["num_objects"] == 10
    assert summary["kept"] == {"images": 2, "objects": 5}
    assert summary["images"] == {
        "image is missing": {"count": 1, "which": ["image 5 '5.jpg'"]},
        "image cannot be decoded": {"count": 1, "which": ["image 11 '11.png'"]},
    }
    assert {reason: row["count"] for reason, row in summary["objects"].items()} == {
        "run lengths do not fit the image, and bbox is outside the image": 1,
        "mask is empty": 1,
    }
    assert {reason: row["count"] for reason, row in summary["repaired"].items()} == {
        "bbox is not usable, the mask's is taken": 1,
        "segmentation cannot be read; the box is kept": 1,
        "segmentation has fewer than 3 points; the box is kept": 1,
    }


def test_too_much_left_out_is_a_warning_and_with_a_limit_an_error_that_leaves_nothing(small_coco: Any) -> None:
    small_coco.add_object(13, 6, segmentation={"size": [24, 32], "counts": [768]})
    with pytest.raises(DataError, match=r"1 of 5 objects are left out.* 1 x mask is empty \(annotation 13 of image 6"):
        small_coco.prepare(max_skip_fraction=0.01)
    assert list((small_coco.root / "prepared").iterdir()) == []
    source = coco_source(small_coco.images, small_coco.annotations)
    prepared = prepare(source, small_coco.root / "prepared", "train")
    assert prepared.findings[-1] == "Warning: 1 of 5 objects are left out, more than 1.0%."
    assert (prepared.num_images, prepared.num_objects) == (3, 4)


def test_no_usable_image_is_an_error(small_coco: Any) -> None:
    for path in small_coco.images.iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"all 3 images are left out\. 3 x image is missing"):
        small_coco.prepare(max_skip_fraction=1.0)


def test_a_split_is_reused_or_refused_or_replaced(small_coco: Any) -> None:
    small_coco.prepare()
    source = coco_source(small_coco.images, small_coco.annotations)
    to = small_coco.root / "prepared"
    before = (to / "train" / "metadata.json").stat().st_mtime_ns
    reused = prepare(source, to, "train")
    assert reused.reused and (reused.num_images, reused.num_objects) == (3, 4)
    assert (to / "train" / "metadata.json").stat().st_mtime_ns == before
    small_coco.add_image(99, (24, 32))
    with pytest.raises(ConfigError, match="made from something else"):
        small_coco.prepare()
    assert len(small_coco.prepare(overwrite=True)) == 4
    assert [path.name for path in to.iterdir()] == ["train"]


def test_a_failure_while_replacing_keeps_the_old_split(small_coco: Any) -> None:
    dataset = small_coco.prepare()
    source = coco_source(small_coco.images, small_coco.annotations)

    def notes() -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        write_split(dataset.path, source, iter([source.load(0)]), notes)
    assert [path.name for path in dataset.path.parent.iterdir()] == ["train"]
    assert len(small_coco.prepare()) == 3


@pytest.mark.parametrize("split", ["", "a/b", "..", ".hidden", "a b", "ä", "-a"])
def test_split_names_are_checked(small_coco: Any, split: str) -> None:
    with pytest.raises(ConfigError, match="split name"):
        small_coco.prepare(split)


def test_progress_counts_to_the_end(small_coco: Any) -> None:
    seen: list[tuple[int, int]] = []
    small_coco.prepare(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_script_ends_with_the_documented_exit_codes(small_coco: Any, tmp_path: Path) -> None:
    small_coco.write()
    inputs = ("coco", "--images", small_coco.images, "--annotations", small_coco.annotations)
    done = run_script(*inputs, "--to", tmp_path / "a", "--split", "val")
    assert done.returncode == 0, done.stderr
    assert f"Wrote {tmp_path / 'a' / 'val'}: 3 images, 4 objects, 2 classes" in done.stdout
    assert "Next: python scripts/train.py" in done.stdout
    (small_coco.images / "6.png").write_bytes(b"")
    done = run_script(*inputs, "--to", tmp_path / "b", "--strict")
    assert (
        done.returncode == 3
        and "\nerror: small: 1 of 3 images" in done.stderr
        and "image cannot be decoded" in done.stderr
    )
    done = run_script(*inputs, "--to", tmp_path / "a", "--split", "val")
    assert done.returncode == 2 and "--overwrite" in done.stderr


def test_decoded_images_equal_the_files(small_coco: Any) -> None:
    import cv2

    record = small_coco.prepare()[0]
    expected = cv2.imread(str(small_coco.images / "42.png"))[..., ::-1]
    np.testing.assert_array_equal(record.image, expected)
    assert record.image.dtype == np.uint8 and record.file_name == "42.png" and record.image_id == 42
