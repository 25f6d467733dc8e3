"""The detections of a video's frames: their masks in windows, their rows in files, and the summary of their tracks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrcnn_jax.inference.mask_crops import MaskCrop
from mrcnn_jax.inference.paste_masks import encode_window
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.track_motion import FrameObjects
from mrcnn_jax.inference.video_input import Frame


@dataclass(frozen=True, eq=False)
class PredictedFrame:
    """A frame with its detections and, if it is tracked, their track numbers."""

    index: int
    time: float  # seconds
    frame: Frame
    found: ImageDetections
    crops: Sequence[MaskCrop]  # n masks; the whole boxes if the model has no masks
    numbers: np.ndarray | None = None  # [n] int64, 0 for detections in no track; None without tracking

    @property
    def objects(self) -> FrameObjects:
        """The detections as tracking needs them."""
        origins = np.array([(x0, y0) for _, (y0, _, x0, _) in self.crops], np.int64).reshape(-1, 2)
        windows = tuple(window for window, _ in self.crops)
        return FrameObjects(self.found.boxes, self.found.scores, self.found.labels, windows, origins)

    def select(self, keep: np.ndarray) -> "PredictedFrame":
        """Returns the frame with the detections that `keep`, bool [n], selects."""
        return replace(
            self,
            found=self.found.select(keep),
            crops=[self.crops[index] for index in np.flatnonzero(keep).tolist()],
            numbers=None if self.numbers is None else self.numbers[keep],
        )

    def row(self) -> dict[str, Any]:
        """Returns the frame's line: its number, its time in seconds, and its detections in the form of COCO results.

        Each detection has a category_name and, if the frame is tracked, a track_id, which is null outside of tracks.
        """
        boxes_only = replace(self.found, mask_probabilities=np.zeros((len(self.found), 0, 0), np.float32), crops=None)
        results = boxes_only.coco_results(self.index)
        for index, (result, name) in enumerate(zip(results, self.found.category_names, strict=True)):
            del result["image_id"]
            result["category_name"] = name
            result["bbox"] = [round(side, 3) for side in result["bbox"]]
            if self.found.has_masks:
                result["segmentation"] = encode_window(*self.crops[index], self.found.image_hw)
            if self.numbers is not None:
                result["track_id"] = int(self.numbers[index]) or None
        return {"frame": self.index, "time": round(self.time, 6), "detections": results}


@dataclass
class _Track:
    category_id: int
    first_frame: int
    first_time: float
    last_frame: int = 0
    last_time: float = 0.0
    num_frames: int = 0
    score_sum: float = 0.0


class TrackTable:
    """The tracks of a video so far, a few numbers each."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}

    def add(self, frame: PredictedFrame) -> None:
        """Counts the detections of a frame."""
        assert frame.numbers is not None
        rows = zip(frame.numbers.tolist(), frame.found.labels.tolist(), frame.found.scores.tolist(), strict=True)
        for number, label, score in rows:
            if number:
                track = self._tracks.setdefault(number, _Track(label, frame.index, frame.time))
                track.last_frame, track.last_time = frame.index, frame.time
                track.num_frames += 1
                track.score_sum += score

    def rows(self, names: Mapping[int, str]) -> list[dict[str, Any]]:
        """Returns the tracks in the order of their numbers.

        A track may be missing in some frames between its first and last one; `num_frames` has those with a detection.
        """
        return [
            {
                "id": number,
                "category_id": track.category_id,
                "category_name": names[track.category_id],
                "first_frame": track.first_frame,
                "last_frame": track.last_frame,
                "first_time": round(track.first_time, 6),
                "last_time": round(track.last_time, 6),
                "num_frames": track.num_frames,
                "mean_score": round(track.score_sum / track.num_frames, 4),
            }
            for number, track in sorted(self._tracks.items())
        ]
