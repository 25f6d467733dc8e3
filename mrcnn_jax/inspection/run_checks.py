"""All checks on all splits, and the numbers that the report shows beside them."""

from typing import Any

import numpy as np

from mrcnn_jax.inspection.between_splits import check_between
from mrcnn_jax.inspection.catalogue import CHECKS, SEVERITIES, InspectionFinding
from mrcnn_jax.inspection.class_checks import check_classes, check_preparation
from mrcnn_jax.inspection.copy_checks import check_copies
from mrcnn_jax.inspection.fit_checks import anchor_ious, check_fit, filled_shares, network_sides
from mrcnn_jax.inspection.image_checks import check_images
from mrcnn_jax.inspection.inspected_split import InspectedData, InspectedSplit
from mrcnn_jax.inspection.object_checks import check_objects

PERCENTILES = (0, 10, 50, 90, 100)


def run_checks(data: InspectedData) -> list[InspectionFinding]:
    """Returns all findings, errors first, then in the order of the catalogue and of the splits."""
    findings: list[InspectionFinding] = []
    for split in data.splits:
        findings += check_preparation(split)
        findings += check_images(split)
        findings += check_objects(split, has_mask_head=data.config.model.masks)
        findings += check_fit(split, data.config)
    findings += check_classes(data.splits)
    findings += check_copies(data.splits)
    findings += check_between(data.splits)
    order = list(CHECKS)
    return sorted(findings, key=lambda each: (SEVERITIES.index(each.severity), order.index(each.check)))


def summarise(split: InspectedSplit, data: InspectedData) -> dict[str, Any]:
    """Returns the numbers of a split for JSON. Percentiles are the 0th, 10th, 50th, 90th and 100th; null if empty."""
    is_object = ~split.objects.is_crowd
    sizes, counts = np.unique(split.dataset.sizes, axis=0, return_counts=True)
    ious = anchor_ious(split, data.config)[is_object]
    named = zip(split.dataset.categories, split.class_counts.tolist(), strict=True)
    return {
        "name": split.name,
        "path": str(split.dataset.path),
        "role": "training" if split.is_training else "evaluation",
        "images": len(split.images),
        "images_without_objects": int((split.counts == 0).sum()),
        "objects": int(is_object.sum()),
        "crowds": int((~is_object).sum()),
        "objects_with_mask": int((~np.isnan(split.objects.mask_areas) & is_object).sum()),
        "objects_per_image": percentiles(split.counts),
        "image_sizes": [
            {"width": width, "height": height, "images": count}
            for (height, width), count in sorted(
                zip(sizes.tolist(), counts.tolist(), strict=True), key=lambda row: -row[1]
            )
        ],
        "classes": {category.name: count for category, count in named},
        "object_side_at_input": percentiles(network_sides(split)[is_object]),
        "best_anchor_iou": percentiles(ious),
        "share_of_canvas_filled": float(filled_shares(split).mean()) if split.images else None,
    }


def percentiles(values: np.ndarray) -> list[float] | None:
    """Returns the percentiles of PERCENTILES with four digits; None without values."""
    if not len(values):
        return None
    return [float(f"{value:.4g}") for value in np.percentile(values, PERCENTILES)]
