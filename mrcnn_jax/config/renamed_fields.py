"""Former names of fields, which older checkpoints and weights folders contain."""

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "model.body_width": "model.backbone_width",
    "data.keypoint_flip": "model.keypoint_flip",
    "test.keypoint_flip": "model.keypoint_flip",
}


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the flat settings, `section.field` to value, under the current names of the fields."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}
