"""Files and folders in, predictions.json and drawn images out; bad files are reported and the others done."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import DataError, NumericalError, StorageError
from mrcnn_jax.inference import predict_files as predict_files_module
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.predict_files import InputFile, find_images, predict_files

CATEGORIES = (Category(5, "light"),)


class Stub:
    """In the place of a Predictor: one object as large as the image, scored by its first pixel."""

    categories = CATEGORIES
    test_config = TestConfig(batch_size=1)
    not_finite = 255

    def __init__(self):
        self.group_sizes = []

    def __call__(self, images, names):
        self.group_sizes.append(len(images))
        assert len(names) == len(images)
        for image, name in zip(images, names, strict=True):
            if image[0, 0, 0] == self.not_finite:
                raise NumericalError(f"Image {name}: the RPN")
        return [
            ImageDetections(
                boxes=np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32),
                scores=np.array([image[0, 0, 0] / 256], np.float32),
                labels=np.array([5]),
                mask_probabilities=np.ones((1, 28, 28), np.float32),
                keypoints=np.zeros((1, 0, 3), np.float32),
                image_hw=image.shape[:2],
                test=TestConfig(),
                categories=CATEGORIES,
            )
            for image in images
        ]


def write_image(path, value=128, size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)
    return path


def test_folders_are_searched_below_by_suffix_and_files_are_taken_as_they_are(tmp_path):
    for name in ("b.JPG", "a.png", "deep/er/c.tif", "deep/a.png", "deep/.hidden.png", "out/pictures/a.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "odd.name").touch()
    inputs = [tmp_path / "odd.name", str(tmp_path / "in"), tmp_path / "in" / "a.png"]
    files = find_images(inputs, output=tmp_path / "in" / "out")
    assert [file.name for file in files] == ["odd.name", "a.png", "b.JPG", "deep/a.png", "deep/er/c.tif"]


def test_missing_inputs_and_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        find_images([tmp_path / "nowhere"], output=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No images in"):
        find_images([tmp_path / "empty"], output=tmp_path / "out")


def test_predictions_name_file_and_category_and_drawn_images_keep_the_folders(tmp_path):
    for number, name in enumerate(("a.png", "a.bmp", "deep/a.png")):
        write_image(tmp_path / "in" / name, value=64 * (number + 1))
    drawn, calls = {}, []

    def draw(path, image, detections):
        drawn[path.relative_to(tmp_path / "out").as_posix()] = (image[0, 0, 0], len(detections))

    files = find_images([tmp_path / "in"], output=tmp_path / "out")
    progress = lambda *call: calls.append(call)  # noqa: E731
    errors = predict_files(Stub(), files, tmp_path / "out", draw=draw, draw_score=0.3, progress=progress)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert errors == {} and content["errors"] == []
    names = ["a.bmp", "a.png", "deep/a.png"]
    assert [row["file_name"] for row in content["images"]] == names
    assert [row["picture"] for row in content["images"]] == [
        "pictures/a.jpg",
        "pictures/a_2.jpg",
        "pictures/deep/a.jpg",
    ]
    assert content["images"][0] | {"picture": None} == {
        "id": 1, "file_name": "a.bmp", "height": 10, "width": 20, "picture": None,
    }  # fmt: skip
    assert drawn == {"pictures/a.jpg": (128, 1), "pictures/a_2.jpg": (64, 0), "pictures/deep/a.jpg": (192, 1)}
    first = content["predictions"][0]
    assert first["segmentation"].pop("counts")
    assert first == {
        "image_id": 1,
        "file_name": "a.bmp",
        "category_id": 5,
        "category_name": "light",
        "bbox": [0.0, 0.0, 20.0, 10.0],
        "score": 0.5,
        "segmentation": {"size": [10, 20]},
    }
    assert [row["image_id"] for row in content["predictions"]] == [1, 2, 3]
    assert calls[-1] == (3, 3)


def test_bad_files_are_reported_and_the_others_done_in_groups(tmp_path):
    paths = [write_image(tmp_path / f"{k}.png", value=k) for k in range(9)]
    for k in (2, 8):
        paths[k].write_bytes(b"no image")
    stub = Stub()
    errors = predict_files(stub, [InputFile(path, path.name) for path in paths], tmp_path / "out")
    assert list(errors) == [str(paths[2]), str(paths[8])]
    assert all("image cannot be decoded" in error for error in errors.values())
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["file_name"] for row in content["errors"]] == ["2.png", "8.png"]
    assert [row["id"] for row in content["images"]] == [1, 2, 4, 5, 6, 7, 8]
    assert "picture" not in content["images"][0]
    assert stub.group_sizes == [4, 3]


def test_a_file_that_is_not_finite_is_named_and_nothing_is_claimed(tmp_path):
    paths = [write_image(tmp_path / f"{k}.png", value=255 if k == 7 else k) for k in range(9)]
    with pytest.raises(NumericalError, match=rf"Image {tmp_path}/7\.png: the RPN"):
        predict_files(Stub(), [InputFile(path, path.name) for path in paths], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_a_storage_error(tmp_path):
    path = write_image(tmp_path / "a.png")
    blocked = tmp_path / "blocked"
    blocked.touch()
    with pytest.raises(StorageError, match=r"predictions\.json"):
        predict_files(Stub(), [InputFile(Path(path), "a.png")], blocked)


def test_images_with_too_many_masks_are_drawn_smaller(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png", size=(40, 20))
    monkeypatch.setattr(predict_files_module, "MAX_MASK_BYTES", 200)
    drawn = []
    files = [InputFile(path, path.name)]
    predict_files(Stub(), files, tmp_path / "out", draw=lambda path, *rest: drawn.append(rest))
    ((image, detections),) = drawn
    assert image.shape == (10, 20, 3) and detections.masks.shape == (1, 10, 20)
    np.testing.assert_allclose(detections.boxes, [[0, 0, 20, 10]])
