"""Golden outputs of torchvision and Detectron2, and what our model computes from the same weights and image.

Weights are regenerated from parameter names (`tests/golden_weights.py`); `tests/golden` holds the originals' outputs.
"""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mrcnn_jax.categories import Category
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.detection.image_anchors import make_anchors
from mrcnn_jax.detection.pooling import pool_rois
from mrcnn_jax.detection.predict import predict, propose_batch
from mrcnn_jax.inference.batches import InputBatch, assemble_batch, plan_batches
from mrcnn_jax.inference.postprocessing import ImageDetections, restore_detections
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.named_leaves import named_leaves
from mrcnn_jax.structures import Detections
from mrcnn_jax.weights.families import Family, Recognised
from mrcnn_jax.weights.importing import FAMILIES, WeightsFile, import_variables
from tests.golden_weights import adjust, weight

GOLDEN = Path(__file__).parents[1] / "golden"
STATE_DICTS = json.loads((GOLDEN / "state_dicts.json").read_text())
INFERENCE = sorted(path.stem for path in GOLDEN.glob("*fpn*.npz") if not path.stem.endswith("train"))
INFERENCE = [*INFERENCE, "detectron2_r50_c4", "detectron2_r50_dc5"]
CANVAS = (320, 416)


def load_golden(name: str) -> dict[str, Any]:
    """The arrays of a golden file, and its `meta`."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        golden = dict(arrays)
    return golden | {"meta": json.loads(str(golden["meta"]))}


def load_image() -> np.ndarray:
    """The image that all golden outputs are of, [231, 300, 3] uint8 RGB."""
    return np.asarray(Image.open(GOLDEN / "picture.png").convert("RGB"))


def make_arrays(name: str, golden: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """The state dict behind a golden file."""
    shapes = STATE_DICTS[name.removesuffix("_train")]
    return {key: adjust(key, weight(key, tuple(shape), seed), golden) for key, shape in shapes.items()}


def make_source(arrays: dict[str, np.ndarray], path: str = "checkpoint") -> WeightsFile:
    """A source as if it had been read from a file."""
    family = next(family for family in FAMILIES if family.matches(arrays))
    renamed = family.rename(arrays)
    return WeightsFile(Path(path), "memory", family, renamed, family.recognise(renamed))


def categories_of(model_config: ModelConfig) -> tuple[Category, ...]:
    """Categories whose ids are the labels."""
    return tuple(Category(label, str(label)) for label in range(1, model_config.num_classes + 1))


@dataclass(frozen=True)
class Reference:
    """A golden file, our model of the same weights, and its input."""

    golden: dict[str, Any]
    source: WeightsFile
    model: MaskRCNN
    test: TestConfig
    variables: Any
    batch: InputBatch

    def jitted(self, method: str, *arguments: Any) -> Any:
        """The output of one of the model's parts."""
        return jax.jit(functools.partial(self.model.apply, method=method))(self.variables, *arguments)


@functools.lru_cache(maxsize=1)
def load_reference(name: str, canvas: tuple[int, int] = CANVAS) -> Reference:
    """The reference of a golden file."""
    golden = load_golden(name)
    source = make_source(make_arrays(name, golden))
    recognised = source.recognised
    meta = golden["meta"]
    test = replace(recognised.test, short_side=meta["min_size"], max_side=meta["max_size"], canvases=(canvas,))
    variables = jax.tree.map(jnp.asarray, import_variables(source, recognised.model)[0])
    image = load_image()
    (plan,) = plan_batches([image.shape[:2]], test, 1)
    batch = assemble_batch((0,), [image], plan.canvas, test, 1)
    return Reference(golden, source, MaskRCNN(recognised.model), test, variables, batch)


@dataclass(frozen=True)
class Stages:
    """What our model computes, stage by stage; the box head's outputs on the reference's own proposals."""

    input: np.ndarray
    backbone: list[np.ndarray]
    maps: list[np.ndarray]
    logits: list[np.ndarray]
    deltas: list[np.ndarray]
    anchors: np.ndarray
    proposals: np.ndarray
    roi_features: np.ndarray
    hidden: np.ndarray
    class_logits: np.ndarray
    class_deltas: np.ndarray
    detections: Detections


@functools.lru_cache(maxsize=1)
def _jit_stages(model: MaskRCNN, test_config: TestConfig) -> Any:
    """All stages and the detections in one program: what they share is compiled once."""
    apply, config = model.apply, model.config

    @jax.jit
    def run(variables: Any, images: Any, image_hw: Any, rois: Any) -> Any:
        maps, kept = apply(
            variables,
            images,
            image_hw,
            method="extract_features",
            capture_intermediates=lambda module, _: module.name == "backbone",
            mutable=["intermediates"],
        )
        (features,) = pool_rois(maps, [rois], image_hw, output_sizes=[config.box_pool_size], model_config=config)
        return {
            "input": apply(variables, images, image_hw, method="normalise"),
            "backbone": kept["intermediates"]["backbone"]["__call__"][0],
            "maps": maps,
            "scores": apply(variables, maps, image_hw, method="score_anchors"),
            "anchors": make_anchors(images.shape[1:3], image_hw[0], config),
            "proposals": propose_batch(
                variables, maps, image_hw, canvas=images.shape[1:3], model=model, test_config=test_config
            ),
            "features": features,
            "hidden": apply(variables, features, method=lambda model, x: model.box_head(model._to_heads(x))[0]),
            "classes": apply(variables, features, method="classify_rois"),
            "detections": predict(variables, images, image_hw, model=model, test_config=test_config),
        }

    return run


def compute_stages(reference: Reference) -> Stages:
    """All stages up to the box head, and the detections."""
    images, image_hw = reference.batch.images, reference.batch.image_hw
    rois = jnp.asarray(reference.golden["proposals"][None, :64])
    found = jax.device_get(_jit_stages(reference.model, reference.test)(reference.variables, images, image_hw, rois))
    proposals, anchors = found["proposals"], found["anchors"]
    logits, deltas = found["scores"]
    return Stages(
        input=found["input"][0],
        backbone=[backbone_map[0] for backbone_map in found["backbone"]],
        maps=[one[0] for one in found["maps"]],
        logits=[one[0].reshape(*m.shape[1:3], -1) for one, m in zip(logits, found["maps"], strict=True)],
        deltas=[one[0].reshape(*m.shape[1:3], -1) for one, m in zip(deltas, found["maps"], strict=True)],
        anchors=np.concatenate([level.boxes[level.valid] for level in anchors]),
        proposals=proposals.boxes[0][proposals.valid[0]],
        roi_features=found["features"],
        hidden=found["hidden"],
        class_logits=found["classes"][0],
        class_deltas=found["classes"][1],
        detections=found["detections"],
    )


@functools.lru_cache(maxsize=1)
def _jit_predict(model: MaskRCNN, test_config: TestConfig) -> Any:
    return jax.jit(functools.partial(predict, model=model, test_config=test_config))


def run_predict(reference: Reference, batch: InputBatch | None = None) -> Detections:
    """The device's detections of a batch, as NumPy arrays."""
    batch = batch or reference.batch
    run = _jit_predict(reference.model, reference.test)
    return jax.device_get(run(reference.variables, batch.images, batch.image_hw))


def move_weights(reference: Reference, seed: int) -> Reference:
    """The reference with every weight one unit in its last place up or down: what sums in another order amount to."""
    rng = np.random.default_rng(seed)
    ends = np.array([-np.inf, np.inf], np.float32)
    moved = jax.tree.map(lambda leaf: jnp.nextafter(leaf, rng.choice(ends, leaf.shape)), reference.variables)
    return replace(reference, variables=moved)


def restore(reference: Reference, detections: Detections, index: int = 0) -> ImageDetections:
    """Detections of one image of a batch in its own pixels."""
    height, width = reference.batch.image_hw[0].tolist()
    return restore_detections(
        jax.tree.map(lambda leaf: leaf[index], detections),
        (height, width),
        load_image().shape[:2],
        categories=categories_of(reference.model.config),
        test_config=reference.test,
    )


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest absolute value expected."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of [n, 4] and [m, 4] boxes, [n, m]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=-1)
    areas, other_areas = ((some[:, 2:] - some[:, :2]).prod(axis=-1) for some in (boxes, others))
    return overlap / (areas[:, None] + other_areas[None] - overlap)


def leaves_of(family: Family, arrays: dict[str, np.ndarray], recognised: Recognised) -> dict[str, np.ndarray]:
    """The leaves of our tree by name, filled from the arrays."""
    source = WeightsFile(Path("checkpoint"), "memory", family, arrays, recognised)
    return named_leaves(import_variables(source, recognised.model)[0])


def assert_bitwise(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal names and bytes."""
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name].tobytes() != expected[name].tobytes()] == []
