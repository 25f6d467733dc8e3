"""Generated images: reproducible, masks are the visible parts, and nothing visible is unlabelled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.data import shapes
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.shapes import EASY, HARD, draw_scene, shapes_source

SCENES = [draw_scene(0, 0, index) for index in range(12)]
GRID = np.meshgrid(np.linspace(-1.2, 1.2, 241), np.linspace(-1.2, 1.2, 241))


@pytest.mark.parametrize(
    ("name", "inside", "outside", "area"),
    [
        ("disc", [(0, 0), (0.9, 0), (0.6, -0.7)], [(0.97, 0), (0.7, 0.7)], np.pi * 0.95**2),
        ("ring", [(0.6, 0), (0, -0.9)], [(0, 0), (0.3, 0.3), (1.05, 0)], np.pi * 0.75),
        ("triangle", [(0, 0), (0, -0.9), (0.7, 0.4)], [(0, 0.55), (0.6, -0.4)], 3 * np.sqrt(3) / 4),
        ("star", [(0.95, 0), (0.3, 0.9), (-0.4, 0)], [(-0.5, 0), (0.6, 0.4)], 5 * 0.45 * np.sin(np.pi / 5)),
        ("hoop", [(0.9, 0), (0, -0.8)], [(0, 0), (0.7, 0), (1.01, 0)], np.pi * (1 - 0.76**2)),
        ("hook", [(-0.9, 0), (0, 0.8)], [(0.9, 0), (0, 0)], 0.75 * np.pi * (1 - 0.76**2)),
        ("bars", [(0, 0), (0.9, 0.1)], [(0.5, 0.2), (1, 0)], 4 * 0.26 * 0.95 - 0.26**2),
        ("fork", [(0, -0.7), (0.7, 0.7), (0, 0.7)], [(0.3, 0), (0, 0.8), (0, -0.9)], 1.7 * 0.25 + 3 * 0.26 * 1.3),
        ("cross", [(0, 0), (0.9, 0.2), (-0.2, -0.9)], [(0.5, 0.5), (1, 0)], 4 * 0.6 * 0.95 - 0.36),
    ],
)
def test_outlines(name: str, inside: list, outside: list, area: float) -> None:
    test = (EASY.outlines | HARD.outlines)[name]
    for points, expected in ((inside, True), (outside, False)):
        u, v = np.array(points, float).T
        assert (test(u, v) == expected).all()
    assert abs(test(*GRID).mean() * 2.41**2 - area) < 0.03


def test_a_image_is_a_function_of_seed_stream_and_index() -> None:
    again = draw_scene(0, 0, 3)
    np.testing.assert_array_equal(again.image, SCENES[3].image)
    np.testing.assert_array_equal(again.masks, SCENES[3].masks)
    others = [draw_scene(*key).image.tobytes() for key in ((1, 0, 3), (0, 1, 3), (0, 0, 4))]
    assert len({again.image.tobytes(), *others}) == 4


def test_a_mask_is_what_lies_in_front_and_covers_half_of_the_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = np.array([[0.0, 0.4, 0.6, 1.0, 1.0, 1.0]], np.float32)
    in_front = np.array([[0.0, 0.0, 0.0, 0.3, 0.7, 1.0]], np.float32)
    monkeypatch.setattr(
        shapes, "_place", lambda image_hw, rng, style: ([_tile(behind, image_hw), _tile(in_front, image_hw)], [4, 2])
    )
    scene = draw_scene(0, 0, 0)
    assert scene.labels.tolist() == [4, 2]
    np.testing.assert_array_equal(scene.masks[0, :, :6], _tile([[0, 0, 1, 1, 0, 0]], scene.masks.shape[1:])[:, :6])
    np.testing.assert_array_equal(scene.masks[1, :, :6], _tile([[0, 0, 0, 0, 1, 1]], scene.masks.shape[1:])[:, :6])


def _tile(row: Any, image_hw: tuple[int, ...]) -> np.ndarray:
    """The row [1, w] repeated down and to the right, cut to the image's size."""
    return np.tile(row, (image_hw[0], 40))[:, : image_hw[1]]


def test_masks_are_disjoint_visible_and_not_boxes() -> None:
    fill = []
    for scene in SCENES:
        assert 1 <= len(scene.labels) == len(scene.masks) <= 8
        assert set(scene.labels) <= set(range(1, len(EASY.categories) + 1))
        assert scene.masks.sum(0).max() == 1
        assert scene.masks.sum((1, 2)).min() >= 100
        for mask in scene.masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            fill.append(mask.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
    assert np.mean(fill) < 0.65


def test_sizes_and_both_orientations() -> None:
    sizes = np.array([scene.image.shape[:2] for scene in SCENES])
    assert sizes.min() >= 128 and sizes.max() <= 192
    assert (sizes[:, 0] < sizes[:, 1]).any() and (sizes[:, 0] > sizes[:, 1]).any()


def test_what_is_not_labelled_looks_like_background() -> None:
    """Pixels off all masks are close to the background's own colour, which its textures change by 25 plus noise."""
    for scene in SCENES:
        labelled = scene.masks.any(0)
        # One pixel around a mask is mixed with it.
        around = np.zeros_like(labelled)
        for shift in (-1, 0, 1):
            for axis in (0, 1):
                around |= np.roll(labelled, shift, axis)
        background = scene.image[~around].astype(float)
        distance = np.abs(background - np.median(background, axis=0)).max(axis=1)
        assert (distance > 95).mean() < 1e-3


def test_prepared_shapes_equal_the_drawn_ones(tmp_path: Path) -> None:
    prepare(shapes_source(3, seed=0, stream=0), tmp_path, "train", max_skip_fraction=0.0)
    dataset = open_dataset(str(tmp_path))
    assert [category.name for category in dataset.categories] == ["disc", "ring", "triangle", "star", "cross"]
    for record, scene in zip(dataset, SCENES, strict=False):
        np.testing.assert_array_equal(record.image, scene.image)
        assert [item.label for item in record.objects] == scene.labels.tolist()
        for item, mask in zip(record.objects, scene.masks, strict=True):
            x, y, width, height = (int(value) for value in item.bbox)
            assert item.area == mask.sum() == mask[y : y + height, x : x + width].sum()
    ids = [item.id for record in dataset for item in record.objects]
    assert len(set(ids)) == len(ids)


def test_fingerprints_tell_sources_apart() -> None:
    sources = [
        shapes_source(n, seed=seed, stream=stream) for n, seed, stream in ((3, 0, 0), (4, 0, 0), (3, 1, 0), (3, 0, 1))
    ]
    assert len({source.fingerprint for source in sources}) == 4


def test_hard_images_have_thin_and_hidden_shapes() -> None:
    scenes = [draw_scene(0, 0, index, HARD) for index in range(12)]
    assert {label for scene in scenes for label in scene.labels} == {1, 2, 3, 4, 5}

    def mean_share_of_box(scenes: list) -> float:
        shares = []
        for scene in scenes:
            for mask in scene.masks:
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                shares.append(mask.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1))
        return float(np.mean(shares))

    assert mean_share_of_box(scenes) < 0.6 * mean_share_of_box(SCENES)
    assert [category.name for category in HARD.categories] == ["star", "hoop", "hook", "bars", "fork"]
    assert shapes_source(3, seed=0, stream=0, style=HARD).fingerprint != shapes_source(3, seed=0, stream=0).fingerprint
