"""Images of detections: what is drawn where, on images of any size, with any names."""

import cv2
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.errors import StorageError
from mrcnn_jax.visualization.overlays import (
    FILL_OPACITY,
    MIN_SHORT_SIDE,
    draw_detections,
    draw_side_by_side,
    instance_color,
    safe_name,
    save_picture,
)

CATEGORIES = (Category(3, "fig"), Category(7, "a\x1b[31m\nname that is much longer than fits 核"))
GREY = 90


def make_image(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def draw_two(scores: np.ndarray | None, masks: np.ndarray | None) -> np.ndarray:
    """Two objects of the same box on an image that is not enlarged."""
    boxes = np.array([[100, 120, 300, 320]] * 2, np.float32)
    return draw_detections(make_image(500, 600), boxes, scores, np.array([3, 7]), masks, CATEGORIES)


def test_without_detections_the_image_is_returned_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    for masks in (None, np.zeros((0, 500, 600), bool)):
        drawn = draw_detections(image, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), masks, CATEGORIES)
        np.testing.assert_array_equal(drawn, image)
        assert drawn is not image


def test_masks_are_blended_inside_and_nothing_is_drawn_far_away() -> None:
    mask = np.zeros((1, 500, 600), bool)
    mask[0, 150:300, 120:280] = True
    image = make_image(500, 600)
    boxes, labels = np.array([[100, 120, 300, 320.0]]), np.array([3])
    drawn = draw_detections(image, boxes, np.array([0.9]), labels, mask, CATEGORIES)
    expected = ((1 - FILL_OPACITY) * GREY + FILL_OPACITY * np.array(instance_color(0))).astype(np.uint8)
    np.testing.assert_array_equal(drawn[225, 200], expected)
    np.testing.assert_array_equal(drawn[150, 200], instance_color(0))  # contour
    np.testing.assert_array_equal(drawn[319, 200], instance_color(0))  # last row of the half-open box
    np.testing.assert_array_equal(drawn[310, 200], [GREY] * 3)  # in the box, outside the mask
    np.testing.assert_array_equal(drawn[330:], make_image(170, 600))
    np.testing.assert_array_equal(drawn[:, 310:], make_image(500, 290))
    np.testing.assert_array_equal(image, make_image(500, 600))  # the argument is left alone


def test_the_best_detection_is_on_top() -> None:
    masks = np.zeros((2, 500, 600), bool)
    masks[:, 150:300, 120:280] = True
    for scores in (np.array([0.9, 0.3]), np.array([0.3, 0.9])):
        drawn = draw_two(scores, masks)
        np.testing.assert_array_equal(drawn[319, 200], instance_color(0))
        fill = [GREY] * 3
        for rank in (1, 0):
            fill = ((1 - FILL_OPACITY) * np.array(fill) + FILL_OPACITY * np.array(instance_color(rank))).astype(
                np.uint8
            )
        np.testing.assert_array_equal(drawn[225, 200], fill)


def test_drawing_is_stable_and_ground_truth_needs_no_scores() -> None:
    np.testing.assert_array_equal(draw_two(None, None), draw_two(None, None))
    assert (draw_two(None, None) != make_image(500, 600)).any()


def test_small_ground_truth_is_drawn_on_top_of_large() -> None:
    boxes = np.array([[250, 250, 280, 280], [100, 100, 400, 400.0]])
    masks = np.zeros((2, 500, 600), bool)
    masks[0, 250:280, 250:280] = masks[1, 100:400, 100:400] = True
    drawn = draw_detections(make_image(500, 600), boxes, None, np.array([3, 3]), masks, CATEGORIES)
    np.testing.assert_array_equal(drawn[279, 265], instance_color(1))  # the smaller object's own contour


def test_colors_of_neighbouring_ranks_differ() -> None:
    colors = np.array([instance_color(rank) for rank in range(40)])
    distance = np.abs(colors[:, None] - colors[None]).sum(-1) + 1000 * np.eye(40, dtype=int)
    assert distance.min() > 0
    assert min(np.abs(colors[i] - colors[i + 1]).sum() for i in range(39)) > 120


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 700), (700, 1), (16, 16), (100, 128), (479, 481), (2000, 3000)])
def test_every_size_is_drawn_and_small_images_are_enlarged(image_hw: tuple[int, int]) -> None:
    height, width = image_hw
    boxes, masks = np.array([[0, 0, width, height], [-5, -5, 2, 2]]), np.ones((2, *image_hw), bool)
    drawn = draw_detections(make_image(*image_hw), boxes, np.array([0.5, 0.4]), np.array([3, 99]), masks, CATEGORIES)
    factor = drawn.shape[0] // height
    assert drawn.shape == (height * factor, width * factor, 3)
    assert min(drawn.shape[:2]) >= MIN_SHORT_SIDE or max(image_hw) > 10 * min(image_hw)
    assert factor == 1 or min(image_hw) < MIN_SHORT_SIDE


def test_labels_stay_inside_the_image() -> None:
    for box in ([590, 0, 600, 10], [0, 0, 600, 500], [590, 490, 600, 500], [0, 495, 5, 500]):
        boxes, labels = np.array([box], float), np.array([3])
        drawn = draw_detections(make_image(500, 600), boxes, np.array([0.93]), labels, None, CATEGORIES)
        box_only = make_image(500, 600)
        cv2.rectangle(box_only, (box[0], box[1]), (box[2] - 1, box[3] - 1), instance_color(0), 1)
        rows, columns = np.nonzero((drawn != box_only).any(-1))
        assert 13 < np.ptp(rows) < 40 and 40 < np.ptp(columns) < 150, "the whole label is visible"


def test_crowded_images_keep_labels_that_fit() -> None:
    side = np.arange(6) * 80 + 10
    corners = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    small = np.concatenate([corners, corners + 20], 1).astype(float)
    scores, labels = np.linspace(0.9, 0.1, 36), np.full(36, 3)
    boxes_only = make_image(500, 600)
    for rank in range(35, -1, -1):
        x0, y0, x1, y1 = small[rank].astype(int)
        cv2.rectangle(boxes_only, (x0, y0), (x1 - 1, y1 - 1), instance_color(rank), 1)
    drawn = draw_detections(make_image(500, 600), small, scores, labels, None, CATEGORIES)
    np.testing.assert_array_equal(drawn, boxes_only)
    large = np.concatenate([small[:35], [[200, 200, 400, 400]]])
    drawn = draw_detections(make_image(500, 600), large, scores, labels, None, CATEGORIES)
    assert (drawn[183:199, 201:240] == instance_color(35)).all(-1).any(), "the large object's label"


def test_names_are_made_safe() -> None:
    assert safe_name("fig") == "fig"
    assert safe_name("a\x1b[31m\n b\t\x00") == "a?[31m b ?"
    assert safe_name("x" * 100) == "x" * 21 + "..."
    assert draw_two(np.array([0.9, 0.8]), None).shape == (500, 600, 3)


def test_wrong_images_are_refused() -> None:
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="Expected an image uint8"):
            draw_detections(image, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), None, CATEGORIES)


def test_side_by_side_holds_both_images() -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (120, 200, 3), dtype=np.uint8)
    right = rng.integers(0, 256, (100, 90, 3), dtype=np.uint8)
    pair = draw_side_by_side(left, right, ("left", "a very long title that cannot fit over the image"))
    top, gap = pair.shape[0] - 120, pair.shape[1] - 290
    assert top > 20 and gap > 0
    np.testing.assert_array_equal(pair[top:, :200], left)
    np.testing.assert_array_equal(pair[top : top + 100, 200 + gap :], right)
    assert (pair[:top, :200] < 128).any() and (pair[:top, 200 + gap :] < 128).any(), "titles"
    assert (pair[:, 200 : 200 + gap] == 255).all()


def test_images_are_saved_as_rgb(tmp_path: object) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 0] = 200
    path = f"{tmp_path}/neu ö/picture.png"
    save_picture(path, image)
    read = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(read, image)
    with pytest.raises(StorageError, match="Cannot write the picture"):
        save_picture(f"{path}/inside_a_file.png", image)
    for name in ("picture.gif", "picture"):
        with pytest.raises(ValueError, match=f"ending in .png or .jpg, got {name}"):
            save_picture(f"{tmp_path}/{name}", image)


def test_without_a_skeleton_there_are_points_only() -> None:
    keypoints = np.array([[[100, 100, 0.9], [300, 400, 0.9]]])
    image, box, one = make_image(500, 600), np.array([[50.0, 50, 350, 450]]), np.ones(1)
    without = draw_detections(image, box, one, np.ones(1, int), None, (Category(1, "tool"),))
    for category in (Category(1, "tool", ("tip", "end")), Category(1, "tool", ("tip", "end"), ((1, 9),))):
        drawn = draw_detections(image, box, one, np.ones(1, int), None, (category,), keypoints)
        rows, columns = np.nonzero((drawn != without).any(axis=-1))
        to_points = np.hypot(*(np.stack([columns, rows], axis=-1)[:, None] - keypoints[0, :, :2]).T)  # [2, n]
        assert to_points.min(axis=0).max() < 10 and (to_points.min(axis=1) < 1).all()


def test_skeletons_join_seen_keypoints_only() -> None:
    category = Category(1, "stick", ("a", "b", "c"), ((1, 2), (2, 3)))
    keypoints = np.array([[[100, 100, 0.9], [300, 100, 0.9], [300, 400, 0.01]]])
    box = np.array([[90, 90, 310, 410]], np.float32)
    drawn = draw_detections(
        make_image(500, 600), box, np.ones(1), np.ones(1, int), np.zeros((1, 0, 0), bool), (category,), keypoints
    )
    assert (drawn[100, 200] != GREY).any() and (drawn[100, 100] == 255).all()  # a bone, and a joint
    assert (drawn[250, 300] == GREY).all() and (drawn[400, 300] == GREY).all()  # nothing to the unseen one


def test_tracks_define_colours_and_labels_and_frames_keep_their_size() -> None:
    image, boxes, labels = make_image(100, 200), np.array([[10, 30, 90, 90.0], [110, 30, 190, 90]]), np.array([3, 3])
    masks = np.zeros((2, 100, 200), bool)
    masks[0][40:80, 20:80] = masks[1][40:80, 120:180] = True
    for scores in (np.array([0.9, 0.3]), np.array([0.3, 0.9])):
        drawn = draw_detections(
            image, boxes, scores, labels, masks, CATEGORIES, tracks=np.array([12, 5]), keep_size=True
        )
        assert drawn.shape == image.shape
        for x, number in ((50, 12), (150, 5)):
            expected = ((1 - FILL_OPACITY) * GREY + FILL_OPACITY * np.array(instance_color(number))).astype(np.uint8)
            np.testing.assert_array_equal(drawn[60, x], expected)
    other = draw_detections(image, boxes, scores, labels, masks, CATEGORIES, tracks=np.array([13, 5]), keep_size=True)
    np.testing.assert_array_equal(other[:, 100:], drawn[:, 100:])
    assert (other[:, :100] != drawn[:, :100]).any()
    assert draw_detections(image, boxes, scores, labels, masks, CATEGORIES).shape[0] > 100


@pytest.mark.parametrize("image_hw", [(500, 600), (60, 80)])
def test_masks_in_windows_are_drawn_like_whole_ones(image_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    windows = [(0, 30, 0, 40), (20, 60, 10, 80), (5, 5, 7, 7), (40, 50, 60, 70)]
    crops = [rng.random((y1 - y0, x1 - x0)) < 0.7 for y0, y1, x0, x1 in windows]
    crops[3][:] = False
    masks = np.zeros((4, *image_hw), bool)
    for mask, crop, (y0, y1, x0, x1) in zip(masks, crops, windows, strict=True):
        mask[y0:y1, x0:x1] = crop
    boxes = np.array([[x0, y0, x1, y1] for y0, y1, x0, x1 in windows], np.float32)
    scores, labels = np.array([0.9, 0.8, 0.7, 0.6]), np.array([3, 7, 3, 7])
    expected = draw_detections(make_image(*image_hw), boxes, scores, labels, masks, CATEGORIES)
    drawn = draw_detections(
        make_image(*image_hw), boxes, scores, labels, lambda index: (crops[index], windows[index]), CATEGORIES
    )
    np.testing.assert_array_equal(drawn, expected)
    assert (expected != draw_detections(make_image(*image_hw), boxes, scores, labels, None, CATEGORIES)).any()
