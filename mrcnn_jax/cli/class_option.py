"""The option --classes: names or ids of categories, with commas between."""

import difflib
from collections.abc import Sequence

from mrcnn_jax.categories import Category
from mrcnn_jax.errors import ConfigError


def find_categories(text: str, categories: Sequence[Category]) -> frozenset[int] | None:
    """Returns the ids of categories that are named, by name or id, with commas between; None for an empty text.

    Raises ConfigError for a name or id that the weights do not have.
    """
    ids = {category.name: category.id for category in categories}
    known = {str(category.id): category.id for category in categories} | ids
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            nearest = difflib.get_close_matches(name, ids, n=1, cutoff=0.0)
            raise ConfigError(f"--classes: the weights have no class {name}: did you mean {nearest[0]}?")
    return frozenset(known[name] for name in wanted) if wanted else None
