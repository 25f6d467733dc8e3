"""Images in tiles: an ideal detector that sees one tile at a time gives each object once, with all of its pixels."""

import numpy as np
import pytest

from mrcnn_jax.data.image_windows import ImageWindows
from mrcnn_jax.data.images import ImageError
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.inference.mask_crops import MaskCrop
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.tiled_predictor import TiledPredictor
from tests.inference.ideal_detector import IdealDetector, exact_detections, objects_of, paint

TILE, OVERLAP = 128, 32


def ellipse(numbers: np.ndarray, number: int, center: tuple[float, float], radii: tuple[float, float]) -> None:
    y, x = np.ogrid[: numbers.shape[0], : numbers.shape[1]]
    inside = ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 < 1
    numbers[inside & (numbers == 0)] = number


def scene(seed: int, image_hw: tuple[int, int], count: int, radii: tuple[int, int]) -> np.ndarray:
    """Numbers [H, W] of ellipses, of which later ones are hidden behind earlier ones."""
    rng = np.random.default_rng(seed)
    numbers = np.zeros(image_hw, int)
    for number in range(1, count + 1):
        ellipse(numbers, number, tuple(rng.uniform(0, image_hw)), tuple(rng.uniform(*radii, 2)))
    return numbers


def predict(numbers: np.ndarray, **options) -> ImageDetections:
    (found,) = TiledPredictor(IdealDetector(**options), TILE, OVERLAP)([paint(numbers)], ["picture"])
    return found


def assert_exact(found: ImageDetections, numbers: np.ndarray) -> None:
    """Each object once, with its mask, box and category; best first."""
    truth = objects_of(numbers)
    expected = exact_detections(dict(sorted(truth.items())), numbers.shape, found.test)
    order = np.lexsort((np.arange(len(found)), -found.scores))
    assert (order == np.arange(len(found))).all()
    for index, number in enumerate(sorted(truth)):
        assert found.labels[index] == expected.labels[index]
        assert found.crop(index).window == truth[number].window
        assert (found.crop(index).pixels == truth[number].pixels).all()
    assert len(found) == len(truth)
    np.testing.assert_allclose(found.boxes, expected.boxes)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_objects_smaller_than_the_overlap_are_found_once(seed: int) -> None:
    numbers = scene(seed, (300 + 61 * seed, 411), 120, (2, 16))
    assert_exact(predict(numbers), numbers)


@pytest.mark.parametrize("seed", range(4))
def test_objects_larger_than_the_overlap_or_a_tile_are_joined(seed: int) -> None:
    numbers = np.zeros((420, 500), int)
    rng = np.random.default_rng(seed)
    for number in range(1, 5):
        center = (105 + 210 * (number // 3), 125 + 250 * (number % 2))
        ellipse(numbers, number, center, tuple(rng.uniform(40, 110, 2)))
    assert_exact(predict(numbers), numbers)


def test_objects_that_end_at_sides_of_tiles_and_of_the_image() -> None:
    numbers = np.zeros((224, 224), int)  # tiles of rows and columns 0..128 and 96..224
    rows = [(0, 5), (90, 96), (96, 100), (120, 128), (128, 140), (96, 128), (219, 224)]
    for number, (y0, y1) in enumerate(rows, start=1):
        column = 10 + 30 * (number - 1)
        numbers[y0:y1, column : column + 20] = number
    assert_exact(predict(numbers), numbers)
    assert_exact(predict(numbers.T), numbers.T)


def test_a_fragment_is_not_joined_to_its_neighbour() -> None:
    numbers = np.zeros((128, 224), int)
    numbers[20:60, 80:112], numbers[20:60, 112:150] = 1, 3  # they touch inside the pixels that two tiles share
    assert_exact(predict(numbers), numbers)


def test_a_bent_object_of_which_a_tile_sees_two_parts() -> None:
    numbers = np.zeros((128, 224), int)
    numbers[20:40, 40:200] = numbers[80:100, 40:200] = numbers[20:100, 40:60] = 1
    assert_exact(predict(numbers), numbers)


def interior_is_invisible(crop: MaskCrop, image_hw: tuple[int, int]) -> bool:
    """A detector sees nothing where an object fills its view."""
    return crop.area < 0.9 * image_hw[0] * image_hw[1]


def test_an_object_of_which_tiles_miss_the_inside_is_taken_from_the_reduced_image() -> None:
    numbers = np.zeros((600, 700), int)
    ellipse(numbers, 2, (300, 350), (250, 320))
    numbers[10:20, 10:20] = 4
    alone = predict(numbers, sees=interior_is_invisible)
    assert len(alone) == 2 and alone.crop(0).area < 0.95 * (numbers == 2).sum()
    found = predict(numbers, sees=interior_is_invisible, reduced=numbers, short_side=300, max_side=300)
    assert len(found) == 2
    np.testing.assert_allclose(found.boxes[0], [30, 50, 670, 550], atol=3)
    share = (found.masks[0] & (numbers == 2)).sum() / (found.masks[0] | (numbers == 2)).sum()
    assert share > 0.98
    assert found.crop(1).area == 100


def test_the_reduced_image_adds_nothing_to_what_tiles_see_as_a_whole() -> None:
    numbers = scene(1, (400, 500), 12, (20, 90))
    assert_exact(predict(numbers, reduced=numbers, short_side=250, max_side=250), numbers)
    crowd = scene(2, (300, 300), 150, (8, 12))
    crowd = np.where(crowd > 0, 2 * crowd, 0)
    as_one = np.where(crowd > 0, 2, 0)  # in the reduced image, the crowd looks like one object
    assert_exact(predict(crowd, reduced=as_one, short_side=100, max_side=100), crowd)


def test_tiles_have_one_shape_and_bear_the_name_of_their_image() -> None:
    detector = IdealDetector()
    TiledPredictor(detector, TILE, OVERLAP)([paint(np.zeros((300, 500), int))], ["a.png"])
    assert set(detector.shapes[:-1]) == {(TILE, TILE, 3)} and len(detector.shapes) == 3 * 5 + 1
    assert detector.names[0] == "a.png (rows 0:128, columns 0:128)" and detector.names[-1] == "a.png (reduced)"


def test_images_no_larger_than_a_tile_are_predicted_as_they_are() -> None:
    detector = IdealDetector()
    small, large = scene(0, (90, 128), 5, (5, 20)), scene(1, (128, 200), 5, (5, 20))
    images = [paint(large), paint(small), ImageWindows((90, 128), lambda *window: paint(small)), paint(large)]
    found = TiledPredictor(detector, TILE, OVERLAP)(images)
    assert detector.shapes[-2:] == [(90, 128, 3)] * 2 and detector.names[-2:] == ["images[1]", "images[2]"]
    for each, numbers in zip(found, (large, small, small, large), strict=True):
        assert sorted(each.crop(k).area for k in range(len(each))) == sorted(
            crop.area for crop in objects_of(numbers).values()
        )
    assert TiledPredictor(detector, TILE, OVERLAP)([]) == []


def test_boxes_stand_for_masks_if_the_model_has_none() -> None:
    numbers = np.zeros((224, 300), int)
    numbers[20:60, 80:140], numbers[100:130, 10:290], numbers[200:210, 100:110] = 1, 2, 3
    found = predict(numbers, num_mask_bins=0)
    np.testing.assert_allclose(found.boxes, [[80, 20, 140, 60], [10, 100, 290, 130], [100, 200, 110, 210]])
    assert not found.has_masks and found.masks.shape == (3, 0, 0) and "segmentation" not in found.coco_results(1)[0]


def test_images_without_objects_and_full_tiles() -> None:
    empty = predict(np.zeros((200, 300), int))
    assert len(empty) == 0 and empty.image_hw == (200, 300) and empty.coco_results(1) == []
    tiled = TiledPredictor(IdealDetector(max_detections=2), TILE, OVERLAP)
    numbers = np.zeros((128, 224), int)
    numbers[10, 10:20:4] = [1, 2, 3]
    numbers[10, 200] = 4
    tiled([paint(numbers)])
    assert tiled.num_full_tiles == 1


def test_a_part_that_cannot_be_read_is_an_error_that_names_the_image() -> None:
    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        if x1 > 150:
            raise ImageError("image cannot be decoded")
        return np.zeros((y1 - y0, x1 - x0, 3), np.uint8)

    with pytest.raises(DataError, match=r"^a\.tif: image cannot be decoded\.$"):
        TiledPredictor(IdealDetector(), TILE, OVERLAP)([ImageWindows((128, 200), read)], ["a.tif"])


def test_overlaps_of_more_than_half_a_tile_are_refused() -> None:
    with pytest.raises(ConfigError, match="overlap: expected 0 to 64"):
        TiledPredictor(IdealDetector(), 128, 65)
