"""Pictures of detections and ground truth: masks, contours, boxes and labels drawn on the image.

Sizes depend on the image, so that labels are as readable on 128 as on 4000 pixels: small images are first enlarged by
an integer factor. n objects, H x W the image, colours RGB. Boxes are x0, y0, x1, y1 in pixels, half-open.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.errors import StorageError
from mrcnn_jax.integers import ceil_div

MIN_SHORT_SIDE = 480
"""Images with a shorter short side are enlarged to about this, in pixels."""
MAX_ENLARGED_SIDE = 2400
"""Limit on the long side of enlarged images, in pixels."""
FILL_OPACITY = 0.4
MAX_NAME_LENGTH = 24
MANY_OBJECTS = 25
"""With at least this many objects, labels wider than their object are left out: they would hide the image."""
KEYPOINT_SCORE = 0.05
"""Keypoints with a lower score are not drawn: hidden ones have lower softmax scores, and logits below zero."""

Color = tuple[int, int, int]
MaskFn = Callable[[int], tuple[np.ndarray, tuple[int, int, int, int]]]
"""Returns the pixels of a mask, bool [h, w], and their window y0, y1, x0, x1 in the image, by the object's index."""


class _Rectangle(NamedTuple):
    x0: int
    y0: int
    x1: int
    y1: int


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray | None,
    labels: np.ndarray,
    masks: np.ndarray | MaskFn | None,
    categories: Sequence[Category],
    keypoints: Sequence[np.ndarray] | np.ndarray | None = None,
    *,
    tracks: np.ndarray | None = None,
    keep_size: bool = False,
) -> np.ndarray:
    """Returns the image with its objects drawn, uint8 RGB [k H, k W, 3], with k >= 1 the enlargement of small images.

    Args:
        image: uint8 RGB [H, W, 3].
        boxes: [n, 4] in pixels of the image.
        scores: [n], or None for ground truth.
        labels: [n] category ids of the data set.
        masks: bool [n, H, W], or a function that returns the pixels and the window of one mask; or None.
        categories: names and skeletons; an id without a category is shown as a number.
        keypoints: [n, K, 3] x, y in pixels of the image, score; or None.
        tracks: [n] track numbers, which are shown, and define the colours; or None.
        keep_size: never enlarge the image (k = 1), as for frames of a video.

    The best object is drawn last and keeps its label where labels collide. Colours are stable: they depend on the rank.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"Expected an image uint8 [H, W, 3], got {image.dtype} {list(image.shape)}.")
    names = {category.id: category.name for category in categories}
    skeletons = {category.id: category.skeleton for category in categories}
    factor = 1 if keep_size else _enlargement(image.shape[0], image.shape[1])
    canvas = _enlarge(image, factor, cv2.INTER_CUBIC)
    line_width = max(2, round(min(canvas.shape[:2]) / 400))
    order = np.argsort(-scores, kind="stable") if scores is not None else np.argsort(-_areas(boxes), kind="stable")
    colors = {
        int(index): instance_color(rank if tracks is None else int(tracks[index])) for rank, index in enumerate(order)
    }
    # Ground truth has no scores: small objects are drawn last, on top. Detections are drawn from the worst to the best.
    painting_order = [int(index) for index in (order if scores is None else order[::-1])]
    rectangles = [_rectangle(box, factor, canvas.shape) for box in np.asarray(boxes, np.float64).reshape(-1, 4)]
    for index in painting_order:
        if callable(masks):
            pixels, (top, _, left, _) = masks(index)
            _draw_mask(canvas, pixels, (top, left), factor, colors[index], line_width)
        elif masks is not None and masks.size:
            _draw_mask(canvas, masks[index], (0, 0), factor, colors[index], line_width)
        _draw_box(canvas, rectangles[index], colors[index], line_width)
        if keypoints is not None:
            skeleton = skeletons.get(int(labels[index]), ())
            _draw_skeleton(canvas, keypoints[index], skeleton, factor, colors[index], line_width)
    taken: list[_Rectangle] = []
    for index in reversed(painting_order):
        name = safe_name(names.get(int(labels[index]), f"category {int(labels[index])}"))
        if tracks is not None:
            name = f"{name} #{int(tracks[index])}"
        text = name if scores is None else f"{name} {scores[index]:.2f}"
        _draw_label(canvas, text, rectangles[index], colors[index], taken, crowded=len(rectangles) >= MANY_OBJECTS)
    return canvas


def draw_side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Returns two uint8 RGB images side by side under their titles, uint8 RGB; the shorter one is padded below."""
    height = max(left.shape[0], right.shape[0])
    text_height = _text_height(left.shape)
    bar, gap = 2 * text_height, max(4, text_height // 3)
    width = left.shape[1] + gap + right.shape[1]
    canvas = np.full((bar + height, width, 3), 255, np.uint8)
    for image, title, x0 in ((left, titles[0], 0), (right, titles[1], left.shape[1] + gap)):
        canvas[bar : bar + image.shape[0], x0 : x0 + image.shape[1]] = image
        strip = np.ascontiguousarray(canvas[:bar, x0 : x0 + image.shape[1]])
        title = safe_name(title, max_length=round(image.shape[1] / (0.6 * text_height)))
        _put_text(strip, title, text_height // 2, bar - text_height * 2 // 3, (0, 0, 0), text_height)
        canvas[:bar, x0 : x0 + image.shape[1]] = strip
    return canvas


def save_picture(path: str | Path, image: np.ndarray) -> None:
    """Writes a uint8 RGB picture as .png or .jpg, by the suffix, and creates the folder. Raises StorageError."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg"):
        raise ValueError(f"Expected a picture's file name ending in .png or .jpg, got {path.name}.")
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise StorageError(f"Cannot write the picture {path}: {error.strerror}. Choose another folder.") from error


def instance_color(rank: int) -> Color:
    """Returns the bright colour of this rank, always the same and far from the colours of neighbouring ranks."""
    hue = (0.08 + rank * 0.618033988749895) % 1.0  # the golden ratio spreads any number of hues evenly
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.9, 0.8))[rank % 3]
    hsv = np.array([[[hue * 180, saturation * 255, value * 255]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def safe_name(name: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Returns a name that is safe to draw: on one line, without control characters, and not too long."""
    name = "".join(c if c.isprintable() else "?" for c in " ".join(name.split()))
    return name if len(name) <= max_length else name[: max(max_length - 3, 0)] + "..."


def _enlargement(height: int, width: int) -> int:
    short, long = min(height, width), max(height, width)
    return max(1, min(ceil_div(MIN_SHORT_SIDE, short), MAX_ENLARGED_SIDE // long))


def _enlarge(image: np.ndarray, factor: int, interpolation: int) -> np.ndarray:
    if factor == 1:
        return image.copy()
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=interpolation)


def _areas(boxes: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return (x1 - x0) * (y1 - y0)


def _rectangle(box: np.ndarray, factor: int, shape: tuple[int, ...]) -> _Rectangle:
    """Returns the corner pixels of a box on the canvas, inclusive and inside the image."""
    x0, y0, x1, y1 = (float(side) * factor for side in box)
    height, width = shape[:2]
    return _Rectangle(
        int(np.clip(round(x0), 0, width - 1)),
        int(np.clip(round(y0), 0, height - 1)),
        int(np.clip(round(x1) - 1, 0, width - 1)),
        int(np.clip(round(y1) - 1, 0, height - 1)),
    )


def _draw_mask(
    canvas: np.ndarray, mask: np.ndarray, corner: tuple[int, int], factor: int, color: Color, line_width: int
) -> None:
    """Blends the mask's area with the colour and draws its contour, within the mask's bounding box.

    `mask` is the part of the image whose first row and column are `corner`.
    """
    x0, y0, width, height = cv2.boundingRect(np.ascontiguousarray(mask, bool).view(np.uint8)) if mask.size else (0,) * 4
    if width == 0:
        return
    crop = _enlarge(mask[y0 : y0 + height, x0 : x0 + width].astype(np.uint8), factor, cv2.INTER_NEAREST)
    y0, x0 = y0 + corner[0], x0 + corner[1]
    region = canvas[y0 * factor : (y0 + height) * factor, x0 * factor : (x0 + width) * factor]
    values = np.arange(256)[:, None]
    blended = ((1 - FILL_OPACITY) * values + FILL_OPACITY * np.array(color)).astype(np.uint8)  # [256, 3]
    cv2.copyTo(cv2.LUT(region, blended[None]), crop, region)
    contours, _ = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, color, line_width, cv2.LINE_AA, offset=(x0 * factor, y0 * factor))


def _draw_box(canvas: np.ndarray, box: _Rectangle, color: Color, line_width: int) -> None:
    cv2.rectangle(canvas, (box.x0, box.y0), (box.x1, box.y1), color, max(1, line_width // 2))


def _draw_skeleton(
    canvas: np.ndarray,
    keypoints: np.ndarray,
    skeleton: Sequence[tuple[int, int]],
    factor: int,
    color: Color,
    line_width: int,
) -> None:
    """Draws the bones between visible keypoints (the skeleton counts from 1), and the keypoints on top of them."""
    points = [(round(float(x) * factor), round(float(y) * factor)) for x, y, _ in keypoints]
    seen = [bool(score > KEYPOINT_SCORE) for score in keypoints[:, 2]]
    for first, second in skeleton:
        if max(first, second) <= len(points) and seen[first - 1] and seen[second - 1]:
            cv2.line(canvas, points[first - 1], points[second - 1], color, line_width, cv2.LINE_AA)
    for point, is_seen in zip(points, seen, strict=True):
        if is_seen:
            cv2.circle(canvas, point, 2 * line_width, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)
            cv2.circle(canvas, point, 2 * line_width, color, max(1, line_width // 2), cv2.LINE_AA)


def _text_height(shape: tuple[int, ...]) -> int:
    """Returns the label height in pixels: a fixed share of the image, since images are viewed in one window size."""
    return max(13, round(min(shape[:2]) / 32))


def _draw_label(
    canvas: np.ndarray, text: str, box: _Rectangle, color: Color, taken: list[_Rectangle], *, crowded: bool
) -> None:
    """Draws the label at the first free place at the box and appends it to `taken`; nothing if no place is free."""
    text_height = _text_height(canvas.shape)
    padding = max(2, text_height // 5)
    width = _text_width(canvas, text, text_height) + 2 * padding
    height = text_height + 2 * padding
    if crowded and width > 1.25 * (box.x1 - box.x0):
        return
    for y0 in (box.y0 - height, box.y0, box.y1 + 1, box.y1 + 1 - height):
        x0 = int(np.clip(box.x0, 0, max(canvas.shape[1] - width, 0)))
        place = _Rectangle(x0, y0, x0 + width, y0 + height)
        if y0 >= 0 and y0 + height <= canvas.shape[0] and not any(_overlap(place, other) for other in taken):
            break
    else:
        return
    taken.append(place)
    cv2.rectangle(canvas, (place.x0, place.y0), (place.x1 - 1, place.y1 - 1), color, cv2.FILLED)
    luminance = np.dot(color, (0.299, 0.587, 0.114))
    ink: Color = (0, 0, 0) if luminance > 130 else (255, 255, 255)
    _put_text(canvas, text, place.x0 + padding, place.y1 - padding - text_height // 5, ink, text_height)


def _overlap(first: _Rectangle, second: _Rectangle) -> bool:
    return first.x0 < second.x1 and second.x0 < first.x1 and first.y0 < second.y1 and second.y0 < first.y1


def _text_width(canvas: np.ndarray, text: str, text_height: int) -> int:
    _, _, width, _ = cv2.getTextSize(canvas.shape[1::-1], text, (0, 0), cv2.FontFace("sans"), text_height, 500)
    return int(width)


def _put_text(canvas: np.ndarray, text: str, x: int, baseline: int, color: Color, text_height: int) -> None:
    cv2.putText(canvas, text, (x, baseline), color, cv2.FontFace("sans"), text_height, 500)
