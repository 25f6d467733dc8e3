"""The splits of a prepared folder, and what a recipe needs to know of them."""

from pathlib import Path

from mrcnn_jax.data.box_facts import read_box_facts
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.recipe.recipe_input import DataSummary

MAX_IMAGES = 5000
"""Images whose boxes are read, evenly spread over the split."""
_TRAIN_NAMES = ("train", "training", "train2017")
_VAL_NAMES = ("val", "valid", "validation", "dev", "val2017", "test")


def find_splits(folder: str) -> tuple[str, str]:
    """Returns the training and validation data in a prepared folder as options of training, the latter possibly "".

    A folder with one split, and `DIR:SPLIT`, is training data. Raises ConfigError if several splits could be meant.
    """
    path = Path(folder)
    if not path.is_dir() or (path / "metadata.json").is_file():
        return folder, ""
    names = sorted(each.parent.name for each in path.glob("*/metadata.json") if not each.parent.name.startswith("."))
    train = [name for name in _TRAIN_NAMES if name in names]
    if not train and len(names) > 1:
        raise ConfigError(
            f"{folder} has the splits {', '.join(names)}, none of which is named train. Name them: --data.train "
            f"{folder}:SPLIT --data.val {folder}:SPLIT."
        )
    chosen = train[0] if train else "".join(names)
    val = [name for name in _VAL_NAMES if name in names and name != chosen]
    return f"{folder}:{chosen}" if chosen else folder, f"{folder}:{val[0]}" if val else ""


def summarise(train_data: Dataset, val_data: Dataset | None) -> DataSummary:
    """Returns what a recipe needs to know of the splits. Reads boxes, but decodes no image."""
    facts = read_box_facts(train_data, MAX_IMAGES)
    counts = facts.counts if train_data.num_objects is None else train_data.num_objects
    return DataSummary(
        facts=facts,
        categories=train_data.categories,
        num_images=len(train_data),
        max_count=int(counts.max(initial=0)),
        num_objects=int(counts.sum()),
        num_val_images=0 if val_data is None else len(val_data),
        has_masks=not train_data.has_no_masks,
    )
