"""Every preset: in the table of the docs with its number of parameters, and a step and a prediction at a small size."""

import runpy
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import Config, ModelConfig
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.models.mask_rcnn import MaskRCNN, count_parameters, variable_shapes
from mrcnn_jax.models.resnet import frozen_modules
from mrcnn_jax.named_leaves import PyTree, named_leaves
from mrcnn_jax.structures import Batch, Detections
from mrcnn_jax.training.optimizer import make_optimizer
from mrcnn_jax.training.state import make_train_state
from mrcnn_jax.training.step import apply_gradients, compute_gradients
from tests import tiny
from tests.parameters import expected_parameters

ROOT = Path(__file__).parents[1]
PRESETS = {path.stem: runpy.run_path(str(path))["config"] for path in sorted((ROOT / "configs").glob("*.py"))}
NUM_CLASSES = 3


def table() -> dict[str, int]:
    """Preset to number of parameters, from docs/presets.md."""
    rows = [line.split("|") for line in (ROOT / "docs" / "presets.md").read_text().splitlines()]
    named = [row for row in rows if len(row) > 3 and row[1].strip().startswith("`")]
    return {row[1].strip(" `"): int(row[-2].replace(",", "")) for row in named}


def test_the_table_has_every_preset_and_no_other() -> None:
    assert table().keys() == PRESETS.keys()


def count(model_config: ModelConfig) -> int:
    return count_parameters(variable_shapes(MaskRCNN(model_config)))


@pytest.mark.parametrize("name", PRESETS)
def test_number_of_parameters(name: str) -> None:
    model = PRESETS[name].model
    model = replace(model, num_classes=model.num_classes or 1)  # 0: the data say how many
    assert count(model) == expected_parameters(model) == table()[name]


def test_the_large_batch_preset_is_the_1x_schedule() -> None:
    large, base = PRESETS["mask_rcnn_r50_fpn_batch256"].train, PRESETS["mask_rcnn_r50_fpn_1x"].train
    times = large.batch_size // base.batch_size
    assert times == 16 and large.peak_learning_rate == pytest.approx(times * base.peak_learning_rate)
    assert [step * times for step in (*large.decay_steps, large.num_steps)] == [*base.decay_steps, base.num_steps]
    assert large.warmup_steps * times > base.warmup_steps


def shrink(config: Config) -> Config:
    """The same choices in a network, images and numbers of samples small enough to compile in a test."""
    model = config.model
    small = replace(
        model,
        backbone_width=16,
        num_classes=NUM_CLASSES,
        freeze_at=min(model.freeze_at, 2),
        fpn_channels=16,
        anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
        anchor_ratios=(0.5, 1.0, 2.0),
        box_head_dim=16,
        mask_head_dim=8,
        mask_head_convs=min(model.mask_head_convs, 1),
        mask_head_fc_dim=8,
        num_keypoints=min(model.num_keypoints, 3),
        keypoint_head_dim=8,
        keypoint_head_convs=1,
        # Others of the same blocks, which test_mask_rcnn.py builds.
        backbone={"resnet101": "resnet50", "resnext101_64x4d": "resnext101_32x8d"}.get(model.backbone, model.backbone),
    )
    test = replace(
        Config().test,
        canvases=((64, 64),),
        short_side=64,
        max_side=64,
        post_nms_top_n=20,
        max_detections=4,
        score_threshold=0.0,
    )
    # So many anchors that P5 has some of them, too.
    return Config(model=small, targets=replace(tiny.TARGETS, rpn_samples=512), test=test)


SMALL = {shrink(config): name for name, config in reversed(PRESETS.items())}
"""Small configs that differ, and a preset of each."""


def find_cover(configs: Collection[Config]) -> list[Config]:
    """Few of the configs that have every value of every option of the model among them."""
    options = {config: {(f.name, getattr(config.model, f.name)) for f in fields(config.model)} for config in configs}
    missing, chosen = set().union(*options.values()), []
    while missing:
        best = max(configs, key=lambda config: len(options[config] & missing))
        missing -= options[best]
        chosen.append(best)
    return chosen


ELSEWHERE = {
    ("box_head_stages", 3): "tests/detection/test_cascade.py: losses, gradients of every parameter, detections",
    ("mask_activation", "softmax"): "tests/detection/test_variants.py: the loss, its gradients, probabilities",
    ("backbone", "resnet18"): "here: with one block in each stage it is the resnet10 of shapes_tiny",
    ("backbone", "resnext101_32x8d"): "tests/weights/test_golden.py, test_sharding.py and test_convolution.py",
}
"""Values of options that other tests of the fast suite compile."""


def is_elsewhere(config: Config) -> bool:
    return any(getattr(config.model, name) == value for name, value in ELSEWHERE)


COVER = find_cover([config for config in SMALL if not is_elsewhere(config)])
OTHERS = [config for config in SMALL if config not in COVER]


def test_what_is_shrunk_keeps_the_choices() -> None:
    assert len(SMALL) >= 20
    assert shrink(PRESETS["mask_rcnn_r50_c4_roi_pool"]).model.roi_op == "pool"


def test_every_choice_of_a_preset_is_compiled() -> None:
    for field in fields(ModelConfig):
        compiled, wanted = ({getattr(config.model, field.name) for config in configs} for configs in (COVER, SMALL))
        assert compiled | {value for name, value in ELSEWHERE if name == field.name} == wanted, field.name


def make_step(config: Config) -> tuple[Callable, tuple[PyTree, Batch]]:
    """A training step and a prediction in one function of (variables, batch), and its arguments.

    The prediction is of the network before the update, so that both share its features, and half of what there is to
    compile.
    """
    model, batch = MaskRCNN(config.model), tiny.make_batch(1)
    if config.model.num_keypoints:
        x0, y0, x1, y1 = jnp.moveaxis(batch.ground_truth.boxes, -1, 0)
        centre = jnp.stack([(x0 + x1) / 2, (y0 + y1) / 2, jnp.full_like(x0, 2)], axis=-1)
        points = jnp.repeat(centre[:, :, None], config.model.num_keypoints, axis=2)
        batch = batch.replace(ground_truth=batch.ground_truth.replace(keypoints=points))

    def step_and_predict(variables, batch):
        optimizer = make_optimizer(config.train, config.model)
        state = make_train_state(variables, optimizer)
        computed = compute_gradients(state, batch, jax.random.key(0), model=model, targets_config=config.targets)
        _, metrics = apply_gradients(state, *computed, optimizer=optimizer)
        found = predict(variables, batch.images, batch.image_hw, model=model, test_config=config.test)
        return metrics, found, computed[0]

    return step_and_predict, (tiny.make_variables(config.model), batch)


def check_outputs(model_config: ModelConfig, metrics: dict, found: Detections) -> None:
    """Losses of the preset's heads, and detections of its shapes."""
    heads = {"mask": model_config.masks, "keypoint": model_config.num_keypoints > 0}
    assert all((f"loss/{head}" in metrics) == has_head for head, has_head in heads.items())
    assert found.masks.shape == (1, 4, *[model_config.mask_size * model_config.masks] * 2)
    assert found.heat_maps.shape[2] == model_config.num_keypoints


@pytest.mark.parametrize(
    "config",
    [*COVER, *(pytest.param(config, marks=pytest.mark.slow) for config in OTHERS)],
    ids=[SMALL[c] for c in (*COVER, *OTHERS)],
)
def test_a_step_and_a_prediction(config: Config, one_block: None) -> None:
    """Every parameter learns. With `-m slow` also those presets whose every choice is in another preset."""
    step_and_predict, arguments = make_step(config)
    metrics, found, gradients = jax.jit(step_and_predict)(*arguments)
    check_outputs(config.model, metrics, found)
    assert all(np.isfinite(value) for value in metrics.values())
    assert found.valid.any() and np.isfinite(found.boxes).all()
    # The later heads of a cascade find no object with the random boxes of those before: see test_cascade.py.
    idle = (
        "box_head_2/deltas",
        "box_head_3/deltas",
        *(f"backbone/{module}" for module in frozen_modules(config.model)),
    )
    for name, leaf in named_leaves(gradients).items():
        assert np.isfinite(leaf).all() and (name.startswith(idle) or np.asarray(leaf).any()), name


@pytest.mark.parametrize("config", OTHERS, ids=map(SMALL.get, OTHERS))
def test_a_step_and_a_prediction_can_be_traced(config: Config, one_block: None) -> None:
    """Shapes, dtypes and the choices' names fit in the presets that the fast suite does not compile."""
    step_and_predict, arguments = make_step(config)
    check_outputs(config.model, *jax.eval_shape(step_and_predict, *arguments)[:2])
