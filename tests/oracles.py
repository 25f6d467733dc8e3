"""The operations of the detector once more, in NumPy and float64, written from their definitions as slow loops."""

import numpy as np


def box_iou(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1; 0 when both are empty."""
    x0, y0, x1, y1 = (float(v) for v in box)
    u0, v0, u1, v1 = (float(v) for v in other)
    width, height = min(x1, u1) - max(x0, u0), min(y1, v1) - max(y0, v0)
    intersection = width * height if width > 0 and height > 0 else 0.0
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - intersection
    return intersection / union if union > 0 else 0.0


def iou_matrix(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n, m]"""
    return np.array([[box_iou(a, b) for b in others] for a in boxes]).reshape(len(boxes), len(others))


def encode_box(box: np.ndarray, anchor: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """R-CNN, appendix C, equations 6 to 9, times `weights`."""
    x0, y0, x1, y1 = (float(v) for v in box)
    u0, v0, u1, v1 = (float(v) for v in anchor)
    width, height = u1 - u0, v1 - v0
    dx = ((x0 + x1) / 2 - (u0 + u1) / 2) / width
    dy = ((y0 + y1) / 2 - (v0 + v1) / 2) / height
    return np.array([dx, dy, np.log((x1 - x0) / width), np.log((y1 - y0) / height)]) * weights


def decode_box(delta: np.ndarray, anchor: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """R-CNN, appendix C, equations 1 to 4, with the scales limited to 1000 / 16."""
    dx, dy, dw, dh = np.asarray(delta, np.float64) / weights
    u0, v0, u1, v1 = (float(v) for v in anchor)
    center_x, center_y = (u0 + u1) / 2 + dx * (u1 - u0), (v0 + v1) / 2 + dy * (v1 - v0)
    width, height = (u1 - u0) * min(np.exp(dw), 1000 / 16), (v1 - v0) * min(np.exp(dh), 1000 / 16)
    return np.array([center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2])


def clip_box(box: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """The part of the box inside the image."""
    height, width = image_hw
    return np.clip(box, 0, [width, height, width, height])


def match(iou: np.ndarray, foreground: float, background: float, low_quality: bool) -> tuple[list[int], list[int]]:
    """State (0 ignore, 1 background, 2 foreground) and best object of each row of an IoU matrix [n, g]."""
    states, objects = [], []
    for row in iou:
        best = int(np.argmax(row)) if row.size else 0
        value = row[best] if row.size else 0.0
        states.append(2 if row.size and value >= foreground else 1 if value < background else 0)
        objects.append(best)
    if low_quality:
        for column in iou.T:
            if column.max(initial=0.0) > 0:
                for index in np.flatnonzero(column == column.max()):
                    states[index] = 2
    return states, objects


def greedy_nms(
    boxes: np.ndarray, scores: np.ndarray, valid: np.ndarray, groups: np.ndarray, threshold: float, max_kept: int
) -> list[int]:
    """Indices of the kept boxes, best first; of equal scores the lower index goes first."""
    kept: list[int] = []
    for index in sorted(np.flatnonzero(valid), key=lambda i: (-scores[i], i)):
        if len(kept) == max_kept:
            break
        if all(groups[i] != groups[index] or box_iou(boxes[i], boxes[index]) <= threshold for i in kept):
            kept.append(int(index))
    return kept


def bilinear(feature: np.ndarray, y: float, x: float) -> np.ndarray:
    """The value of [H, W, C] at a point in cells: 0 more than one cell outside, else as on the border."""
    height, width, _ = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(feature.shape[2])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    wy, wx = y - y0, x - x0
    upper = (1 - wx) * feature[y0, x0] + wx * feature[y0, x1]
    lower = (1 - wx) * feature[y1, x0] + wx * feature[y1, x1]
    return (1 - wy) * upper + wy * lower


def roi_align(
    feature: np.ndarray, roi: np.ndarray, stride: float, size: int, sampling_ratio: int, aligned: bool
) -> np.ndarray:
    """[S, S, C] of one RoI on one map [H, W, C]: the mean of the bilinear samples of each bin."""
    shift = 0.5 if aligned else 0.0
    x0, y0, x1, y1 = (float(v) / stride - shift for v in roi)
    width, height = x1 - x0, y1 - y0
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    rows = sampling_ratio or int(np.ceil(height / size))
    columns = sampling_ratio or int(np.ceil(width / size))
    pooled = np.zeros((size, size, feature.shape[2]))
    for i in range(size):
        for j in range(size):
            for a in range(rows):
                for b in range(columns):
                    y = y0 + (i + (a + 0.5) / rows) * height / size
                    x = x0 + (j + (b + 0.5) / columns) * width / size
                    pooled[i, j] += bilinear(feature, y, x) / (rows * columns)
    return pooled


def roi_align_max(feature: np.ndarray, roi: np.ndarray, stride: float, size: int, ratio: int) -> np.ndarray:
    """[S, S, C]: the largest of the bilinear samples of each bin, pixel centres at +0.5."""
    samples = roi_align(feature, roi, stride, size * ratio, 1, True)
    pooled = np.full((size, size, feature.shape[2]), -np.inf)
    for i in range(size * ratio):
        for j in range(size * ratio):
            pooled[i // ratio, j // ratio] = np.maximum(pooled[i // ratio, j // ratio], samples[i, j])
    return pooled


def rounded_roi(roi: np.ndarray, stride: float) -> list[int]:
    """First and last column and row of cells of a RoI, as Fast R-CNN rounds it: x0, y0, x1, y1, all included."""
    x0, y0, x1, y1 = (int(np.floor(v / stride + 0.5)) for v in roi)
    return [x0, y0, max(x0, x1), max(y0, y1)]


def roi_warp(feature: np.ndarray, roi: np.ndarray, stride: float, size: int, ratio: int, reduce: str) -> np.ndarray:
    """[S, S, C]: bilinear samples of the RoI rounded to whole cells."""
    x0, y0, x1, y1 = rounded_roi(roi, stride)
    cells = np.array([x0, y0, x1 + 1, y1 + 1], np.float64)
    if reduce == "max":
        return roi_align_max(feature, cells, 1.0, size, ratio)
    return roi_align(feature, cells, 1.0, size, ratio, True)


def roi_pool(feature: np.ndarray, roi: np.ndarray, stride: float, size: int, reduce: str) -> np.ndarray:
    """[S, S, C] of Fast R-CNN's RoIPool, or the average of the same cells; 0 for bins outside the map."""
    return np.stack([[pooled_cell[0] for pooled_cell in row] for row in _roi_pool(feature, roi, stride, size, reduce)])


def roi_pool_gradient(
    feature: np.ndarray, roi: np.ndarray, stride: float, size: int, reduce: str, upstream: np.ndarray
) -> np.ndarray:
    """[H, W, C]: what each cell passes on of `upstream` [S, S, C], written by hand: the largest cell takes all."""
    gradient = np.zeros(feature.shape)
    for i, row in enumerate(_roi_pool(feature, roi, stride, size, reduce)):
        for j, (_, cells) in enumerate(row):
            values = np.array([feature[y, x] for y, x in cells])  # [cells, C]
            for index, (y, x) in enumerate(cells):
                share = 1 / len(cells) if reduce == "average" else values.argmax(axis=0) == index
                gradient[y, x] += upstream[i, j] * share
    return gradient


def _roi_pool(feature: np.ndarray, roi: np.ndarray, stride: float, size: int, reduce: str) -> list:
    """For each bin its value [C] and its cells (y, x)."""
    x0, y0, x1, y1 = rounded_roi(roi, stride)
    height, width = y1 - y0 + 1, x1 - x0 + 1
    rows = []
    for i in range(size):
        ys = [y for y in range(y0 + i * height // size, y0 + -(-(i + 1) * height // size)) if 0 <= y < len(feature)]
        row = []
        for j in range(size):
            xs = range(x0 + j * width // size, x0 + -(-(j + 1) * width // size))
            cells = [(y, x) for y in ys for x in xs if 0 <= x < feature.shape[1]]
            values = np.array([feature[cell] for cell in cells]) if cells else np.zeros((1, feature.shape[2]))
            row.append((values.max(axis=0) if reduce == "max" else values.mean(axis=0), cells))
        rows.append(row)
    return rows


def pyramid_level(roi: np.ndarray, num_levels: int = 4) -> int:
    """FPN, equation 1, counted from the finest level, P2."""
    x0, y0, x1, y1 = (float(v) for v in roi)
    side = np.sqrt(max((x1 - x0) * (y1 - y0), 0.0))
    if side == 0:
        return 0
    return int(np.clip(np.floor(4 + np.log2(side / 224)) - 2, 0, num_levels - 1))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(np.asarray(x, np.float64) - np.max(x, axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def binary_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Elementwise -t log p - (1 - t) log(1 - p), p the sigmoid."""
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    return np.logaddexp(0, -logits) * targets + np.logaddexp(0, logits) * (1 - targets)


def smooth_l1(difference: np.ndarray, beta: float) -> np.ndarray:
    """Fast R-CNN, equation 3, with the turn at beta; L1 for beta 0."""
    values = np.abs(np.asarray(difference, np.float64))
    if beta == 0:
        return values
    return np.array([d * d / 2 / beta if d < beta else d - beta / 2 for d in values.ravel()]).reshape(values.shape)


def conv2d(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """[H, W, C] with a [k, k, C, D] kernel, padded with (k - 1) // 2 zeros on each side."""
    size, padding = kernel.shape[0], (kernel.shape[0] - 1) // 2
    padded = np.pad(np.asarray(x, np.float64), ((padding, padding), (padding, padding), (0, 0)))
    height, width = (padded.shape[0] - size) // stride + 1, (padded.shape[1] - size) // stride + 1
    out = np.zeros((height, width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            window = padded[i * stride : i * stride + size, j * stride : j * stride + size]
            out[i, j] = np.tensordot(window, kernel.astype(np.float64), axes=3)
    return out


def transposed_conv2d(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """[H, W, C] with a [2, 2, C, D] kernel and stride 2: each cell spreads into its own 2 x 2 cells."""
    height, width, _ = x.shape
    out = np.zeros((2 * height, 2 * width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            for a in range(2):
                for b in range(2):
                    out[2 * i + a, 2 * j + b] += np.asarray(x[i, j], np.float64) @ kernel[a, b].astype(np.float64)
    return out


def rasterise_rings(rings: list[np.ndarray], image_hw: tuple[int, int]) -> np.ndarray:
    """Pixels, bool [H, W], whose centre is inside an odd number of rings [K, 2] of x, y."""
    height, width = image_hw
    crossings = np.zeros((height, width), int)
    centres = np.arange(width) + 0.5
    for ring in rings:
        (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
        for row in range(height):
            crosses = (y0 <= row + 0.5) != (y1 <= row + 0.5)
            share = (row + 0.5 - y0[crosses]) / (y1[crosses] - y0[crosses])
            crossings[row] += (x0[crosses] + share * (x1 - x0)[crosses] < centres[:, None]).sum(axis=1)
    return crossings % 2 == 1
