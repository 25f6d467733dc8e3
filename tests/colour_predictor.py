"""In the place of a Predictor: finds objects by their colours. And videos of such objects."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.inference.postprocessing import ImageDetections

MAX_DISTANCE = 90  # RGB, between a pixel and its object's colour: the encoder blurs
MASK_SIDE = 56
MIN_PIXELS = 20


class ColourPredictor:
    """Finds one object for each of its colours: the largest connected area, with the score 0.9."""

    def __init__(self, colours: np.ndarray, labels: Sequence[int], batch_size: int = 2, has_masks: bool = True) -> None:
        self.categories = tuple(Category(label, f"kind {label}") for label in sorted(set(labels)))
        self.test_config = TestConfig(batch_size=batch_size)
        self.colours, self.labels, self.has_masks = np.asarray(colours, np.float32), np.array(labels), has_masks
        self.calls: list[int] = []

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[ImageDetections]:
        assert len(names) == len(images)
        self.calls.append(len(images))
        return [self._find(image) for image in images]

    def _find(self, image: np.ndarray) -> ImageDetections:
        distances = np.linalg.norm(image[None].astype(np.float32) - self.colours[:, None, None], axis=-1)
        nearest = np.where(distances.min(0) < MAX_DISTANCE, distances.argmin(0), -1)
        boxes, masks, labels = [], [], []
        for index, label in enumerate(self.labels):
            _, parts, stats, _ = cv2.connectedComponentsWithStats((nearest == index).astype(np.uint8))
            if len(stats) > 1 and stats[1:, cv2.CC_STAT_AREA].max() >= MIN_PIXELS:
                part = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
                x, y, width, height, _ = stats[part].tolist()
                boxes.append((x, y, x + width, y + height))
                crop = (parts[y : y + height, x : x + width] == part).astype(np.float32)
                masks.append(cv2.resize(crop, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA))
                labels.append(label)
        side = MASK_SIDE if self.has_masks else 0
        return ImageDetections(
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            scores=np.full(len(boxes), 0.9, np.float32),
            labels=np.array(labels, np.int64),
            mask_probabilities=np.array(masks, np.float32).reshape(-1, MASK_SIDE, MASK_SIDE)[:, :side, :side],
            keypoints=np.zeros((len(boxes), 0, 3), np.float32),
            image_hw=image.shape[:2],
            test=self.test_config,
            categories=self.categories,
        )


def write_frames(
    path: Path,
    images: Iterable[np.ndarray],
    *,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    rotation: int = 0,
    audio: str = "",
    pix_fmt: str = "yuv420p",
) -> Path:
    """Writes images uint8 [H, W, 3] as H.264, at 25 frames a second or at these times, with a tone on request."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "preset": "ultrafast"})
        sound = container.add_stream(audio, rate=44100, layout="mono") if audio else None
        if sound is not None:
            sound.bit_rate = 64000
        for index, image in enumerate(images):
            if index == 0:
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.codec_context.time_base = time_base
                if rotation:
                    stream.set_display_rotation(rotation)
            colours = "ITU709" if image.shape[0] >= 720 else "ITU601"  # as players take untagged files
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt, dst_colorspace=colours)
            frame.pts, frame.time_base = index if pts is None else pts[index], time_base
            container.mux(stream.encode(frame))
            for number in (2 * index, 2 * index + 1) if sound is not None else ():  # a sixth longer than the frames
                samples = np.sin(np.arange(1024) / 3)[None].astype(np.float32) / 4
                block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                block.sample_rate, block.pts = 44100, number * 1024
                container.mux(sound.encode(block))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))
    return path
