"""Every form is read back as its readers do, and equals the masks within its stated rule; holes and parts survive."""

import csv
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn_jax.categories import Category
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference.forms.records import DetectedObject, FormSettings
from mrcnn_jax.inference.forms.writing import FORMS, check_forms, write_forms
from mrcnn_jax.inference.paste_masks import encode_window
from tests.oracles import rasterise_rings

IMAGE_HW = (48, 64)
CATEGORIES = (Category(3, "ring"), Category(8, 'say "hi", ü'))


def ring_and_dot() -> np.ndarray:
    """A ring with a hole and a separate part."""
    y, x = np.mgrid[:48, :64]
    radius = np.hypot(y - 20, x - 22)
    return ((radius < 15) & (radius > 6)) | (np.hypot(y - 36, x - 50) < 7)


def bar() -> np.ndarray:
    mask = np.zeros(IMAGE_HW, bool)
    mask[18:23, 10:64] = True
    return mask


MASKS = [ring_and_dot(), bar(), np.zeros(IMAGE_HW, bool)]


def make_lines() -> list[dict]:
    """Three images: two objects and an empty one, an error, and nothing found."""
    detections = []
    for mask, score, category in zip(
        MASKS, (0.9, 0.75, 0.2), (CATEGORIES[0], CATEGORIES[1], CATEGORIES[0]), strict=True
    ):
        code = encode_window(mask, (0, 48, 0, 64), IMAGE_HW)
        box = coco_mask.toBbox(code).tolist()
        row = {"category_id": category.id, "bbox": box, "score": score, "segmentation": code}
        detections.append(row | {"category_name": category.name})
    size = {"height": 48, "width": 64}
    return [
        {"id": 1, "file_name": "a/0001.png", **size, "stem": "a/0001", "picture": "pictures/a/0001.jpg"}
        | {"notes": ["note"], "detections": detections},
        {"id": 2, "file_name": "b/0001.png", "error": "cannot be decoded"},
        {"id": 3, "file_name": "c.zip/0001.png", **size, "stem": "c.zip/0001", "detections": []},
    ]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """All forms, with exact polygons, of the objects with a score of at least 0.5."""
    paths = [tmp_path / "a" / "0001.png", tmp_path / "b.png", None]
    names = [name for name in FORMS if name != "parquet"]
    settings = FormSettings(tmp_path / "out", CATEGORIES, simplify=0.0, score=0.5, image_paths=paths)
    written = write_forms(names, make_lines(), settings)
    assert written.num_images == 2 and written.errors == {"b/0001.png": "cannot be decoded"}
    assert written.notes == {"note": 1} and written.first_noted == {"note": "a/0001.png"}
    return tmp_path / "out"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def fill(polygons: list[list[list[list[float]]]]) -> np.ndarray:
    return rasterise_rings([np.array(ring) for polygon in polygons for ring in polygon], IMAGE_HW)


def test_coco_loads_in_pycocotools(output: Path) -> None:
    content = read(output / "predictions.json")
    assert list(content) == ["images", "categories", "predictions", "errors"]
    assert content["images"][0]["picture"] == "pictures/a/0001.jpg" and "stem" not in content["images"][0]
    assert content["errors"] == [{"file_name": "b/0001.png", "error": "cannot be decoded"}]
    with redirect_stdout(io.StringIO()):
        coco = COCO(output / "predictions.json")
        results = coco.loadRes(str(output / "coco_results.json"))
        same = coco.loadRes(content["predictions"])
    assert coco.imgs.keys() == {1, 3} and {each["name"] for each in coco.cats.values()} == {"ring", 'say "hi", ü'}
    for loaded in (results, same):
        annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[1]))
        assert [each["category_id"] for each in annotations] == [3, 8, 3]
        for annotation, mask in zip(annotations, MASKS, strict=True):
            np.testing.assert_array_equal(loaded.annToMask(annotation), mask)


def test_polygons_have_holes_and_parts(output: Path) -> None:
    first, last = map(json.loads, (output / "polygons.jsonl").read_text().splitlines())
    assert (first["file_name"], first["height"], first["width"]) == ("a/0001.png", 48, 64) and last["objects"] == []
    assert [sorted(map(len, each["polygons"])) for each in first["objects"]] == [[1, 2], [1]]
    for each, mask in zip(first["objects"], MASKS[:2], strict=True):
        np.testing.assert_array_equal(fill(each["polygons"]), mask)


def test_geojson_is_closed_and_oriented_as_the_standard_requires(output: Path) -> None:
    content = read(output / "geojson" / "a" / "0001.geojson")
    assert content["type"] == "FeatureCollection" and len(content["features"]) == 2
    for feature, mask in zip(content["features"], MASKS[:2], strict=True):
        assert feature["type"] == "Feature" and feature["geometry"]["type"] == "MultiPolygon"
        np.testing.assert_array_equal(fill(feature["geometry"]["coordinates"]), mask)
        for polygon in feature["geometry"]["coordinates"]:
            for number, ring in enumerate(polygon):
                assert ring[0] == ring[-1] and len(ring) >= 4
                x, y = np.array(ring).T
                assert ((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0) == (number == 0), "outer anticlockwise, holes not"
    assert content["features"][1]["properties"]["classification"]["name"] == 'say "hi", ü'
    assert read(output / "geojson" / "c.zip" / "0001.geojson")["features"] == []


def test_labelme_shapes_of_one_group_give_the_mask(output: Path) -> None:
    content = read(output / "labelme" / "a" / "0001.json")
    assert (output / "labelme" / "a" / content["imagePath"]).resolve() == output.parent / "a" / "0001.png"
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (48, 64, None)
    assert [shape["group_id"] for shape in content["shapes"]] == [1, 1, 2]
    assert {shape["shape_type"] for shape in content["shapes"]} == {"polygon"}
    for number, mask in enumerate(MASKS[:2], start=1):
        rings = [np.array(shape["points"]) for shape in content["shapes"] if shape["group_id"] == number]
        np.testing.assert_array_equal(rasterise_rings(rings, IMAGE_HW), mask)


def test_yolo_lines_give_the_masks_also_with_drawn_edges(output: Path) -> None:
    lines = (output / "yolo" / "labels" / "a" / "0001.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    for line, mask in zip(lines, MASKS[:2], strict=True):
        ring = np.array(line.split()[1:], np.float64).reshape(-1, 2)
        assert 0 <= ring.min() and ring.max() <= 1
        pixels = ring * (64, 48)
        np.testing.assert_array_equal(rasterise_rings([pixels], IMAGE_HW), mask)
        # Ultralytics fills with OpenCV, which also draws edges and so adds the pixels along borders and bridges.
        drawn = cv2.fillPoly(np.zeros(IMAGE_HW, np.uint8), [np.round(pixels).astype(np.int32)], 1).astype(bool)
        grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        bridge = 2 * max(IMAGE_HW)
        assert (mask & ~drawn).sum() == 0 and (drawn & ~grown).sum() <= bridge
    assert (output / "yolo" / "labels" / "c.zip" / "0001.txt").read_text() == ""
    assert (output / "yolo" / "data.yaml").read_text() == 'names:\n  0: "ring"\n  1: "say \\"hi\\", \\u00fc"\n'


def test_png_gives_overlaps_to_the_better_object(output: Path) -> None:
    instances = cv2.imread(str(output / "png" / "a" / "0001.png"), cv2.IMREAD_UNCHANGED)
    assert instances.dtype == np.uint16 and (MASKS[0] & MASKS[1]).any()
    np.testing.assert_array_equal(instances == 1, MASKS[0])
    np.testing.assert_array_equal(instances == 2, MASKS[1] & ~MASKS[0])
    labels = read(output / "png" / "a" / "0001.json")
    assert [each["category_name"] for each in labels["instances"]] == ["ring", 'say "hi", ü']
    assert not cv2.imread(str(output / "png" / "c.zip" / "0001.png"), cv2.IMREAD_UNCHANGED).any()


def check_table(rows: list[dict]) -> None:
    assert [row["file_name"] for row in rows] == ["a/0001.png"] * 2
    assert [row["category_name"] for row in rows] == ["ring", 'say "hi", ü']
    for row, mask in zip(rows, MASKS[:2], strict=True):
        assert int(row["area"]) == mask.sum()
        size = [int(row["height"]), int(row["width"])]
        np.testing.assert_array_equal(coco_mask.decode({"size": size, "counts": row["rle"]}), mask)
        ys, xs = np.nonzero(mask)
        box = [float(row[name]) for name in ("x0", "y0", "x1", "y1")]
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_csv_has_a_row_for_each_object(output: Path) -> None:
    with (output / "predictions.csv").open(newline="") as file:
        check_table(list(csv.DictReader(file)))


def test_parquet_has_a_row_for_each_object(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write_forms(["parquet"], make_lines(), FormSettings(tmp_path, CATEGORIES))
    check_table(pq.read_table(tmp_path / "predictions.parquet").to_pylist())
    write_forms(["parquet"], [], FormSettings(tmp_path / "empty", CATEGORIES))
    assert pq.read_table(tmp_path / "empty" / "predictions.parquet").num_rows == 0


def test_without_pyarrow_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        check_forms(["coco", "parquet"])
    with pytest.raises(ConfigError, match=r"Unknown form yolov8\. Expected some of jsonl, coco"):
        check_forms(["yolov8"])


def test_models_without_masks_give_rectangles() -> None:
    found = DetectedObject({"category_id": 3, "bbox": [1.5, 2, 3, 4], "score": 0.9}, 1.0)
    assert found.polygons[0].outer.tolist() == [[1.5, 2], [4.5, 2], [4.5, 6], [1.5, 6]] and found.area is None


def test_a_window_equals_the_decoded_mask() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        height, width = rng.integers(1, 12, 2).tolist()
        mask = rng.random((height, width)) < rng.random() ** 2
        code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        row = {"segmentation": {"size": [height, width], "counts": code["counts"].decode()}}
        pixels, y0, x0 = DetectedObject(row, 0.0).window
        pasted = np.zeros((height, width), bool)
        pasted[y0 : y0 + pixels.shape[0], x0 : x0 + pixels.shape[1]] = pixels
        np.testing.assert_array_equal(pasted, mask)
        assert pixels.size == 0 or (pixels[[0, -1]].any(axis=1).all() and pixels[:, [0, -1]].any(axis=0).all())
