"""What preparation found: images and objects that it repaired or left out, counted by reason with examples."""

from dataclasses import dataclass, field
from typing import Any

from mrcnn_jax.errors import DataError

_NUM_EXAMPLES = 3  # named in messages, for each reason
_NUM_LISTED = 1000  # named in skipped.json, for each reason

USUAL_FRACTION = 0.01
"""A larger share of images or objects that are left out is warned of, and with --strict refused."""

HOPELESS_FRACTION = 0.5
"""A larger share is always refused."""

BOX_KEPT = "; the box is kept"
"""End of the reasons why an object loses its mask."""

Reasons = dict[str, list[str]]
"""Descriptions of the images or objects by reason."""


def check_budget(count: int, total: int, max_fraction: float, *, name: str, details: str = "") -> None:
    """Raises DataError if more than this share of the `total` images of a prepared data set cannot be read."""
    if count > max_fraction * total:
        raise DataError(
            f"{name}: {count} of {total} images cannot be read{details}, more than {max_fraction:.1%} "
            "(data.max_skip_fraction). Prepare the data set again."
        )


@dataclass
class Findings:
    """Counts of the images and objects seen, repaired and left out so far."""

    num_images: int = 0
    num_objects: int = 0
    images: Reasons = field(default_factory=dict)  # left out
    objects: Reasons = field(default_factory=dict)  # left out, of images that are kept
    repaired: Reasons = field(default_factory=dict)  # images, objects and categories that are kept
    notes: list[str] = field(default_factory=list)  # what else to say, one line each
    num_kept_images: int = 0
    num_kept_objects: int = 0

    def leave_out_image(self, reason: str, which: str) -> None:
        """Counts an image that is left out."""
        self.images.setdefault(reason, []).append(which)

    def leave_out_object(self, reason: str, which: str) -> None:
        """Counts an object that is left out."""
        self.objects.setdefault(reason, []).append(which)

    def repair(self, reason: str, which: str) -> None:
        """Counts something that is repaired and kept."""
        self.repaired.setdefault(reason, []).append(which)

    def add(self, other: "Findings") -> None:
        """Adds the findings in the objects of one image."""
        for mine, theirs in (
            (self.images, other.images),
            (self.objects, other.objects),
            (self.repaired, other.repaired),
        ):
            for reason, which in theirs.items():
                mine.setdefault(reason, []).extend(which)
        self.notes += other.notes
        self.num_objects += other.num_objects

    def summary(self) -> dict[str, Any]:
        """Returns the counts and descriptions by reason, for JSON."""
        summary: dict[str, Any] = {"num_images": self.num_images, "num_objects": self.num_objects}
        summary["kept"] = {"images": self.num_kept_images, "objects": self.num_kept_objects}
        for kind, reasons in (("images", self.images), ("objects", self.objects), ("repaired", self.repaired)):
            summary[kind] = {
                reason: {"count": len(which), "which": which[:_NUM_LISTED]} for reason, which in reasons.items()
            }
        return summary | {"notes": self.notes}

    def describe(self) -> list[str]:
        """Returns one line for each kind and reason, with the first few examples, and the notes."""
        return [
            *(f"Repaired: {_describe(reason, which)}" for reason, which in self.repaired.items()),
            *(f"Left out: {_describe(reason, which)}" for _, reason, which in self._left_out()),
            *self.notes,
        ]

    def _left_out(self) -> list[tuple[str, str, list[str]]]:
        kinds = (("images", self.images), ("objects", self.objects))
        return [(kind, reason, which) for kind, reasons in kinds for reason, which in reasons.items()]

    def find_excess(self, max_fraction: float) -> str | None:
        """Returns a clause if more than this share of images or objects was left out, or all images.

        A share of USUAL_FRACTION or less also holds for the masks of objects that keep their box alone.
        """
        for total, kind, reasons in (
            (self.num_images, "images", self.images),
            (self.num_objects, "objects", self.objects),
        ):
            count = sum(map(len, reasons.values()))
            if kind == "images" and count == total:
                return f"all {total} images are left out"
            if count > max_fraction * total:
                return f"{count} of {total} {kind} are left out, more than {max_fraction:.1%}"
        num_lost = sum(len(which) for reason, which in self.repaired.items() if reason.endswith(BOX_KEPT))
        if max_fraction <= USUAL_FRACTION and num_lost > max_fraction * self.num_objects:
            return f"{num_lost} of {self.num_objects} objects lose their mask, more than {max_fraction:.1%}"
        return None

    def check(self, max_fraction: float, name: str) -> None:
        """Raises DataError if more than this share of the images or of the objects was left out, or all images."""
        if excess := self.find_excess(max_fraction):
            details = "; ".join(_describe(reason, which) for _, reason, which in self._left_out())
            more = "" if excess.startswith("all") else ", or allow more (--max-skip-fraction, without --strict)"
            raise DataError(f"{name}: {excess}. {details or ' '.join(self.describe())}. Correct the data{more}.")


def _describe(reason: str, which: list[str]) -> str:
    more = ", ..." if len(which) > _NUM_EXAMPLES else ""
    return f"{len(which)} x {reason} ({', '.join(which[:_NUM_EXAMPLES])}{more})"
