"""Averaged parameters on their way: through a checkpoint, into the evaluation and into the weights folder."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import Config, ModelConfig, TrainConfig
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.mesh import make_mesh, place, replicated
from mrcnn_jax.training import validation
from mrcnn_jax.training.averaging import averaged_params
from mrcnn_jax.training.checkpoint import Checkpoints
from mrcnn_jax.training.optimizer import make_optimizer
from mrcnn_jax.training.settings import run_settings
from mrcnn_jax.training.state import TrainState, make_train_state

ANTS = (Category(1, "ant"),)
TRAIN = TrainConfig(num_steps=12, warmup_steps=0, ema_decay=0.5, accumulate_steps=2, clip_norm=1.0)


def make_state(train_config: TrainConfig, num_steps: int) -> TrainState:
    """A state whose average differs from its parameters, once something was trained."""
    params = {
        "backbone": {"stem": {"kernel": jnp.ones((2, 2))}},
        "box_head": {"kernel": jnp.ones((2, 3))},
    }
    optimizer = make_optimizer(train_config, ModelConfig(freeze_at=2))
    state = make_train_state({"params": params, "frozen": {"mean": jnp.ones(2)}}, optimizer)
    for _ in range(num_steps):
        updates, opt_state = optimizer.update(state.params, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1, params=optax.apply_updates(state.params, updates), opt_state=opt_state
        )
    return state


def test_average_is_saved_and_resumed_between_updates(tmp_path: Path) -> None:
    state = make_state(TRAIN, num_steps=5)  # a gradient waits in the accumulator
    settings = run_settings(Config(train=TRAIN), fingerprint="", num_records=1)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(5, state, settings, None)
    checkpoints.wait()
    restored = checkpoints.restore(jax.eval_shape(lambda: make_state(TRAIN, 0)), settings)
    assert restored is not None
    jax.tree.map(np.testing.assert_array_equal, restored.state, state)
    jax.tree.map(np.testing.assert_array_equal, averaged_params(restored.state), averaged_params(state))
    other = run_settings(Config(train=TrainConfig(num_steps=12)), fingerprint="", num_records=1)
    with pytest.raises(ConfigError, match=r"accumulate_steps 2 -> 1.*clip_norm 1\.0 -> 0\.0.*ema_decay 0\.5 -> 0\.0"):
        checkpoints.restore(jax.eval_shape(lambda: make_state(TrainConfig(), 0)), other)
    checkpoints.close()


@pytest.mark.parametrize("train_config", [TRAIN, TrainConfig()])
def test_averaged_weights_are_evaluated_and_written(
    train_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state(train_config, num_steps=4)
    seen = []

    def evaluate(dataset, predict_batch, **_):
        predict_batch(None, None)
        return SimpleNamespace(metrics={"segm": {"AP": 0.5}}, table="", results=[])

    monkeypatch.setattr(validation, "evaluate", evaluate)
    monkeypatch.setattr(validation, "save_weights", lambda path, variables, **_: seen.append(variables))
    mesh = make_mesh(jax.devices()[:1])
    scorer = validation.Validation(
        config=Config(train=train_config),
        workdir=tmp_path,
        data=type("Data", (), {"name": "val", "categories": ANTS, "__len__": lambda self: 1})(),
        categories=ANTS,
        mesh=mesh,
        stop=SimpleNamespace(poll=lambda: False),
        line=SimpleNamespace(say=lambda text: None, show_evaluation=None),
    )
    monkeypatch.setattr(scorer, "predict", lambda variables, images, image_hw: seen.append(variables))
    monkeypatch.setattr(scorer, "draw_pictures", lambda dataset, evaluation: None)

    result = scorer.evaluate(place(state, replicated(mesh)), 4)
    assert result is not None and result.score == 0.5
    evaluated, written = seen
    expected = {**state.variables, "params": averaged_params(state)}
    jax.tree.map(np.testing.assert_array_equal, evaluated, expected)
    jax.tree.map(np.testing.assert_array_equal, written, expected)
    differs = not np.array_equal(written["params"]["box_head"]["kernel"], state.params["box_head"]["kernel"])
    assert differs == (train_config.ema_decay > 0)
