"""A small model learns sixteen images of people by heart: boxes, masks and keypoints, from the files to the scores.

    MRCNN_JAX_PEOPLE=DIR python -m pytest -m slow tests/slow/test_people.py

DIR holds `images/` and `annotations/person_keypoints_train.json`, COCO's own files or a part of them. Takes about
twenty minutes on two idle CPU cores.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.prepare import prepare

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES = 16
MAX_PEOPLE = 4
MIN_VISIBLE = 8


def choose_images(content: dict[str, Any], count: int) -> dict[str, Any]:
    """The data set of the `count` images whose smallest person is largest, as a share of the image.

    Of those with at most MAX_PEOPLE people, each with MIN_VISIBLE keypoints or more, and no crowd.
    """
    by_image: dict[int, list[dict[str, Any]]] = {}
    for row in content["annotations"]:
        by_image.setdefault(row["image_id"], []).append(row)

    def smallest(image: dict[str, Any]) -> float:
        """Share of the image; 0 for an image that is not wanted."""
        people = by_image.get(image["id"], [])
        seen = [not row["iscrowd"] and sum(v > 0 for v in row["keypoints"][2::3]) >= MIN_VISIBLE for row in people]
        if not 0 < len(people) <= MAX_PEOPLE or not all(seen):
            return 0.0
        return min(row["area"] for row in people) / (image["height"] * image["width"])

    images = sorted(filter(smallest, content["images"]), key=lambda image: (-smallest(image), image["id"]))[:count]
    annotations = [row for image in images for row in by_image[image["id"]]]
    return {"images": images, "annotations": annotations, "categories": content["categories"]}


def test_the_choice_of_images() -> None:
    def person(image_id: int, area: int, visible: int = 8, iscrowd: int = 0) -> dict[str, Any]:
        keypoints = [1.0, 1.0, 2.0] * visible + [0.0] * 3 * (17 - visible)
        return {"image_id": image_id, "area": area, "iscrowd": iscrowd, "keypoints": keypoints}

    people = [person(1, 50), person(1, 10), person(2, 20), person(3, 90, visible=7), person(4, 90, iscrowd=1)]
    people += [person(5, 30)] * 5 + [person(6, 30)] * 4
    images = [{"id": id_, "height": 10, "width": 20 if id_ == 6 else 10} for id_ in range(1, 8)]
    content = {"images": images, "annotations": people, "categories": []}
    assert [image["id"] for image in choose_images(content, 9)["images"]] == [2, 6, 1]
    assert choose_images(content, 1)["annotations"] == [people[2]]


@pytest.mark.slow
def test_people_are_learnt_by_heart(tmp_path: Path) -> None:
    folder = os.environ.get("MRCNN_JAX_PEOPLE")
    if not folder:
        pytest.skip("MRCNN_JAX_PEOPLE is not set: it names a folder of COCO's person_keypoints")
    content = json.loads((Path(folder) / "annotations" / "person_keypoints_train.json").read_text())
    chosen = choose_images(content, NUM_IMAGES)
    assert len(chosen["images"]) == NUM_IMAGES, f"{folder} has only {len(chosen['images'])} suitable images"
    annotations = tmp_path / "people.json"
    annotations.write_text(json.dumps(chosen))
    prepare(coco_source(Path(folder) / "images", annotations), tmp_path / "data", "train")
    command = [sys.executable, "scripts/train.py", "configs/people_tiny.py", "--workdir", str(tmp_path / "run")]
    # A process of its own: two devices and full optimisation instead of the suite's settings.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["JAX_NUM_CPU_DEVICES"] = "2"
    data = f"{tmp_path / 'data'}:train"
    subprocess.run([*command, "--data.train", data, "--data.val", data], cwd=ROOT, env=environment, check=True)
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert scores["num_images"] == NUM_IMAGES
    assert scores["keypoints"]["AP"] >= 0.8
    assert scores["segm"]["AP"] >= 0.7
