"""A checkpoint that has exploded is named when a run resumes, and so is a step whose evaluation is not finite."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

from mrcnn_jax.config import Config
from mrcnn_jax.errors import NumericalError
from mrcnn_jax.training import loop
from mrcnn_jax.training.metrics_log import read_losses
from mrcnn_jax.training.outcome import explain_failure
from tests.training.test_loop import NUM_DEVICES, World, losses_of, saved_steps, with_train

HIGH, LOW = 0.5, 0.001


class Exploding(World):
    """The loss is the one parameter, 1 at first. With the high learning rate it grows fivefold a step."""

    learning_rate = HIGH
    overflows_at = float("inf")

    def step(self, state, batch, key):
        weight = state.params["weight"]
        loss = jnp.where(weight[0] >= self.overflows_at, jnp.nan, weight[0])
        metrics = {"loss/total": 2 * loss, "loss/box": loss, "gradient_norm": jnp.float32(1)}
        grown = weight * (5.0 if self.learning_rate == HIGH else 0.9)
        return state.replace(step=state.step + 1, params={"weight": grown}), metrics | {"images": NUM_DEVICES}

    def config(self, num_steps: int) -> Config:
        """With another learning rate the step is another program."""
        return with_train(num_steps=num_steps, eval_every=0, learning_rate=self.learning_rate)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Exploding:
    return Exploding(monkeypatch)


def test_an_exploded_checkpoint_is_named_on_resume_with_the_way_out(world: Exploding, tmp_path: Path) -> None:
    loop.train(world.config(10), tmp_path)
    assert saved_steps(tmp_path) == [5, 10] and losses_of(tmp_path)[10] == 2 * 5.0**9
    world.learning_rate = LOW
    with pytest.raises(NumericalError) as error:
        loop.train(world.config(20), tmp_path)
    folder = tmp_path / "checkpoints"
    assert str(error.value) == (
        "Checkpoint step 10 has already exploded: with its parameters, before any update, loss/total is 1.953e+07 on "
        "images 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007. The newest checkpoint, step 10, is already lost: with "
        "its parameters, the loss of step 11 was 1.953e+07. A lower --train.learning-rate cannot save it. Remove "
        f"{folder}/10 to continue from step 5 with a lower one (with its parameters, the loss of step 6 was 6250); "
        f"`mrcnn weights --workdir {tmp_path} --step 5 --to DIR` writes the weights of step 5. {tmp_path}/weights "
        "contains the weights of step 10. They are lost, too."
    )
    assert saved_steps(tmp_path) == [5, 10]
    shutil.rmtree(folder / "10")
    loop.train(world.config(20), tmp_path)  # the loss is 6250, which can be learnt from
    assert losses_of(tmp_path)[20] < losses_of(tmp_path)[6] == 2 * 5.0**5


def test_a_checkpoint_that_computes_nan_at_once_has_exploded(world: Exploding, tmp_path: Path) -> None:
    world.overflows_at = 5.0**5
    loop.train(world.config(5), tmp_path)
    world.learning_rate = LOW
    message = r"Checkpoint step 5 has already exploded: .*, loss/box is nan on images 500, .* "
    r"metrics of step 6 were not "
    r"finite.* No earlier checkpoint is better"
    with pytest.raises(NumericalError, match=message):
        loop.train(world.config(20), tmp_path)


def test_later_steps_and_fresh_runs_may_be_saved_by_a_lower_rate(world: Exploding, tmp_path: Path) -> None:
    loop.train(world.config(5), tmp_path)
    world.overflows_at = 5.0**7
    with pytest.raises(NumericalError, match=r"Step 8: loss/box is nan on images 700, .* lower --train\.learning-rate"):
        loop.train(world.config(20), tmp_path)
    world.overflows_at = 1.0
    with pytest.raises(NumericalError, match=r"^Step 1: loss/box is nan"):
        loop.train(world.config(20), tmp_path / "fresh")


def test_an_evaluation_that_is_not_finite_names_its_step(
    world: Exploding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*_, **__):
        raise NumericalError("Image a.png (id 1 of val): the RPN computed values that are not finite.")

    monkeypatch.setattr("mrcnn_jax.training.validation.evaluate", evaluate)
    config = replace(world.config(8), train=replace(world.config(8).train, eval_every=8))
    with pytest.raises(NumericalError, match=r"^Evaluation of step 8: Image a\.png \(id 1 of val\): the RPN"):
        loop.train(config, tmp_path)
    assert saved_steps(tmp_path) == [5]


def test_nan_says_whether_the_newest_checkpoint_is_lost(world: Exploding, tmp_path: Path) -> None:
    world.overflows_at = 5.0**12
    config = replace(world.config(20), train=replace(world.config(20).train, log_every=100))
    with pytest.raises(NumericalError) as error:  # only the step that failed is logged
        loop.train(config, tmp_path)
    assert saved_steps(tmp_path) == [5, 10]
    assert re.search(
        r"^Step 13: loss/box is nan .* The newest checkpoint, step 10, is already lost: with its parameters, the loss "
        rf"of step 11 was 1\.953e\+07\. .* Remove {tmp_path}/checkpoints/10 to continue from step 5 .*--step 5 --to",
        str(error.value),
    )
    assert f"There is no {tmp_path}/weights" in str(error.value)


def test_a_step_without_a_lost_loss_is_continued(world: Exploding, tmp_path: Path) -> None:
    world.overflows_at = 5.0**8
    with pytest.raises(NumericalError, match=r"^Step 9: .* step 5, is not lost: .* loss of step 6 was 6250\. The same"):
        loop.train(world.config(20), tmp_path)
    world.overflows_at = 1.0
    world.learning_rate = LOW
    with pytest.raises(NumericalError, match=r"^Step 1: .*No checkpoint is saved in .*fresh, so .* starts over"):
        loop.train(world.config(20), tmp_path / "fresh")


def test_a_gradient_that_is_not_finite_counts_like_a_loss(tmp_path: Path) -> None:
    lines = [{"step": 5, "loss/total": 3.0}, {"step": 6, "loss/total": 2.0, "gradient_norm": None}]
    lines[1]["not_finite"] = ["gradient_norm"]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 7, "los')
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    losses = read_losses(tmp_path)
    assert losses[5] == 3.0 and math.isnan(losses[6]) and len(losses) == 2
    explained = explain_failure(tmp_path, losses)
    assert "step 5, is already lost: with its parameters, metrics of step 6 were not finite." in explained
    assert "step 5, is not lost: its parameters are finite, and the loss of step 5 was 3." in (
        explain_failure(tmp_path, {5: 3.0})
    )
    assert "step 5, is not lost: its parameters are finite, and no loss of it was logged." in (
        explain_failure(tmp_path, {})
    )
