"""Cityscapes' average precision: equal to the official code on generated images, and small cases by hand."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official
from pycocotools import mask as coco_mask

from mrcnn_jax.data.cityscapes import CATEGORIES
from mrcnn_jax.errors import DataError
from mrcnn_jax.evaluation.cityscapes_metrics import score_cityscapes

IMAGE_HW = (80, 112)
NUM_IMAGES = 26
LABELS = (24, 26, 33)
NAMES = {category.id: category.name for category in CATEGORIES}
ROAD, STATIC, UNLABELED = 7, 4, 0
VOID = (STATIC, UNLABELED)


def encode(mask: np.ndarray) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def annotate(mask: np.ndarray, category_id: int, image_id: int = 1, **more: Any) -> dict[str, Any]:
    """An object of the ground truth, or with `score` a result."""
    box = coco_mask.toBbox(encode(mask)).tolist()
    code = encode(mask)
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "segmentation": code} | more


def ground_truth_dict(instance_ids: list[np.ndarray]) -> dict[str, Any]:
    """The COCO form of instance-id images."""
    images, annotations = [], []
    for image_id, ids in enumerate(instance_ids, start=1):
        void = encode(np.isin(ids, VOID))
        images.append({"id": image_id, "height": ids.shape[0], "width": ids.shape[1], "void": void})
        for value in np.unique(ids).tolist():
            label = value if value < 1000 else value // 1000
            if label in NAMES:
                more = {"id": len(annotations), "iscrowd": int(value < 1000), "area": int((ids == value).sum())}
                annotations.append(annotate(ids == value, label, image_id, **more))
    categories = [{"id": category.id, "name": category.name} for category in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories}


def draw_ellipse(rng: np.random.Generator, radii: tuple[float, float]) -> np.ndarray:
    """A random ellipse, bool [H, W]."""
    centre, size = rng.uniform(0, IMAGE_HW), rng.uniform(*radii, 2)
    y, x = np.mgrid[: IMAGE_HW[0], : IMAGE_HW[1]]
    return ((y - centre[0]) / size[0]) ** 2 + ((x - centre[1]) / size[1]) ** 2 < 1


def draw_ids(rng: np.random.Generator) -> np.ndarray:
    """Instance ids uint16 [H, W]: void, groups, objects and tiny objects, which hide each other."""
    ids = np.full(IMAGE_HW, ROAD, np.uint16)
    ids[draw_ellipse(rng, (15, 40))] = rng.choice(VOID)
    for label in LABELS:
        for _ in range(rng.integers(0, 3)):
            ids[draw_ellipse(rng, (3, 18))] = label
        for number in range(rng.integers(0, 6)):
            ids[draw_ellipse(rng, (3, 6) if rng.random() < 0.3 else (6, 20))] = label * 1000 + number
    return ids


def disturb(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask moved and made thicker or thinner by a few pixels."""
    moved = np.roll(mask, rng.integers(-2, 3, 2), (0, 1)).astype(np.uint8)
    change = cv2.dilate if rng.random() < 0.5 else cv2.erode
    return change(moved, np.ones(rng.integers(1, 5, 2), np.uint8)) > 0


def predict(ids: np.ndarray, rng: np.random.Generator) -> list[tuple[int, float, np.ndarray]]:
    """(label, score, mask) of found, twice found, confused and imagined objects; equal scores and empty masks too."""
    found = []
    for value in np.unique(ids).tolist():
        label = value if value < 1000 else value // 1000
        label = label if label in LABELS and rng.random() < 0.9 else int(rng.choice(LABELS))
        found += [(label, disturb(ids == value, rng)) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
    found += [(int(rng.choice(LABELS)), draw_ellipse(rng, (2, 12))) for _ in range(rng.integers(0, 5))]
    # Part of a region and of what is around it.
    found += [
        (label, draw_ellipse(rng, (8, 20)) & (np.isin(ids, (label, *VOID)) | (rng.random() < 0.5))) for label in LABELS
    ]
    return [(label, round(float(rng.random()), 2), mask) for label, mask in found]


@pytest.fixture
def official_args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # NumPy took it away after the official code was written
    args = official.args
    monkeypatch.setattr(args, "quiet", True)
    monkeypatch.setattr(args, "predictionPath", str(tmp_path))
    monkeypatch.setattr(args, "gtInstancesFile", str(tmp_path / "instances.json"))
    official.setInstanceLabels(args)
    return args


def official_scores(
    folder: Path, args: Any, images: list[np.ndarray], predictions: list[list[tuple[int, float, np.ndarray]]]
) -> dict[str, Any]:
    """What the official code says, from files in the layout that it reads."""
    truths, lists = [], []
    for index, (ids, found) in enumerate(zip(images, predictions, strict=True)):
        truths.append(str(folder / f"town_{index:06d}_000019_gtFine_instanceIds.png"))
        assert cv2.imwrite(truths[-1], ids)
        lines = []
        for number, (label, score, mask) in enumerate(found):
            name = f"town_{index:06d}_{number}.png"
            assert cv2.imwrite(str(folder / name), mask.astype(np.uint8) * 255)
            lines.append(f"{name} {label} {score!r}\n")
        lists.append(str(folder / f"town_{index:06d}_000019.txt"))
        Path(lists[-1]).write_text("".join(lines))
    instances = official.getGtInstances(truths, args)
    matches = official.matchGtWithPreds(lists, truths, instances, args)
    return official.computeAverages(official.evaluateMatches(matches, args), args)


def result_list(predictions: list[list[tuple[int, float, np.ndarray]]]) -> list[dict[str, Any]]:
    return [
        annotate(mask, label, image_id, score=score)
        for image_id, found in enumerate(predictions, start=1)
        for label, score, mask in found
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_to_the_official_code(tmp_path: Path, official_args: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [draw_ids(rng) for _ in range(NUM_IMAGES)]
    predictions = [predict(ids, rng) for ids in images]
    expected = official_scores(tmp_path, official_args, images, predictions)
    truth, results = ground_truth_dict(images), result_list(predictions)
    scores = score_cityscapes(truth, results)
    assert scores["AP"] == pytest.approx(expected["allAp"], abs=1e-6)
    assert scores["AP50"] == pytest.approx(expected["allAp50%"], abs=1e-6)
    for row in scores["categories"]:
        ap, ap50 = (float(expected["classes"][row["name"]][key]) for key in ("ap", "ap50%"))
        if row["id"] in LABELS:
            assert (row["AP"], row["AP50"]) == (pytest.approx(ap, abs=1e-6), pytest.approx(ap50, abs=1e-6))
            assert 0.05 < ap < ap50 < 0.9
        else:
            assert row["AP"] is None and row["AP50"] is None and np.isnan([ap, ap50]).all()
    # Each rule must have had something to decide.
    for key in ("no void", "no groups"):
        changed = {
            "images": [image | ({"void": None} if key == "no void" else {}) for image in truth["images"]],
            "annotations": [row for row in truth["annotations"] if key == "no void" or not row["iscrowd"]],
            "categories": truth["categories"],
        }
        assert score_cityscapes(changed, results)["AP50"] < scores["AP50"] - 1e-4


def rectangle(y: int, x: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(IMAGE_HW, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def truth_of(*regions: tuple[int, np.ndarray], void: np.ndarray | None = None) -> dict[str, Any]:
    """Ground truth of one image from (instance id, mask)."""
    ids = np.full(IMAGE_HW, ROAD, np.uint16)
    if void is not None:
        ids[void] = UNLABELED
    for value, mask in regions:
        ids[mask] = value
    return ground_truth_dict([ids])


CAR = rectangle(10, 10, 20, 20)
CARS = (26000, CAR), (26001, rectangle(10, 50, 20, 20))


def scores_of_cars(truth: dict[str, Any], *found: tuple[float, np.ndarray]) -> tuple[float | None, float | None]:
    scores = score_cityscapes(truth, [annotate(mask, 26, score=score) for score, mask in found])
    (row,) = [row for row in scores["categories"] if row["name"] == "car"]
    assert (row["AP"], row["AP50"]) == (scores["AP"], scores["AP50"])  # no other class has objects
    return row["AP"], row["AP50"]


def test_perfect_and_missing_predictions() -> None:
    assert scores_of_cars(truth_of(*CARS), (0.9, CARS[0][1]), (0.8, CARS[1][1])) == (1.0, 1.0)
    assert scores_of_cars(truth_of(*CARS)) == (0.0, 0.0)


def test_without_objects_there_is_no_score() -> None:
    assert scores_of_cars(truth_of(), (0.9, CAR)) == (None, None)
    assert scores_of_cars(truth_of((26, CAR)), (0.9, CAR)) == (None, None)
    assert scores_of_cars(truth_of((26000, rectangle(0, 0, 9, 11))), (0.9, CAR)) == (None, None)  # 99 pixels
    assert scores_of_cars(truth_of((26000, rectangle(0, 0, 10, 10)))) == (0.0, 0.0)


def test_area_under_the_curve_by_hand() -> None:
    """One of two cars found: recall 0.5 at precision 1, whose width is half of 0.5, and the point at recall 0."""
    assert scores_of_cars(truth_of(*CARS), (0.9, CAR))[1] == pytest.approx(0.25 + 0.25)
    # The second of two fits is wrong: precision, recall (1/2, 1/2), (1, 1/2), (1, 0); widths 0, 1/4, 1/4.
    assert scores_of_cars(truth_of(*CARS), (0.9, CAR), (0.8, CAR))[1] == pytest.approx(0.5)
    # A better scored false one: (1/2, 1/2), (0, 0), (1, 0); widths 1/4, 1/4, 0.
    assert scores_of_cars(truth_of(*CARS), (0.8, CAR), (0.9, rectangle(50, 50, 20, 20)))[1] == pytest.approx(0.125)


def test_overlap_must_exceed_the_threshold() -> None:
    assert scores_of_cars(truth_of((26000, CAR)), (0.9, rectangle(10, 10, 20, 10)))[1] == 0.0  # IoU 0.5
    ap, ap50 = scores_of_cars(truth_of((26000, CAR)), (0.9, rectangle(10, 10, 20, 13)))  # IoU 0.65
    assert (ap, ap50) == (pytest.approx(0.3), 1.0)


@pytest.mark.parametrize("where", ["group", "tiny", "void", "group of another class", "nowhere"])
def test_predictions_on_what_does_not_count(where: str) -> None:
    elsewhere = rectangle(50, 50, 9, 9)
    regions = {"group": [(26, elsewhere)], "tiny": [(26007, elsewhere)], "group of another class": [(24, elsewhere)]}
    truth = truth_of((26000, CAR), *regions.get(where, []), void=elsewhere if where == "void" else None)
    is_wrong = where in ("group of another class", "nowhere")
    assert scores_of_cars(truth, (0.8, CAR), (0.9, elsewhere))[1] == pytest.approx(0.25 if is_wrong else 1.0)
    half = rectangle(50, 50, 9, 22)  # most of it on nothing
    share = 2 * 81 / 198 if where == "group" else 81 / 198  # small groups count twice
    is_wrong |= share <= 0.5
    assert scores_of_cars(truth, (0.8, CAR), (0.9, half))[1] == pytest.approx(0.25 if is_wrong else 1.0)


def test_several_crowds_of_a_class_are_one_region() -> None:
    truth = truth_of((26000, CAR))
    parts = rectangle(50, 50, 20, 10), rectangle(50, 60, 20, 10)
    truth["annotations"] += [annotate(part, 26, id=9, iscrowd=1, area=200) for part in parts]
    assert scores_of_cars(truth, (0.8, CAR), (0.9, parts[0] | parts[1])) == (1.0, 1.0)


def test_polygons_and_uncompressed_codes_are_objects_too() -> None:
    truth = truth_of(*CARS)
    truth["annotations"][0]["segmentation"] = [[10, 10, 30, 10, 30, 30, 10, 30]]
    flat = CARS[1][1].ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False, append=False))
    runs = np.diff([0, *changes, flat.size]).tolist()
    truth["annotations"][1]["segmentation"] = {"size": list(IMAGE_HW), "counts": runs}
    assert scores_of_cars(truth, (0.9, CARS[0][1]), (0.8, CARS[1][1])) == (1.0, 1.0)


def test_empty_masks_are_left_out() -> None:
    assert scores_of_cars(truth_of((26000, CAR)), (0.8, CAR), (0.9, np.zeros(IMAGE_HW, bool))) == (1.0, 1.0)


@pytest.mark.parametrize("void", [[], {}, {"size": [1, 1], "counts": "01"}, {"size": list(IMAGE_HW), "counts": "11"}])
def test_malformed_void_is_refused(void: Any) -> None:
    truth = truth_of((26000, CAR))
    truth["images"][0]["void"] = void
    with pytest.raises(DataError, match="Image 1: expected void as a compressed run-length code of its size"):
        score_cityscapes(truth, [])


def test_malformed_results_are_refused() -> None:
    result = annotate(CAR, 26, score=0.5)
    for change in ({"score": float("nan")}, {"category_id": 29}, {"segmentation": None}):
        with pytest.raises(DataError, match="Result 0"):
            score_cityscapes(truth_of((26000, CAR)), [result | change])


def test_a_image_may_have_hundreds_of_objects_and_results() -> None:
    image_hw, category_id = (200, 220), LABELS[0]
    squares = [np.zeros(image_hw, bool) for _ in range(400)]
    for index, square in enumerate(squares):
        y, x = divmod(index, 20)
        square[10 * y : 10 * y + 10, 11 * x : 11 * x + 11] = True  # 110 pixels
    objects = [annotate(mask, category_id, id=k, iscrowd=0, area=110) for k, mask in enumerate(squares)]
    images = [{"id": 1, "height": image_hw[0], "width": image_hw[1]}]
    categories = [{"id": category_id, "name": NAMES[category_id]}]
    truth = {"images": images, "annotations": objects, "categories": categories}
    scores = score_cityscapes(truth, [annotate(mask, category_id, score=0.5) for mask in squares])
    assert scores["AP"] == scores["AP50"] == 1.0
