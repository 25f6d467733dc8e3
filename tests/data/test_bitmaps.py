"""Bitmaps: exact on hand-made masks, equal to a loop on RLE, close to the full-size mask, whatever the polygon."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_jax.data.bitmaps import decode_columns, make_bitmap, mask_area

# pycocotools' decode does so; the package does not use it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def to_rle(mask: np.ndarray, compressed: bool = True) -> dict:
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    if compressed:
        return {"size": list(mask.shape), "counts": code["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = [0, *changes, len(flat)] if flat[0] == 0 else [0, 0, *changes, len(flat)]
    return {"size": list(mask.shape), "counts": np.diff(edges).tolist()}


def bitmap_by_loop(mask: np.ndarray, box: np.ndarray, mask_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear interpolation at each cell's centre in float64, from the formula; and the margin to the threshold."""
    x0, y0, x1, y1 = box
    values = np.zeros((mask_size, mask_size))
    for row in range(mask_size):
        for column in range(mask_size):
            y = np.clip(y0 + (row + 0.5) * (y1 - y0) / mask_size - 0.5, 0, mask.shape[0] - 1)
            x = np.clip(x0 + (column + 0.5) * (x1 - x0) / mask_size - 0.5, 0, mask.shape[1] - 1)
            top, left = int(y), int(x)
            for i in (top, min(top + 1, mask.shape[0] - 1)):
                for j in (left, min(left + 1, mask.shape[1] - 1)):
                    values[row, column] += mask[i, j] * max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                    if j == mask.shape[1] - 1:
                        break
                if i == mask.shape[0] - 1:
                    break
    return values >= 0.5, np.abs(values - 0.5)


def test_a_bitmap_drawn_by_hand() -> None:
    # The box is 4 x 4 pixels at (8, 4); the triangle covers its lower left half.
    triangle = [[8.0, 4.0, 12.0, 8.0, 8.0, 8.0]]
    bitmap = make_bitmap(triangle, np.array([8, 4, 12, 8]), (20, 30), 4)
    assert np.tril(bitmap).sum() == bitmap.sum() and bitmap[3].tolist() == [1, 1, 1, 1]
    # The left two of four pixels.
    mask = np.zeros((20, 30), np.uint8)
    mask[4:8, 8:10] = 1
    bitmap = make_bitmap(to_rle(mask), np.array([8, 4, 12, 8]), (20, 30), 4)
    np.testing.assert_array_equal(bitmap, [[1, 1, 0, 0]] * 4)


def test_decode_columns_is_a_slice_of_the_mask() -> None:
    mask = (np.random.default_rng(1).random((13, 17)) < 0.4).astype(np.uint8)
    counts = np.array(to_rle(mask, compressed=False)["counts"])
    for first, last in ((0, 17), (3, 9), (16, 17), (0, 1)):
        np.testing.assert_array_equal(decode_columns(counts, 13, first, last), mask[:, first:last])


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    "box", [(0, 0, 40, 30), (3, 4, 5, 6), (10.3, 2.7, 33.1, 29.9), (39.5, 0, 40, 30), (0, 0, 1, 1)]
)
def test_rle_bitmaps_equal_a_loop(box: tuple[float, ...], compressed: bool) -> None:
    coarse = np.random.default_rng(5).random((6, 8)) < 0.5
    mask = np.kron(coarse, np.ones((5, 5), np.uint8))  # [30, 40]
    bitmap = make_bitmap(to_rle(mask, compressed), np.array(box), (30, 40), 28)
    expected, margin = bitmap_by_loop(mask, np.array(box), 28)
    # OpenCV interpolates at 1/32 of a pixel.
    np.testing.assert_array_equal(bitmap[margin > 1 / 16], expected[margin > 1 / 16])
    assert (bitmap != expected).mean() < 0.02


def test_polygons_with_holes_and_parts_are_joined() -> None:
    parts = [[2.0, 2, 6, 2, 6, 6, 2, 6], [10.0, 10, 14, 10, 14, 14, 10, 14]]
    bitmap = make_bitmap(parts, np.array([2, 2, 14, 14]), (20, 20), 12)
    expected = np.zeros((12, 12), np.uint8)
    expected[:4, :4] = expected[8:, 8:] = 1
    np.testing.assert_array_equal(bitmap, expected)
    assert mask_area(parts, (20, 20)) == 32 == mask_area(to_rle(np.kron(np.eye(2), np.ones((4, 4)))), (8, 8))


def test_polygons_that_reach_far_out_of_their_box_are_rasterised_safely(monkeypatch: pytest.MonkeyPatch) -> None:
    def rasterise(polygons: list[list[float]], height: int, width: int) -> list:
        # pycocotools takes a gigabyte for 10^7 pixels and crashes on more.
        assert np.abs(polygons).max() <= 10 * max(height, width)
        return from_polygons(polygons, height, width)

    from_polygons = coco_mask.frPyObjects
    monkeypatch.setattr(coco_mask, "frPyObjects", rasterise)
    polygon = [[-300.0, -300, 300, -300, 300, 300, -300, 300]]
    bitmap = make_bitmap(polygon, np.array([5.0, 5, 5.003, 5.003]), (20, 30), 112)
    assert bitmap.shape == (112, 112) and bitmap.min() == 1
    half = [[-300.0, -300, 10, -300, 10, 300, -300, 300]]
    bitmap = make_bitmap(half, np.array([5.0, 5, 15, 15]), (20, 30), 10)
    np.testing.assert_array_equal(bitmap, [[1] * 5 + [0] * 5] * 10)


@pytest.mark.parametrize("radius", [6, 20, 70])
def test_bitmaps_paste_back_to_the_full_size_mask(radius: float) -> None:
    """IoU at full size, measured over radii: 0.97 (6 pixels) to 0.99."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    reach = radius * (1 + 0.3 * np.cos(3 * angles))
    x, y = 100.3 + reach * np.cos(angles), 99.6 + reach * np.sin(angles)
    box = np.array([x.min(), y.min(), x.max(), y.max()])
    polygon = [np.stack([x, y], axis=1).ravel().tolist()]
    code = coco_mask.frPyObjects(polygon, 200, 200)
    exact = coco_mask.decode(coco_mask.merge(code)).astype(bool)
    for segmentation in (polygon, to_rle(exact)):
        bitmap = make_bitmap(segmentation, box, (200, 200), 112)
        rows, columns = np.meshgrid(np.arange(200) + 0.5, np.arange(200) + 0.5, indexing="ij")
        i = np.floor((rows - box[1]) / (box[3] - box[1]) * 112).astype(int)
        j = np.floor((columns - box[0]) / (box[2] - box[0]) * 112).astype(int)
        inside = (i >= 0) & (i < 112) & (j >= 0) & (j < 112)
        pasted = inside & (bitmap[i.clip(0, 111), j.clip(0, 111)] == 1)
        assert (pasted & exact).sum() / (pasted | exact).sum() > 0.96
