"""Python blocks of the documentation run: sketches with the names that they leave open, against what they promise."""

# ruff: noqa: F401  (the blocks use what is imported here)
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Bool, Float
from PIL import Image

from mrcnn_jax import prepare
from mrcnn_jax.categories import Category
from mrcnn_jax.config import Config, ModelConfig
from mrcnn_jax.data.bitmaps import decode_mask, encode_mask
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.images import decode_image, locate_image
from mrcnn_jax.data.source import Source, SourceImage
from mrcnn_jax.models.layers import make_extent, relu, zero_outside
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.models.resnet import Conv, compute_dtype
from mrcnn_jax.ops.boxes import compute_iou
from mrcnn_jax.ops.losses import masked_mean, pick, sigmoid_cross_entropy
from mrcnn_jax.presets import load_preset
from mrcnn_jax.structures import GroundTruth, RoiTargets
from mrcnn_jax.weights.folder import save_weights
from tests import tiny
from tests.paths import ROOT

NAMES = {
    name: value
    for name, value in globals().items()
    if not name.startswith("_") and name not in ("pytest", "ROOT", "re")
}


def blocks(page: str) -> list[str]:
    """The fenced Python blocks of a page of docs/."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


def run(page: str, having: str, **names: Any) -> dict[str, Any]:
    """The names that the only block with this text defines."""
    (block,) = [block for block in blocks(page) if having in block]
    namespace = {**NAMES, **names}
    exec(block, namespace)
    return namespace


def test_every_block_is_run_here() -> None:
    found = {path.name: len(blocks(path.name)) for path in (ROOT / "docs").glob("*.md") if blocks(path.name)}
    of_export = {"export.md": 1}  # tests/inference/test_export.py runs it
    assert found == of_export | {"getting_started.md": 1, "predicting.md": 2, "extending.md": 5}, (
        "a new block needs a test"
    )


def save_tiny_weights(path: str) -> None:
    config = load_preset("shapes_tiny")
    model = ModelConfig(**{**vars(config.model), "num_classes": 1, "backbone_width": 8, "fpn_channels": 16})
    test = type(config.test)(**{**vars(config.test), "score_threshold": 0.0})
    save_weights(
        path,
        tiny.make_variables(model),
        model_config=model,
        test_config=test,
        categories=[Category(7, "shape")],
    )


def test_detections_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_weights("weights/r50")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save("photo.jpg")
    found = run("getting_started.md", "Predictor.load")["detections"]
    assert len(found.boxes) and set(found.labels.tolist()) == {7}
    assert found.masks.shape == (len(found.boxes), 90, 120) and found.masks.dtype == bool


def test_predictions_of_files_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_weights("runs/mine")
    (tmp_path / "folder").mkdir()
    for name in ("folder/a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(name)
    with zipfile.ZipFile("scans.zip", "w") as archive:
        archive.write("b.png")
    written = run("predicting.md", "predict_files")["written"]
    assert written.num_images == 2 and written.errors == {}
    results = run("predicting.md", "loadRes")["results"]
    assert {each["image_id"] for each in results.anns.values()} == {1, 2}


def test_a_backbone() -> None:
    plain = run("extending.md", "class PlainNet")["PlainNet"]
    config = ModelConfig(backbone="resnet18", freeze_at=2)
    images, image_hw = jnp.zeros((2, 64, 96, 3)), jnp.array([[64, 96], [32, 40]])
    shapes, variables = jax.eval_shape(
        lambda key: plain(config).init_with_output(key, images, image_hw, train=True), jax.random.key(0)
    )
    strides, widths = (4, 8, 16, 32), [config.stage_channels(stage) for stage in range(4)]
    assert [x.shape for x in shapes] == [(2, 64 // s, 96 // s, w) for s, w in zip(strides, widths, strict=True)]
    assert set(variables["params"]) == {f"layer{index}" for index in range(5)}


def test_a_head() -> None:
    class Model(nn.Module):
        def predict_quality(self, features: Array) -> Array:
            return features.mean((1, 2, 3))

    boxes = jnp.array([[[0.0, 0, 10, 10]]])
    rois = jnp.array([[[0.0, 0, 10, 5], [0, 0, 10, 10], [0, 0, 1, 1]]])
    targets = RoiTargets(
        rois=rois,
        labels=jnp.array([[1, 1, 0]]),
        deltas=jnp.zeros((1, 3, 4)),
        matched_gt=jnp.zeros((1, 3), jnp.int32),
        valid=jnp.ones((1, 3), bool),
    )
    truth = GroundTruth(boxes, jnp.ones((1, 1), jnp.int32), jnp.ones((1, 1, 8, 8), jnp.uint8), jnp.ones((1, 1), bool))

    def quality_loss(logits: Array, iou: Array, is_foreground: Array) -> Array:
        return masked_mean((logits - iou) ** 2, is_foreground)

    loss = run("extending.md", "def quality_head_loss", quality_loss=quality_loss)["quality_head_loss"]
    found = loss({}, jnp.ones((3, 1, 1, 1)), targets, truth, model=Model())
    np.testing.assert_allclose(found["quality"], [0.125], rtol=1e-6)  # IoUs of 0.5 and 1, logits of 1


def test_a_data_format(tmp_path: Path) -> None:
    images, ids = tmp_path / "images", tmp_path / "ids"
    for folder in (images, ids):
        folder.mkdir()
    values = np.zeros((40, 60), np.uint8)
    values[5:15, 8:20], values[20:30, 30:55] = 1, 5
    cv2.imwrite(str(images / "a.png"), np.full((40, 60, 3), 99, np.uint8))
    cv2.imwrite(str(ids / "a.png"), values)
    names = run(
        "extending.md",
        "def id_images_source",
        decode_ids=lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED),
        fingerprint_of=lambda roots, names: f"{len(names)}",
    )
    prepare(names["id_images_source"](images, ids), tmp_path / "data", "train")
    (record,) = open_dataset(f"{tmp_path / 'data'}:train")
    assert record.image.shape == (40, 60, 3)
    masks = [decode_mask(item.segmentation, (40, 60)) for item in record.objects]
    np.testing.assert_array_equal(masks, [values == 1, values == 5])


def test_a_loss() -> None:
    loss = run("extending.md", "def focal_loss")["focal_loss"]
    logits, foreground = np.array([0.3, -2.0, 1.5, np.nan], np.float32), np.array([True, False, False, True])
    probability = 1 / (1 + np.exp(-np.where(foreground, logits, -logits)[:3]))
    expected = np.mean((1 - probability) ** 2 * -np.log(probability))
    found = loss(jnp.asarray(logits), jnp.asarray(foreground), jnp.array([True, True, True, False]), gamma=2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_preset() -> None:
    config = run("extending.md", "config = Config(")["config"]
    assert isinstance(config, Config) and config.train.decay_steps == (6000, 8000)
