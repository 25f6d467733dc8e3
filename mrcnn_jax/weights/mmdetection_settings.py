"""What the configuration in an MMDetection checkpoint states, as fields of ours.

`meta` has the configuration as Python text: `cfg` in MMDetection 3, `config` in MMDetection 2. The text is parsed but
never run: only literals and calls of `dict` have a value.
"""

import ast
import re
from collections.abc import Mapping
from typing import Any, Literal

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.families import Hints, Stated, canvases_for, stated

MAX_TEXT = 2**20
MAX_DEPTH = 60
"""Nesting of brackets up to which a text is parsed; configurations have about 10."""

RCNN_FIELDS = {"score_thr": "score_threshold", "max_per_img": "max_detections", "mask_thr_binary": "mask_threshold"}
RPN_FIELDS = {"nms_pre": "pre_nms_top_n", "max_per_img": "post_nms_top_n"}


def read_config(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of the configuration's names; empty if there is none or it cannot be parsed."""
    text = meta.get("cfg", meta.get("config"))
    if not isinstance(text, str) or len(text) > MAX_TEXT or _depth(text) > MAX_DEPTH or re.search(r"[-+~]{50}", text):
        return {}
    try:
        body = ast.parse(text).body
        assigned = [node for node in body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
        return {node.targets[0].id: _value(node.value) for node in assigned}  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def _depth(text: str) -> int:
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _value(node: ast.AST) -> Any:
    """Returns the value of a literal or of `dict(name=literal)`; None for anything else."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = [(_value(key) if key else None, _value(value)) for key, value in zip(keys, values, strict=True)]
            return {key: value for key, value in pairs if isinstance(key, str)}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return {keyword.arg: _value(keyword.value) for keyword in keywords if keyword.arg}
    return None


def find_stated(hints: Hints) -> Stated:
    """Returns what the configuration states. Raises DataError for settings that we do not have."""
    config = read_config(hints.meta)
    model, test, notes = _convert(config) if config else ({}, {}, ())
    pixels = _find_pixels(config)
    found: Literal["rgb", "bgr"] = "rgb" if pixels.get("to_rgb", True) else "bgr"
    input_format = hints.input_format or found
    for name, field in (("mean", "pixel_mean"), ("std", "pixel_std")):
        if name in pixels:
            model[field] = tuple(float(value) for value in pixels[name][:: 1 if input_format == "rgb" else -1])
    if pixels:
        notes = (*notes, f"Settings taken from the file's configuration: {len(model) + len(test)}.")
    else:
        problem = "RGB input and style='pytorch', since the file has no configuration."
        caffe = "--input-format bgr --model.pixel-std 1,1,1 --model.stride-in-1x1 (style='caffe')"
        notes = (*notes, stated(problem, caffe))
    if hints.input_format and pixels and hints.input_format != found:
        notes = (*notes, f"The file's configuration has {found.upper()} input, against --input-format {input_format}.")
    return Stated(model, test, input_format, notes)


def _find_pixels(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns mean and std in the order of the channels, and `to_rgb`; {} if the configuration lacks them."""
    new = _dig(config, "model", "data_preprocessor") or config.get("data_preprocessor")
    old = config.get("img_norm_cfg")
    pixels = new if isinstance(new, dict) else old if isinstance(old, dict) else {}
    triples = [pixels.get(name) for name in ("mean", "std")]
    if not all(isinstance(triple, list) and len(triple) == 3 for triple in triples):
        return {}
    to_rgb = pixels.get("bgr_to_rgb", False) if isinstance(new, dict) else pixels.get("to_rgb", True)
    return {"mean": triples[0], "std": triples[1], "to_rgb": bool(to_rgb)}


def _convert(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    model: dict[str, Any] = {}
    test: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    style = _dig(config, "model", "backbone", "style")
    if isinstance(style, str):
        model["stride_in_1x1"] = style == "caffe"
    layer = _dig(config, "model", "roi_head", "bbox_roi_extractor", "roi_layer") or {}
    if "sampling_ratio" in layer:
        model["sampling_ratio"] = layer["sampling_ratio"]
    if "aligned" in layer:
        model["roi_align_aligned"] = layer["aligned"]
    anchors = _dig(config, "model", "rpn_head", "anchor_generator") or {}
    scales, strides = anchors.get("scales"), anchors.get("strides")
    if str(anchors.get("type")).startswith("Legacy") or anchors.get("center_offset"):
        raise DataError("its configuration has the anchors of MMDetection 1, which are not supported.")
    if scales and strides:
        if len(scales) != 1:
            raise DataError("its configuration has several anchor scales on a level, which is not supported.")
        model["anchor_sizes"] = tuple(float(scales[0] * stride) for stride in strides)
    if anchors.get("ratios"):
        model["anchor_ratios"] = tuple(float(ratio) for ratio in anchors["ratios"])
    if stds := _dig(config, "model", "roi_head", "bbox_head", "bbox_coder", "target_stds"):
        model["box_delta_weights"] = tuple(round(1 / float(std), 4) for std in stds)
    for part, fields in (("rpn", RPN_FIELDS), ("rcnn", RCNN_FIELDS)):
        values = _dig(config, "model", "test_cfg", part) or _dig(config, "test_cfg", part) or {}
        test |= {field: values[name] for name, field in fields.items() if name in values}
        if threshold := _dig(values, "nms", "iou_threshold"):
            test["rpn_nms_threshold" if part == "rpn" else "nms_threshold"] = float(threshold)
        if _dig(values, "nms", "type") not in (None, "nms"):
            notes = (*notes, f"Its {part} uses {values['nms']['type']} instead of NMS, which has no counterpart here.")
    if scale := _find_scale(config.get("test_pipeline")):
        test |= {"short_side": min(scale), "max_side": max(scale), "canvases": canvases_for(min(scale), max(scale))}
    return model, test, notes


def _find_scale(pipeline: Any) -> list[int]:
    """Returns the two sides of the first `scale` or `img_scale` of a pipeline; [] if there is none."""
    for step in pipeline if isinstance(pipeline, list) else []:
        for name in ("scale", "img_scale"):
            scale = step.get(name) if isinstance(step, dict) else None
            if isinstance(scale, list) and len(scale) == 2 and all(type(side) is int for side in scale):
                return scale
    return []


def _dig(table: Any, *keys: str) -> Any:
    """Returns the value at the end of the keys, or None."""
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table
