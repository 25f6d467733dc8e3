"""Fields that had another name when a checkpoint or a weights folder was written."""

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "model.body_width": "model.backbone_width",
    "data.keypoint_flip": "model.keypoint_flip",
    "test.keypoint_flip": "model.keypoint_flip",
}


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings, `section.field` to value, under the fields' current names."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}
