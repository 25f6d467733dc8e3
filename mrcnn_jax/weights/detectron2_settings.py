"""What Detectron2's `config.yaml` and pixel buffers state about a checkpoint, as fields of our configuration.

Detectron2 writes `config.yaml` into the folder of a run, beside `model_final.pth`. Names are those of its
`config/defaults.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.families import Arrays, Hints, Stated, canvases_for, stated

FILE = "config.yaml"
MAX_SIZE = 2**20
BGR_MEAN = (103.53, 116.28, 123.675)
"""Detectron2's default PIXEL_MEAN, in the order of its default FORMAT."""

MODEL_FIELDS = {
    "MODEL.RESNETS.STRIDE_IN_1X1": "stride_in_1x1",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": "sampling_ratio",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": "box_pool_size",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": "mask_pool_size",
}
TEST_FIELDS = {
    "INPUT.MIN_SIZE_TEST": "short_side",
    "INPUT.MAX_SIZE_TEST": "max_side",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "pre_nms_top_n",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "post_nms_top_n",
    "MODEL.RPN.NMS_THRESH": "rpn_nms_threshold",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "score_threshold",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": "nms_threshold",
    "TEST.DETECTIONS_PER_IMAGE": "max_detections",
}
ALLOWED: dict[str, Callable[[Any], bool]] = {
    "INPUT.FORMAT": lambda value: value in ("RGB", "BGR"),
    "MODEL.ANCHOR_GENERATOR.OFFSET": lambda value: value == 0,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": lambda value: value in ("ROIAlign", "ROIAlignV2"),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": lambda value: value in ("ROIAlign", "ROIAlignV2"),
    "MODEL.RPN.BBOX_REG_WEIGHTS": lambda value: list(value) == [1, 1, 1, 1],
}
"""Settings without a field of ours for other values."""


def read_settings(checkpoint: Path) -> Mapping[str, Any]:
    """Returns the settings in the `config.yaml` beside a checkpoint by dotted name; empty if it is not Detectron2's.

    Raises DataError if the file cannot be read.
    """
    path = checkpoint.with_name(FILE)
    if not path.is_file():
        return {}
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if len(text) <= MAX_SIZE and "<<" not in text else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}). Correct it, or move it elsewhere.") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("MODEL", "INPUT")):
        return {}
    return dict(_flatten(content, "", 4))


def _flatten(table: Mapping[Any, Any], prefix: str, depth: int) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        is_table = isinstance(value, dict) and depth > 0
        found += _flatten(value, f"{prefix}{key}.", depth - 1) if is_table else [(f"{prefix}{key}", value)]
    return found


def find_stated(arrays: Arrays, hints: Hints) -> Stated:
    """Returns what the settings and the pixel buffers state. Raises DataError for settings that we do not have."""
    settings = hints.settings
    for name, is_allowed in ALLOWED.items():
        if name in settings and not is_allowed(settings[name]):
            raise DataError(f"{FILE} beside it sets {name} to {settings[name]}, which is not supported.")
    model = {field: settings[name] for name, field in MODEL_FIELDS.items() if name in settings}
    test = {field: settings[name] for name, field in TEST_FIELDS.items() if name in settings}
    if "MODEL.ROI_BOX_HEAD.POOLER_TYPE" in settings:
        model["roi_align_aligned"] = settings["MODEL.ROI_BOX_HEAD.POOLER_TYPE"] == "ROIAlignV2"
    if "MODEL.ANCHOR_GENERATOR.SIZES" in settings:
        sizes = settings["MODEL.ANCHOR_GENERATOR.SIZES"]
        model["anchor_sizes"] = tuple(float(size) for level in sizes for size in level)
        if len(sizes) > 1 and any(len(level) != 1 for level in sizes):
            raise DataError(f"{FILE} beside it sets several anchor sizes on an FPN level, which is not supported.")
    if "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS" in settings:
        model["anchor_ratios"] = _floats(settings["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"][0])
    if "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS" in settings:
        model["box_delta_weights"] = _floats(settings["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"])
    if "short_side" in test and "max_side" in test:
        test["canvases"] = canvases_for(test["short_side"], test["max_side"])
    input_format, note = _find_format(arrays, hints)
    for name, field in (("PIXEL_MEAN", "pixel_mean"), ("PIXEL_STD", "pixel_std")):
        values = settings.get(f"MODEL.{name}", _buffer(arrays, field))
        if len(values) == 3:
            model[field] = tuple(_floats(values)[:: 1 if input_format == "rgb" else -1])
    notes = [f"Settings taken from {FILE} beside the file: {len(model) + len(test)}."] if settings else []
    if input_format == "rgb" and not settings:
        options = "" if "pixel_std" in model else "--model.pixel-std 58.395,57.12,57.375 "
        notes.append(
            "Models of Detectron2 with RGB input usually start from torchvision's backbone: if yours does, add "
            f"{options}--model.no-stride-in-1x1."
        )
    return Stated(model, test, input_format, (*note, *notes))


def _find_format(arrays: Arrays, hints: Hints) -> tuple[Literal["rgb", "bgr"], tuple[str, ...]]:
    """Returns the order of the channels, and a note about its origin unless the user named it."""
    mean = _buffer(arrays, "pixel_mean")
    of_mean = "bgr" if _is_close(mean, BGR_MEAN) else "rgb" if _is_close(mean, BGR_MEAN[::-1]) else ""
    if hints.input_format:
        is_other = of_mean not in ("", hints.input_format)
        note = f"The file's pixel_mean is in {of_mean.upper()} order, against --input-format {hints.input_format}."
        return hints.input_format, (note,) * is_other
    if "INPUT.FORMAT" in hints.settings:
        found: Literal["rgb", "bgr"] = "rgb" if hints.settings["INPUT.FORMAT"] == "RGB" else "bgr"
        return found, (f"Channels in {found.upper()} order: INPUT.FORMAT of {FILE} beside the file.",)
    if of_mean:
        return "rgb" if of_mean == "rgb" else "bgr", (f"Channels in {of_mean.upper()} order: the file's pixel_mean.",)
    problem = f"Detectron2's BGR input, pixel scale and stride for this backbone, since no {FILE} states them."
    return "bgr", (stated(problem, "--input-format rgb"),)


def _buffer(arrays: Arrays, name: str) -> Sequence[float]:
    return np.asarray(arrays.get(name, ()), np.float64).ravel().tolist()


def _is_close(values: Sequence[float], others: Sequence[float]) -> bool:
    return len(values) == 3 and np.allclose(values, others, atol=1.0)


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
