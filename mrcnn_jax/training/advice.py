"""Warnings of a run about what slows it down or keeps it from learning. Each is printed once and states what to do."""

import os
from collections.abc import Callable, Mapping

import numpy as np

from mrcnn_jax import command_names
from mrcnn_jax.config import Config
from mrcnn_jax.structures import GroundTruth

FOREGROUND_STEPS = 200
"""Steps in a row, after the warm-up, without foreground before the run warns."""
WAITING_SECONDS = 60.0
"""Seconds of training over which the share of waiting is measured."""
WAITING_SHARE = 0.25
"""Share of the time spent waiting for images from which data counts as slower than the steps."""
NUM_OBJECTS = 500
"""Objects with a mask of which the sizes are measured."""
LARGE_SHARE = 0.1
"""Share of objects that are larger than their bitmap from which the run warns."""


class Advice:
    """Watches a run; `say` prints a line."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self._config, self._say = config, say
        self._num_without_objects = self._num_without_proposals = 0
        self._num_objects = self._num_large = 0
        self._given: set[str] = set()

    def check_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Warns if no RoI, or no RoI but the objects' own boxes, was foreground in the last FOREGROUND_STEPS steps.

        `metrics` are means over the images of every step, one after the other.
        """
        if "foreground_rois" not in metrics or step <= self._config.train.warmup_steps:
            return
        foreground, proposals = metrics["foreground_rois"], metrics["foreground_proposals"]
        # The objects' own boxes are candidates, too, so an image with objects always has foreground.
        self._num_without_objects = self._num_without_objects + 1 if foreground == 0 else 0
        self._num_without_proposals = self._num_without_proposals + 1 if foreground > 0 == proposals else 0
        if self._num_without_objects >= FOREGROUND_STEPS:
            self._warn(
                "objects",
                f"No foreground RoI was sampled in {FOREGROUND_STEPS} steps, because none of their images has an "
                "object, so the heads do not learn. Prepare the data with --annotated-only"
                + (
                    ", or raise the lower bound of --data.scale-jitter: crops may contain no object."
                    if self._config.data.scale_jitter != (1.0, 1.0)
                    else ", and check its annotations."
                ),
            )
        if self._num_without_proposals >= FOREGROUND_STEPS:
            sizes = ",".join(f"{size:g}" for size in self._config.model.anchor_sizes)
            iou = self._config.targets.roi_foreground_iou
            self._warn(
                "proposals",
                f"No foreground RoI was sampled from the proposals in {FOREGROUND_STEPS} steps: none overlaps an "
                f"object with IoU {iou:g}, so only the objects' own boxes train the heads. Compare --model.anchor-sizes"
                f" {sizes} and --model.anchor-ratios with the sizes of the objects in the network's input "
                "(--data.short-sides). If they fit, change --train.learning-rate: the RPN does not learn.",
            )

    def check_waiting(self, seconds: float, seconds_waited: float) -> None:
        """Warns if data was slower than the steps over `seconds` of training."""
        if seconds < WAITING_SECONDS or seconds_waited < WAITING_SHARE * seconds:
            return
        data = self._config.data
        self._warn(
            "waiting",
            f"Data is slower than the steps: {seconds_waited / seconds:.0%} of the time is spent waiting for images. "
            f"Raise --data.num-threads (now {data.num_threads}, on {os.cpu_count()} cores) and --data.prefetch "
            f"(now {data.prefetch}), prepare smaller images, or move the data to a faster disk. "
            f"`{command_names.typed('benchmark-data')}` measures the data alone.",
        )

    def check_bitmaps(self, ground_truth: GroundTruth) -> None:
        """Warns if mask targets are coarser than the model's masks, because objects are larger than their bitmaps.

        `ground_truth` is that of a batch, with NumPy leaves. Bitmaps of twice the size of the masks lose nothing.
        """
        size, wanted = self._config.data.mask_size, 2 * self._config.model.mask_size
        if not self._config.model.masks or size >= wanted or self._num_objects >= NUM_OBJECTS:
            return
        has_mask = ground_truth.valid if ground_truth.has_mask is None else ground_truth.has_mask
        boxes = ground_truth.boxes[np.asarray(ground_truth.valid & has_mask)]
        self._num_objects += len(boxes)
        self._num_large += int(((boxes[:, 2:] - boxes[:, :2]).max(axis=1) > size).sum()) if len(boxes) else 0
        if self._num_objects >= NUM_OBJECTS and self._num_large > LARGE_SHARE * self._num_objects:
            self._warn(
                "bitmaps",
                f"{self._num_large} of the first {self._num_objects} objects are larger than their mask bitmaps of "
                f"{size}x{size}, from which targets of {self._config.model.mask_size}x{self._config.model.mask_size} "
                f"are sampled, so outlines lose detail. Start again in a new --workdir with --data.mask-size {wanted}.",
            )

    def _warn(self, name: str, text: str) -> None:
        if name not in self._given:
            self._given.add(name)
            self._say(f"Warning: {text}")
