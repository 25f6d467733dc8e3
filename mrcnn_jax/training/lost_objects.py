"""Objects of the training data from which a run learns little or nothing, counted before its first step."""

import numpy as np

from mrcnn_jax.config import Config
from mrcnn_jax.data.box_facts import box_sides, read_box_facts, scale_boxes
from mrcnn_jax.data.dataset import Dataset

MAX_IMAGES = 500
"""Images whose boxes are read, evenly spread over the data."""
NOTEWORTHY = 0.01
"""Share of objects that are too small from which a line is printed."""


def describe_lost_objects(config: Config, train_data: Dataset) -> list[str]:
    """Returns one line if there are crowds, and one if some objects are thinner than a cell of the finest features."""
    lines = []
    if train_data.num_crowds:
        lines.append(
            f"{config.data.train}: {train_data.num_crowds} crowds (iscrowd 1) are not learned, and the pixels that "
            "they cover are background. If they are ordinary objects, prepare the data with --crowds objects."
        )
    return lines + _describe_small_objects(config, train_data)


def _describe_small_objects(config: Config, train_data: Dataset) -> list[str]:
    data, smallest = config.data, config.model.feature_strides[0]
    facts = read_box_facts(train_data, MAX_IMAGES)
    short_side = max(data.short_sides)
    thin = box_sides(scale_boxes(facts, short_side, data.max_side, data.canvases)).min(axis=1, initial=np.inf)
    num_thin = int((thin < smallest).sum())
    if num_thin <= NOTEWORTHY * len(thin):
        return []
    sample = f" in {len(facts.image_hw)} of {len(train_data)} images" if len(facts.image_hw) < len(train_data) else ""
    return [
        f"{config.data.train}: {num_thin} of {len(thin)} objects{sample} are thinner than {smallest} px when images "
        f"are resized to {short_side} px, their largest size in training. Such objects are rarely found; larger "
        "--data.short-sides, with --data.max-side and --data.canvases that hold them, find more."
    ]
