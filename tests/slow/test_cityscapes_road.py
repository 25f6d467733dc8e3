"""Cityscapes from the official folders to the official score, by the commands that the README names.

python -m pytest -m slow tests/slow/test_cityscapes_road.py     # two minutes
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.data.bitmaps import decode_mask
from tests.data.test_cityscapes import IMAGE_HW, Folder, box
from tests.evaluation.test_cityscapes_metrics import official_args, official_scores  # noqa: F401  # a fixture

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES = 20
CLASSES = {"person": 24, "car": 26, "bicycle": 33}
SMALL = """
--model.backbone resnet18 --model.backbone-width 16 --model.norm group_norm --model.fpn-channels 16
--model.box-head-dim 32 --model.mask-head-dim 16 --model.mask-head-convs 1 --model.anchor-sizes 8,16,32,64,128
--targets.roi-samples 32 --targets.pre-nms-top-n 100 --targets.post-nms-top-n 50 --targets.rpn-samples 32
--data.canvases 64x96 --data.short-sides 64 --data.max-side 96 --data.max-objects 10 --train.num-steps 2
--train.batch-size 2 --train.decay-steps 1 --train.warmup-steps 0 --train.log-every 1 --train.learning-rate 0.001
--test.canvases 64x96 --test.short-side 64 --test.max-side 96 --test.pre-nms-top-n 100
--test.post-nms-top-n 50 --test.max-candidates 100 --test.max-detections 20 --test.score-threshold 0
"""


def call(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # the tests' own
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def add_images(folder: Folder, split: str) -> list[str]:
    """Images of a few rectangles, every other one with polygons, the rest with an instance-id image."""
    rng = np.random.default_rng(len(split))
    names = [f"bonn/bonn_{index:06d}_000019" for index in range(NUM_IMAGES)]
    for index, name in enumerate(names):
        objects = [box("sky", 0, 0, *IMAGE_HW)]
        for label in CLASSES:
            for _ in range(rng.integers(1, 3)):
                height, width = (int(side) for side in rng.integers(12, 30, 2))
                y, x = (int(rng.integers(0, side - 31)) for side in IMAGE_HW)
                objects.append(box(label, y, x, height, width))
        folder.add(name, objects, split=split, form=("polygons", "ids")[index % 2])
        if index % 2 == 0 and split == "val":  # the official code reads images only
            folder.add(name, objects, split="official", form="ids")
    return names


def test_from_folders_to_scores(tmp_path: Path, official_args: Any) -> None:  # noqa: F811
    folder = Folder(tmp_path / "cityscapes")
    add_images(folder, "train")
    names = add_images(folder, "val")
    data, run = tmp_path / "data", tmp_path / "run"
    call("prepare_data.py", "cityscapes", "--root", str(folder.root), "--to", str(data))
    preset = str(ROOT / "configs" / "mask_rcnn_r50_fpn_cityscapes.py")
    train = ["--workdir", str(run), "--data.train", f"{data}:train", "--data.val", f"{data}:val"]
    call("train.py", preset, *train, *SMALL.split())
    output = ["--output", str(tmp_path / "metrics.json"), "--results", str(tmp_path / "results.json")]
    table = call("evaluate.py", "--weights", str(run), "--data", str(data), "--split", "val", "--cityscapes", *output)
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert scores["num_images"] == NUM_IMAGES and "cityscapes" in table.lower()

    import cv2

    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) >= NUM_IMAGES
    images, predictions = [], []
    for index, name in enumerate(names):
        split = "val" if index % 2 else "official"
        images.append(cv2.imread(str(folder.ids(name, split)), cv2.IMREAD_UNCHANGED))
        of_image = [row for row in results if row["image_id"] == index + 1]
        predictions.append(
            [
                (row["category_id"], row["score"], decode_mask(row["segmentation"], IMAGE_HW).astype(bool))
                for row in of_image
            ]
        )
    expected = official_scores(tmp_path, official_args, images, predictions)
    assert scores["cityscapes"]["AP"] == pytest.approx(expected["allAp"], abs=1e-6)
    assert scores["cityscapes"]["AP50"] == pytest.approx(expected["allAp50%"], abs=1e-6)
