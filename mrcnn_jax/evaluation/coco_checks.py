"""Checks of input to the COCO libraries, whose C code crashes or reads uninitialised memory if it is malformed."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from mrcnn_jax.data.annotations import decode_counts, find_fault, has_mask
from mrcnn_jax.errors import DataError
from mrcnn_jax.evaluation.boxes_only import WITHOUT_MASK


def checked_ground_truth(ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy in COCO annotation format with objects that are valid and numbered from 1.

    The objects' own ids are replaced, because the libraries treat the id 0 as "not matched". An object without a mask
    gets its box as one; unless it is a crowd, it is marked as `boxes_only.WITHOUT_MASK`. Raises DataError, which names
    the first malformed object.
    """
    sizes, category_ids = _known(ground_truth)
    keypoint_counts = count_keypoints(ground_truth)
    annotations = []
    for index, given in enumerate(ground_truth["annotations"]):
        where = f"Ground truth, object {index} (id {given.get('id')!r})"
        _check_ids(given, sizes, category_ids, where)
        annotation = {key: given.get(key) for key in ("image_id", "category_id", "area", "segmentation")}
        annotation |= {"id": index + 1, "bbox": _as_list(given.get("bbox")), "iscrowd": int(given.get("iscrowd", 0))}
        if num_keypoints := keypoint_counts.get(given["category_id"]):
            annotation["keypoints"] = given.get("keypoints") or [0.0] * (3 * num_keypoints)
        fault = find_fault(annotation, sizes[given["image_id"]], num_keypoints)
        fault = fault or ("no area" if given.get("area") is None else None)
        if fault:
            raise DataError(f"{where}: {fault}. Prepare the data set again.")
        if num_keypoints:
            annotation["num_keypoints"] = sum(visibility > 0 for visibility in annotation["keypoints"][2::3])
        if not has_mask(annotation):
            x, y, width, height = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            annotation[WITHOUT_MASK] = not annotation["iscrowd"]
        annotations.append(annotation)
    return {
        "images": [dict(image) for image in ground_truth["images"]],
        "annotations": annotations,
        "categories": [dict(category) for category in ground_truth["categories"]],
    }


def count_keypoints(ground_truth: Mapping[str, Any]) -> dict[int, int]:
    """Returns the number of keypoints by category id, for the categories that have any."""
    named = {category["id"]: category.get("keypoints") for category in ground_truth["categories"]}
    return {category_id: len(names) for category_id, names in named.items() if names}


def check_results(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], iou_types: Sequence[str] = ("bbox", "segm")
) -> None:
    """Raises DataError for the first COCO result that is malformed or has an unknown image or category."""
    sizes, category_ids = _known(ground_truth)
    keypoint_counts = count_keypoints(ground_truth) if "keypoints" in iou_types else {}
    for index, result in enumerate(results):
        where = f"Result {index}"
        _check_ids(result, sizes, category_ids, where)
        box = _as_list(result.get("bbox"))
        if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(side) for side in box) or min(box[2:]) < 0:
            raise DataError(f"{where}: expected bbox as x, y, width, height, all finite, got {result.get('bbox')!r}.")
        if not _is_finite(result.get("score")):
            raise DataError(f"{where}: expected a finite score, got {result.get('score')!r}.")
        fault = _fault_of_code(result.get("segmentation"), sizes[result["image_id"]]) if "segm" in iou_types else None
        if fault:
            raise DataError(f"{where}: {fault}.")
        num_keypoints = keypoint_counts.get(result["category_id"])
        if num_keypoints and not _are_keypoints(result.get("keypoints"), num_keypoints):
            raise DataError(f"{where}: expected keypoints as {num_keypoints} times x, y, score, all finite.")


def _known(ground_truth: Mapping[str, Any]) -> tuple[dict[int, tuple[int, int]], set[int]]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    return sizes, {category["id"] for category in ground_truth["categories"]}


def _check_ids(row: Mapping[str, Any], images: Mapping[int, Any], category_ids: set[int], where: str) -> None:
    for key, known in (("image_id", images), ("category_id", category_ids)):
        if not isinstance(row.get(key), numbers.Integral) or row[key] not in known:
            raise DataError(f"{where}: the data set has no {key} {row.get(key)!r}.")


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and abs(float(value)) < float("inf")


def _are_keypoints(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == 3 * count and all(map(_is_finite, values))


def _fault_of_code(code: Any, image_hw: tuple[int, int]) -> str | None:
    """Returns why a result's segmentation is not a compressed run-length code of its image, or None if it is."""
    if not isinstance(code, Mapping) or not isinstance(code.get("counts"), str):
        return "expected a compressed run-length code as segmentation"
    if _as_list(code.get("size")) != list(image_hw):
        return f"the run-length code has the size {code.get('size')!r}, but its image has {list(image_hw)}"
    runs = decode_counts(code["counts"])
    if runs is None or runs.sum() != image_hw[0] * image_hw[1]:
        return "the runs of the run-length code do not sum to its size"
    return None
