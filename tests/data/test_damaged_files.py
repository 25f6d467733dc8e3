"""Annotation files and images with random damage are repaired, counted or refused, but never crash."""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.errors import UserError

VALUES: list[Any] = [
    None, True, 0, -1, 1, 0.5, 7, "7", "", "text", "é\u0000", 2**63, 1e308, math.nan, math.inf,
    [], [[]], [1], [1, 2, 3, 4], [[1, 2], [3, 4]], {}, {"counts": "0", "size": [1, 1]}, "[1, 2]", [None], [["a"]],
]  # fmt: skip


def spots(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every place in the JSON value, as (container, key)."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        spots(value[key], found)
    return found


def damage(content: dict[str, Any], rng: random.Random) -> None:
    for _ in range(rng.randint(1, 6)):
        places = spots(content, [])
        if not places:
            return
        container, key = rng.choice(places)
        if rng.random() < 0.25:
            del container[key]
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_damage_never_crashes(small_coco: Any, tmp_path: Path, first: int) -> None:
    small_coco.content["categories"][0] |= {"keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
    small_coco.content["annotations"][1]["keypoints"] = [1, 1, 2, 3, 3, 1]
    content, outcomes = small_coco.content, []
    image = small_coco.images / "42.png"
    whole = image.read_bytes()
    for seed in range(first, first + 50):
        rng = random.Random(seed)
        small_coco.content = copy.deepcopy(content)
        damage(small_coco.content, rng)
        text = json.dumps(small_coco.content).encode()
        if seed % 10 == 0:  # bytes of the file itself
            position = rng.randrange(len(text))
            text = text[:position] + bytes([rng.randrange(256)]) + text[position + rng.randint(0, 2) :]
        small_coco.annotations.write_bytes(text)
        image.write_bytes(whole[: rng.randrange(len(whole))] if seed % 7 == 0 else whole)
        try:
            source = coco_source(small_coco.images, small_coco.annotations)
            prepared = prepare(source, tmp_path / "prepared", str(seed))
        except UserError as error:
            assert len(str(error)) > 20
            outcomes.append("refused")
        else:
            dataset = open_dataset(str(prepared.path))
            dataset.coco_dict()
            assert sum(len(dataset[index].objects) for index in range(len(dataset))) == prepared.num_objects
            outcomes.append("prepared")
    assert outcomes.count("prepared") > 20 and outcomes.count("refused") > 0
