"""The categories that a model and a data set share, whatever their ids and order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mrcnn_jax.categories import Category
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.weights.coco_categories import UNUSED

MAX_SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class MatchedCategories:
    """The categories that a model and a data set share, by name."""

    categories: tuple[Category, ...]
    """The model's categories in the order of its labels, with the data's ids; those not shared have ids below them."""
    only_weights: tuple[str, ...]
    only_data: tuple[str, ...]
    places: tuple[str, str] = ("weights", "data")

    @property
    def note(self) -> str:
        """A sentence about what is not scored; "" if weights and data have the same categories."""
        if not self.only_weights and not self.only_data:
            return ""
        num_named = sum(category.name != UNUSED for category in self.categories)
        ours, theirs = self.places
        parts = [
            f"Scored on the {num_named - len(self.only_weights)} categories that {ours} and {theirs} share by name."
        ]
        for place, names in ((ours, self.only_weights), (theirs, self.only_data)):
            if names:
                shown = ", ".join(names[:MAX_SHOWN]) + ", ..." * (len(names) > MAX_SHOWN)
                parts.append(f"Only in the {place}: {len(names)} ({shown}).")
        return " ".join(parts)


def match_categories(
    of_weights: Sequence[Category], of_data: Sequence[Category], places: tuple[str, str] = ("weights", "data")
) -> MatchedCategories:
    """Returns the categories of the weights with the data's ids where the names are equal but for capital letters.

    Outputs of the weights without a class are named "N/A", as torchvision's for ids that COCO does not use. `places`
    are the words of messages for the two. Raises ConfigError if no name is shared, or if one occurs twice.
    """
    for place, categories in zip(places, (of_weights, of_data), strict=True):
        counts = Counter(_key(category) for category in categories if category.name != UNUSED)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ConfigError(f"Two categories of the {place} are named {twice[0]}. Rename one, so that names match.")
    ids = {_key(category): category.id for category in of_data if category.name != UNUSED}
    keys = {_key(category) for category in of_weights if category.name != UNUSED}
    if not keys & set(ids):
        ours, theirs = (", ".join([each.name for each in some][:MAX_SHOWN]) for some in (of_weights, of_data))
        raise ConfigError(
            f"No category name is shared ({places[0]}: {ours}; {places[1]}: {theirs}). If they are the same classes, "
            f"give them the same names: prepare the data again or, for imported weights, pass --categories "
            f'FILE.json, which names the outputs by ascending id, "{UNUSED}" those without a class.'
        )
    lowest = min(0, *(category.id for category in of_data))
    labelled = enumerate(of_weights, start=1)
    categories = tuple(replace(each, id=ids.get(_key(each), lowest - label)) for label, each in labelled)
    only_weights = tuple(category.name for category in of_weights if _key(category) in keys - set(ids))
    only_data = tuple(category.name for category in of_data if _key(category) not in keys)
    return MatchedCategories(categories, only_weights, only_data, places)


def _key(category: Category) -> str:
    return category.name.casefold()
