"""Other notations of what an annotation says, rewritten in COCO's before anything is checked.

Boxes as named sides or as two corners, outlines as lists of x and of y, as rings with holes or as well-known text,
keypoints by name, and values that are the text of JSON, of Python or of numbers. Only notations that name their parts
are rewritten here; what has to be concluded from many objects is found in file_form.py.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mrcnn_jax.data.json_values import read_number

_MAX_TEXT = 1_000_000  # characters of a value that is text
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBERS = re.compile(rf"[\[(]?\s*{_NUMBER}(?:[\s,;]+{_NUMBER})*\s*[\])]?")
_BOX_CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x0", "y0", "x1", "y1"), ("x1", "y1", "x2", "y2"))
_BOX_SIDES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_EDGES = ("left", "top", "right", "bottom")
_X_AND_Y = (("all_points_x", "all_points_y"), ("x", "y"), ("xs", "ys"))
_RINGS = ("points", "vertices", "polygon", "outline")
_ARE_CORNERS = re.compile(r"(BoxMode\.)?XYXY(_ABS|_REL)?", re.IGNORECASE)


def rewrite_annotation(entry: Mapping[str, Any], keypoint_names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the annotation in COCO's notation and what was rewritten; `keypoint_names` are the category's."""
    repairs: list[str] = []
    changed: dict[str, Any] = {}
    bbox = _rewrite_bbox(entry.get("bbox"), entry.get("bbox_mode", entry.get("bbox_format")))
    if bbox is not None:
        changed["bbox"] = bbox
        repairs.append("bbox names its sides or corners")
    segmentation = _rewrite_outline(entry.get("segmentation"))
    if segmentation is not None:
        changed["segmentation"] = segmentation
        repairs.append("segmentation is in another notation")
    keypoints = _rewrite_keypoints(entry.get("keypoints"), keypoint_names)
    if keypoints is not None:
        changed["keypoints"] = keypoints
        repairs.append("keypoints are named or in another notation")
    return {**entry, **changed}, repairs


def read_text(value: object) -> Any:
    """Returns the lists, objects or numbers of which a text is the JSON or Python notation; None if it is neither."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return None
    text = value.strip()
    if _NUMBERS.fullmatch(text):
        return [float(number) for number in re.findall(_NUMBER, text)]
    if text[:1] not in ("[", "(", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return _without_tuples(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _without_tuples(value: Any) -> Any:
    """Returns a value of Python as JSON would have it: tuples as lists, bytes as text."""
    if isinstance(value, list | tuple):
        return [_without_tuples(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _without_tuples(entry) for key, entry in value.items()}
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _rewrite_bbox(given: object, mode: object) -> list[Any] | None:
    """Returns x, y, width, height; None if the box is in COCO's notation, or in none that names its parts."""
    value = read_text(given) if isinstance(given, str) else given
    if isinstance(value, dict):
        lowered = {str(key).casefold(): side for key, side in value.items()}
        for names in _BOX_SIDES:
            if all(name in lowered for name in names):
                return [lowered[name] for name in names]
        corners = next(
            (
                [lowered[name] for name in names]
                for names in (*_BOX_CORNERS, _EDGES)
                if all(name in lowered for name in names)
            ),
            None,
        )
        return None if corners is None else _from_corners(corners)
    if isinstance(value, list) and len(value) == 2 and all(isinstance(point, list) for point in value):
        flat = [side for point in value for side in point]
        return _from_corners(flat) if all(len(point) == 2 for point in value) else None
    if isinstance(value, list) and len(value) == 4 and _says_corners(mode):
        return _from_corners(value)
    return value if isinstance(value, list) and value is not given and len(value) == 4 else None


def _says_corners(mode: object) -> bool:
    """Returns whether a mode of Detectron2 (0 and 2, or the name) or the name of a format means x0, y0, x1, y1."""
    if isinstance(mode, str) and _ARE_CORNERS.fullmatch(mode.strip()):
        return True
    return not isinstance(mode, bool) and mode is not None and read_number(mode) in (0, 2)


def _from_corners(corners: Sequence[object]) -> list[float] | None:
    x0, y0, x1, y1 = map(read_number, corners)
    if x0 is None or y0 is None or x1 is None or y1 is None:
        return None
    return [min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)]


def _rewrite_outline(given: object) -> Any:
    """Returns polygons, an RLE or GeoJSON; None if the segmentation is in these notations, or in none that is known."""
    if isinstance(given, str):
        return _read_well_known_text(given) or read_text(given)
    if isinstance(given, dict):
        return _rewrite_rings({str(key).casefold(): value for key, value in given.items()})
    if isinstance(given, list) and given and all(isinstance(part, dict) for part in given):
        lowered = [{str(key).casefold(): value for key, value in part.items()} for part in given]
        if all(set(point) >= {"x", "y"} and not isinstance(point["x"], list) for point in lowered):
            return None if all("x" in point for point in given) else [_ring(given)]
        rewritten = [_rewrite_rings(part) for part in lowered]
        if len(rewritten) == 1:
            return rewritten[0]
        if all(isinstance(part, list) for part in rewritten):
            return [ring for part in rewritten for ring in part or []]
    if isinstance(given, list) and any(_ring(ring) is not ring for ring in given):
        return [_ring(ring) for ring in given]
    return None


def _rewrite_rings(outline: Mapping[str, Any]) -> Any:
    """Returns the polygons, or GeoJSON where there are holes, of an object with keys in lower case."""
    if "counts" in outline or ("type" in outline and "coordinates" in outline):
        return None
    if isinstance(inner := outline.get("points"), dict):
        return _rewrite_rings({str(key).casefold(): value for key, value in inner.items()})
    if isinstance(exterior := outline.get("exterior"), list):
        interior = outline.get("interior", outline.get("interiors"))
        rings = [_ring(ring) for ring in (exterior, *(interior if isinstance(interior, list) else []))]
        return {"type": "Polygon", "coordinates": rings} if len(rings) > 1 else rings
    for name_x, name_y in _X_AND_Y:
        xs, ys = outline.get(name_x), outline.get(name_y)
        if isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys):
            return [[side for point in zip(xs, ys, strict=True) for side in point]]
    return next(([_ring(outline[name])] for name in _RINGS if isinstance(outline.get(name), list)), None)


def _ring(points: Any) -> Any:
    """Returns the points of a ring with those of the form {"X": 1, "Y": 2} as [1, 2]."""
    if not isinstance(points, list) or not points or not all(isinstance(point, dict) for point in points):
        return points
    lowered = [{str(key).casefold(): side for key, side in point.items()} for point in points]
    return [[point.get("x"), point.get("y")] for point in lowered]


def _read_well_known_text(text: str) -> Any:
    """Returns POLYGON ((x y, ...), ...) or MULTIPOLYGON (((x y, ...))) as GeoJSON; None for another text."""
    match = re.fullmatch(r"\s*(MULTI)?POLYGON\s*(\(.*\))\s*", text[:_MAX_TEXT], re.IGNORECASE | re.DOTALL)
    if match is None:
        return None
    points = re.sub(rf"({_NUMBER})\s+({_NUMBER})", r"[\1,\2]", match[2])
    try:
        coordinates = json.loads(points.replace("(", "[").replace(")", "]"))
    except (ValueError, RecursionError):
        return None
    return {"type": "MultiPolygon" if match[1] else "Polygon", "coordinates": coordinates}


def _rewrite_keypoints(given: object, names: Sequence[str]) -> list[Any] | None:
    """Returns x, y, visibility of each named keypoint, those not named as 0, 0, 0; None if they are in a flat list."""
    if isinstance(given, str):
        value = read_text(given)
        return value if isinstance(value, list) else _rewrite_keypoints(value, names)
    if isinstance(given, dict) and names and set(given) & set(names):
        rows = {name: _keypoint(value) for name, value in given.items()}
        return [side for name in names for side in rows.get(name) or (0, 0, 0)]
    if isinstance(given, list) and given and all(isinstance(point, dict) and "x" in point for point in given):
        named = {point.get("name", point.get("label")): _keypoint(point) for point in given}
        if names and set(named) <= set(names):
            return [side for name in names for side in named.get(name) or (0, 0, 0)]
        return [side for point in given for side in _keypoint(point) or (0, 0, 0)]
    return None


def _keypoint(value: object) -> tuple[Any, Any, Any] | None:
    """Returns x, y, visibility, which is 2 if it is not given; None for null and the like."""
    if isinstance(value, dict):
        seen = next((value[key] for key in ("visibility", "v", "visible") if key in value), 2)
        return value.get("x"), value.get("y"), seen
    if isinstance(value, list) and len(value) in (2, 3):
        return value[0], value[1], value[2] if len(value) == 3 else 2
    return None
