"""Counts of unusable images and objects by reason, with a limit on their share."""

from dataclasses import dataclass, field
from typing import Any

from mrcnn_jax.errors import DataError

_NUM_EXAMPLES = 5  # named in messages, for each reason
_NUM_LISTED = 1000  # named in skipped.json, for each reason


def check_budget(count: int, total: int, max_fraction: float, *, name: str, details: str = "") -> None:
    """Raises DataError if more than this share of the `total` images of a prepared data set cannot be read."""
    if count > max_fraction * total:
        raise DataError(
            f"{name}: {count} of {total} images cannot be read{details}, more than {max_fraction:.1%} "
            "(data.max_skip_fraction). Prepare the data set again."
        )


@dataclass
class Skips:
    """Counts of the images and objects seen and skipped so far."""

    num_images: int = 0
    num_objects: int = 0
    images: dict[str, list[str]] = field(default_factory=dict)  # reason -> descriptions
    objects: dict[str, list[str]] = field(default_factory=dict)

    def skip_image(self, reason: str, which: str) -> None:
        """Counts a skipped image."""
        self.images.setdefault(reason, []).append(which)

    def skip_object(self, reason: str, which: str) -> None:
        """Counts a skipped object of an image that is kept."""
        self.objects.setdefault(reason, []).append(which)

    def summary(self) -> dict[str, Any]:
        """Returns the counts and descriptions by reason, for JSON."""
        summary: dict[str, Any] = {"num_images": self.num_images, "num_objects": self.num_objects}
        for kind, skipped in (("images", self.images), ("objects", self.objects)):
            summary[kind] = {
                reason: {"count": len(which), "which": which[:_NUM_LISTED]} for reason, which in skipped.items()
            }
        return summary

    def describe(self) -> list[str]:
        """Returns one line for each kind and reason, with the first few examples."""
        return [
            f"{len(which)} {kind} skipped: {reason} ({', '.join(which[:_NUM_EXAMPLES])}"
            f"{', ...' if len(which) > _NUM_EXAMPLES else ''})"
            for kind, skipped in (("images", self.images), ("objects", self.objects))
            for reason, which in skipped.items()
        ]

    def check(self, max_fraction: float, name: str) -> None:
        """Raises DataError if more than this share of the images or of the objects was skipped, or all images."""
        for total, skipped in ((self.num_images, self.images), (self.num_objects, self.objects)):
            count = sum(map(len, skipped.values()))
            if count > max_fraction * total or (skipped is self.images and count == total):
                raise DataError(
                    f"{name}: too much data is unusable (allowed: {max_fraction:.1%}, --max-skip-fraction). "
                    f"Of {self.num_images} images and {self.num_objects} objects: {'; '.join(self.describe())}."
                )
