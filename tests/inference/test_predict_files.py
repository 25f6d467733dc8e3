"""Files in, lines, forms and pictures out; bad files are reported, and an interrupted run continues where it was."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrcnn_jax.data.image_windows import ImageWindows, OpenedImage
from mrcnn_jax.data.images import ImageError
from mrcnn_jax.errors import ConfigError, DataError, NumericalError, StorageError
from mrcnn_jax.inference import predict_files as predict_files_module
from mrcnn_jax.inference.image_sources import InputFile, find_images
from mrcnn_jax.inference.predict_files import FileOptions, predict_files
from mrcnn_jax.inference.prediction_log import Part, open_log, read_header
from mrcnn_jax.inference.tiled_predictor import TiledPredictor
from tests.prediction_stub import PredictorStub, write_image


def make_files(folder: Path, values: list[int]) -> list[InputFile]:
    paths = [write_image(folder / f"{k}.png", value) for k, value in enumerate(values)]
    return [InputFile(path, path.name) for path in paths]


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_predictions_name_file_and_category_and_pictures_keep_the_folders(tmp_path):
    for number, name in enumerate(("a.png", "a.bmp", "deep/a.png")):
        write_image(tmp_path / "in" / name, value=64 * (number + 1))
    drawn, calls = {}, []

    def draw(path, image, detections):
        path = path.with_name(f"{path.name}.jpg")
        drawn[path.relative_to(tmp_path / "out").as_posix()] = (image[0, 0, 0], len(detections))
        return path

    files = find_images([tmp_path / "in"], output=tmp_path / "out").files
    progress = lambda *call: calls.append(call)  # noqa: E731
    options = FileOptions(score=0.3)
    written = predict_files(PredictorStub(), files, tmp_path / "out", options=options, draw=draw, progress=progress)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert written is not None and written.errors == {} and content["errors"] == [] and written.num_images == 3
    assert [row["file_name"] for row in content["images"]] == ["a.bmp", "a.png", "deep/a.png"]
    pictures = ["pictures/a.jpg", "pictures/a_2.jpg", "pictures/deep/a.jpg"]
    assert [row["picture"] for row in content["images"]] == pictures
    assert content["images"][0] == {
        "id": 1, "file_name": "a.bmp", "height": 10, "width": 20, "picture": "pictures/a.jpg",
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
    assert [row["image_id"] for row in content["predictions"]] == [1, 1, 2, 2, 3, 3]
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_bad_files_are_reported_and_the_others_done_in_groups(tmp_path):
    files = make_files(tmp_path, list(range(9)))
    for k in (2, 8):
        files[k].path.write_bytes(b"no image")
    stub = PredictorStub()
    written = predict_files(stub, files, tmp_path / "out")
    assert written is not None and list(written.errors) == ["2.png", "8.png"] and written.num_images == 7
    assert all("image cannot be decoded" in error for error in written.errors.values())
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["file_name"] for row in content["errors"]] == ["2.png", "8.png"]
    assert [row["id"] for row in content["images"]] == [1, 2, 4, 5, 6, 7, 8]
    assert "picture" not in content["images"][0]
    assert sorted(stub.group_sizes) == [3, 4]


@pytest.mark.parametrize("torn", [b"", b'{"id": 5, "file_na', b"\0\0\0"])
def test_an_interrupted_run_continues_after_its_last_whole_line(tmp_path, torn):
    files = make_files(tmp_path, list(range(9)))
    files[1].path.write_bytes(b"no image")
    predict_files(PredictorStub(), files, tmp_path / "whole")
    whole = tmp_path / "whole" / "predictions.jsonl"
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / "predictions.jsonl"
    cut.write_bytes(b"".join(lines_of(whole)[:5]) + torn)
    stub, calls = PredictorStub(), []
    written = predict_files(stub, files, tmp_path / "cut", progress=lambda *call: calls.append(call))
    assert cut.read_bytes() == whole.read_bytes() and written is not None and list(written.errors) == ["1.png"]
    assert sorted(stub.names) == [file.label for file in files[4:]] and calls[0] == (4, 9)
    assert (tmp_path / "cut" / "predictions.json").read_bytes() == (tmp_path / "whole/predictions.json").read_bytes()
    stub = PredictorStub()
    predict_files(stub, files, tmp_path / "cut", options=FileOptions(forms=("csv",)))
    assert stub.names == [] and (tmp_path / "cut" / "predictions.csv").exists()


def test_a_torn_header_begins_again(tmp_path):
    files = make_files(tmp_path, [1, 2])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.jsonl").write_bytes(b'{"format_version": 1, "pa')
    written = predict_files(PredictorStub(), files, tmp_path / "out")
    assert written is not None and written.num_images == 2


def test_other_settings_or_images_do_not_continue_a_run(tmp_path):
    files = make_files(tmp_path, [1, 2, 3])
    out = tmp_path / "out"
    predict_files(PredictorStub(), files, out, options=FileOptions(settings={"weights": "a", "test": {"x": (1,)}}))
    before = (out / "predictions.jsonl").read_bytes()
    same = FileOptions(settings={"weights": "a", "test": {"x": [1]}})
    predict_files(PredictorStub(), files, out, options=same)
    other = replace(same, settings={"weights": "b", "test": {"x": (2,)}})
    with pytest.raises(ConfigError, match=r"other settings \(test, weights\).*--overwrite"):
        predict_files(PredictorStub(), files, out, options=other)
    with pytest.raises(ConfigError, match=r"\(inputs, number of images\)"):
        predict_files(PredictorStub(), files[:2], out, options=same)
    write_image(files[0].path, size=(50, 50))
    with pytest.raises(ConfigError, match=r"\(inputs\)"):
        predict_files(PredictorStub(), files, out, options=same)
    assert (out / "predictions.jsonl").read_bytes() == before
    predict_files(PredictorStub(), files, out, options=replace(other, overwrite=True))
    assert read_header(out / "predictions.jsonl").settings["weights"] == "b"
    assert len(lines_of(out / "predictions.jsonl")) == 4


def test_a_damaged_file_of_predictions_is_refused(tmp_path):
    files = make_files(tmp_path, [1, 2, 3])
    predict_files(PredictorStub(), files, tmp_path / "out")
    path = tmp_path / "out" / "predictions.jsonl"
    header, first, second, third = lines_of(path)
    path.write_bytes(header + second + first + third)
    with pytest.raises(DataError, match=r"predictions\.jsonl, line 2 is damaged"):
        predict_files(PredictorStub(), files, tmp_path / "out")
    path.write_bytes(b"[]\n" + first)
    with pytest.raises(DataError, match=r"does not begin with the header"):
        predict_files(PredictorStub(), files, tmp_path / "out")


def test_two_processes_cannot_write_to_one_file(tmp_path):
    files = make_files(tmp_path, [1, 2])
    predict_files(PredictorStub(), files, tmp_path / "out")
    path = tmp_path / "out" / "predictions.jsonl"
    held = open_log(path, read_header(path), Part(), overwrite=False)
    with held, pytest.raises(StorageError, match="Another process is writing"):
        predict_files(PredictorStub(), files, tmp_path / "out")


@pytest.mark.parametrize("count", [2, 3, 8])
def test_parts_in_any_order_give_the_same_files_as_one_run(tmp_path, count):
    files = make_files(tmp_path, list(range(7)))
    files[3].path.write_bytes(b"no image")
    predict_files(PredictorStub(), files, tmp_path / "one")
    names = []
    for index in np.random.default_rng(0).permutation(count) + 1:
        stub = PredictorStub()
        options = FileOptions(part=Part(int(index), count))
        written = predict_files(stub, files, tmp_path / "parts", options=options)
        names += stub.names
    assert written is not None and list(written.errors) == ["3.png"]
    assert sorted(names) == [file.label for file in files if file.name != "3.png"]
    for name in ("predictions.jsonl", "predictions.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_unfinished_parts_are_not_mixed_with_a_whole_run(tmp_path):
    files = make_files(tmp_path, [1, 2, 3])
    out = tmp_path / "out"
    assert predict_files(PredictorStub(), files, out, options=FileOptions(part=Part(2, 2))) is None
    assert not (out / "predictions.json").exists()
    with pytest.raises(ConfigError, match="parts of 2 that are not finished"):
        predict_files(PredictorStub(), files, out)
    other = FileOptions(part=Part(1, 2), settings={"weights": "b"})
    with pytest.raises(ConfigError, match=r"predictions-2-of-2\.jsonl.*other settings \(weights\)"):
        predict_files(PredictorStub(), files, out, options=other)


def test_classes_and_numbers_of_detections_are_limited_everywhere(tmp_path):
    files = make_files(tmp_path, [10, 200])
    predict_files(PredictorStub(), files, tmp_path / "a", options=FileOptions(category_ids=frozenset({7})))
    predict_files(PredictorStub(), files, tmp_path / "b", options=FileOptions(max_detections=1))
    rows = {name: json.loads((tmp_path / name / "predictions.json").read_text())["predictions"] for name in "ab"}
    assert [row["category_name"] for row in rows["a"]] == ["dark", "dark"]
    assert [row["category_name"] for row in rows["b"]] == ["light", "light"]


def test_a_file_that_is_not_finite_is_named_and_no_form_is_written(tmp_path):
    files = make_files(tmp_path, [0, 1, 2, 3, 4, 5, 6, 255, 8])
    with pytest.raises(NumericalError, match=rf"Image {tmp_path}/7\.png: the RPN"):
        predict_files(PredictorStub(), files, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.jsonl"]


def test_what_cannot_be_written_is_a_storage_error(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.touch()
    with pytest.raises(StorageError, match=r"predictions\.jsonl"):
        predict_files(PredictorStub(), make_files(tmp_path, [1]), blocked)


def test_images_that_are_read_in_windows_are_drawn_smaller_and_report_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(predict_files_module, "MAX_DRAWN_SIDE", 20)
    files, drawn = make_files(tmp_path, [1, 2, 3]), []

    def decode(file, data, *, depth):
        def read(y0, y1, x0, x1):
            if file.name == "1.png":
                raise ImageError("image cannot be decoded")
            return np.full((y1 - y0, x1 - x0, 3), 128, np.uint8)

        return OpenedImage(ImageWindows((20, 40), read), ("read in windows",))

    def draw(path, image, detections):
        drawn.append((image.shape, detections.masks.shape))
        return path

    predictor = TiledPredictor(PredictorStub(), 32, 8)
    written = predict_files(predictor, files, tmp_path / "out", draw=draw, decode=decode)
    assert written is not None and list(written.errors.values()) == [f"{files[1].path}: image cannot be decoded."]
    assert drawn == [((10, 20, 3), (1, 10, 20))] * 2
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    best = [row for row in content["predictions"] if row["category_id"] == 5]
    assert [row["bbox"] for row in best] == [[0.0, 0.0, 40.0, 20.0]] * 2 and content["images"][0]["height"] == 20
