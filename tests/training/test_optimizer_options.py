"""What the optimizer does on request: cosine, clipped and accumulated gradients, averaged parameters."""

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrcnn_jax.config import ModelConfig, TrainConfig
from mrcnn_jax.training.averaging import averaged_params, track_average
from mrcnn_jax.training.optimizer import learning_rate, make_optimizer
from mrcnn_jax.training.state import make_train_state

CONFIG = TrainConfig(num_steps=12, learning_rate=0.1, weight_decay=0.01, warmup_steps=4, warmup_factor=0.2)
CONSTANT = replace(CONFIG, warmup_steps=0, decay_steps=())
MODEL = ModelConfig(freeze_at=2)


def make_params() -> dict:
    """A linear model, and a frozen parameter that takes part."""
    rng = np.random.default_rng(0)
    kernel, frozen = rng.standard_normal((2, 5, 3)).astype(np.float32)
    return {
        "backbone": {"stem": {"kernel": jnp.asarray(frozen)}},
        "box_head": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(3)},
    }


def loss(params: dict, inputs: jax.Array) -> jax.Array:
    """A mean over rows [n, 5]."""
    kernel = params["box_head"]["kernel"] + params["backbone"]["stem"]["kernel"]
    return jnp.mean(jnp.square(inputs @ kernel + params["box_head"]["bias"][None]))


def run(train_config: TrainConfig, batches: jax.Array) -> list:
    """The training states after each batch [n, 5]."""
    optimizer = make_optimizer(train_config, MODEL)
    state = make_train_state({"params": make_params()}, optimizer)

    @jax.jit
    def step(state, inputs):
        gradients = jax.grad(loss)(state.params, inputs)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

    states = []
    for inputs in batches:
        state = step(state, inputs)
        states.append(state)
    return states


def make_batches(num_batches: int, num_rows: int) -> jax.Array:
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.standard_normal((num_batches, num_rows, 5)), jnp.float32)


def assert_close(left: dict, right: dict) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), left, right)  # float32


def test_cosine_golden() -> None:
    config = replace(CONFIG, schedule="cosine", decay_steps=(5,))
    # Warm-up as ever, the peak at its end, half of it halfway to step 12, nothing there; no drops at decay_steps.
    for step, expected in ((0, 0.02), (2, 0.06), (4, 0.1), (6, 0.085355), (8, 0.05), (10, 0.014645), (12, 0), (99, 0)):
        rate = learning_rate(config, step)
        assert rate.dtype == jnp.float32
        np.testing.assert_allclose(rate, expected, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(jax.jit(lambda s: learning_rate(config, s))(jnp.int32(step)), rate, atol=1e-7)
    np.testing.assert_allclose(learning_rate(replace(config, warmup_steps=0), 6), 0.05, rtol=1e-5)


def test_accumulated_steps_share_the_rate_of_their_first() -> None:
    config = replace(CONFIG, accumulate_steps=3)
    for step in range(12):
        assert learning_rate(config, step) == learning_rate(CONFIG, step // 3 * 3)


@pytest.mark.parametrize(
    ("batch_size", "accumulate_steps", "peak"),
    [(16, 1, 0.02), (2, 1, 0.0025), (256, 1, 0.32), (64, 4, 0.32), (512, 1, 0.64), (1024, 1, 1.28)],
)
@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_linear_scaling(
    batch_size: int, accumulate_steps: int, peak: float, schedule: Literal["steps", "cosine"]
) -> None:
    # Goyal et al., arXiv 1706.02677: a batch k times as large has k times the rate.
    config = TrainConfig(
        num_steps=1200,
        batch_size=batch_size,
        accumulate_steps=accumulate_steps,
        learning_rate=0.02,
        rate_batch_size=16,
        schedule=schedule,
        warmup_steps=400,
        decay_steps=(800,),
    )
    assert config.peak_learning_rate == pytest.approx(peak)
    np.testing.assert_allclose(learning_rate(config, 400), peak, rtol=1e-6)
    np.testing.assert_allclose(learning_rate(config, 0), 0.001 * peak, rtol=1e-6)  # all of the warm-up is scaled
    np.testing.assert_allclose(learning_rate(config, 800), peak * (0.1 if schedule == "steps" else 0.5), rtol=1e-5)
    assert replace(config, rate_batch_size=0).peak_learning_rate == 0.02


@pytest.mark.parametrize("num_accumulated", [2, 3])
def test_accumulated_batches_equal_one_large_batch(num_accumulated: int) -> None:
    small = make_batches(6, 4)
    states = run(replace(CONSTANT, accumulate_steps=num_accumulated, ema_decay=0.5), small)
    large = run(replace(CONSTANT, ema_decay=0.5), small.reshape(6 // num_accumulated, -1, 5))
    previous = make_params()
    for index, state in enumerate(states):
        if (index + 1) % num_accumulated:
            jax.tree.map(np.testing.assert_array_equal, state.params, previous)
        else:
            expected = large[index // num_accumulated]
            assert_close(state.params, expected.params)
            assert_close(averaged_params(state), averaged_params(expected))
        previous = state.params
    assert not np.allclose(previous["box_head"]["kernel"], make_params()["box_head"]["kernel"])


def test_updates_use_the_rate_that_the_schedule_says() -> None:
    # A constant gradient without momentum and decay: each update shows its rate.
    config = replace(CONFIG, momentum=0.0, weight_decay=0.0, schedule="cosine", accumulate_steps=2)
    optimizer = make_optimizer(config, MODEL)
    params = make_params()
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    gradients = jax.tree.map(jnp.ones_like, params)
    for step in range(12):
        updates, state = update(gradients, state, params)
        rate = learning_rate(config, step) if step % 2 else 0.0
        np.testing.assert_allclose(updates["box_head"]["bias"], np.full(3, -rate), rtol=1e-5)


@pytest.mark.parametrize("norm", [0.5, 1e6])
def test_clipping_limits_the_norm_of_trained_gradients(norm: float) -> None:
    config = replace(CONSTANT, momentum=0.0, clip_norm=norm)
    optimizer = make_optimizer(config, MODEL)
    params = make_params()
    gradients = jax.tree.map(lambda p: 3 * p, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    trained = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradients["box_head"])]
    scale = min(1.0, norm / np.sqrt(sum((leaf**2).sum() for leaf in trained)))
    kernel = np.asarray(params["box_head"]["kernel"])
    # Decay is added to the clipped gradient, as PyTorch's clip_grad_norm_ before its SGD does.
    expected = -0.1 * (scale * 3 * kernel + 0.01 * kernel)
    np.testing.assert_allclose(updates["box_head"]["kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(updates["box_head"]["bias"], np.full(3, -0.1 * scale * 3), rtol=1e-5)
    assert not np.asarray(updates["backbone"]["stem"]["kernel"]).any()


def test_average_equals_numpy() -> None:
    states = run(replace(CONSTANT, ema_decay=0.3), make_batches(6, 4))
    average = np.asarray(make_params()["box_head"]["kernel"], np.float64)
    plain = run(CONSTANT, make_batches(6, 4))
    for num_averaged, (state, without) in enumerate(zip(states, plain, strict=True)):
        decay = min(0.3, (1 + num_averaged) / (10 + num_averaged))
        average = decay * average + (1 - decay) * np.asarray(state.params["box_head"]["kernel"])
        averaged = averaged_params(state)
        np.testing.assert_allclose(averaged["box_head"]["kernel"], average, rtol=1e-5)
        np.testing.assert_array_equal(
            averaged["backbone"]["stem"]["kernel"], make_params()["backbone"]["stem"]["kernel"]
        )
        jax.tree.map(np.testing.assert_array_equal, state.params, without.params)  # training itself is not touched
        assert averaged_params(without) is without.params


def test_average_starts_as_a_copy() -> None:
    # Buffers that are donated twice are an error, and a fresh state is evaluated, too.
    params = make_params()
    state = make_train_state({"params": params}, make_optimizer(replace(CONFIG, ema_decay=0.9), MODEL))
    jax.jit(lambda state: state, donate_argnums=0)(state)
    fresh = track_average(0.9).init({"weight": jnp.ones(2)})
    np.testing.assert_array_equal(fresh.averaged_params["weight"], [1, 1])


def test_nothing_is_kept_for_options_that_are_off() -> None:
    params = make_params()
    plain = jax.tree.leaves(make_optimizer(CONFIG, MODEL).init(params))
    # Velocities of what is trained, and the count of the schedule.
    assert sorted(leaf.shape for leaf in plain) == [(), (3,), (5, 3)]
    for name in ("ema_decay", "accumulate_steps"):
        value = 0.5 if name == "ema_decay" else 2
        kept = jax.tree.leaves(make_optimizer(replace(CONFIG, **{name: value}), MODEL).init(params))
        assert sum(leaf.shape == (5, 3) for leaf in kept) == 2  # nothing for the frozen one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, r"train\.schedule"),
        ({"schedule": "cosine", "warmup_steps": 12}, r"train\.warmup_steps"),
        ({"clip_norm": -1.0}, r"train\.clip_norm"),
        ({"rate_batch_size": -1}, r"train\.rate_batch_size"),
        ({"accumulate_steps": 0}, r"train\.accumulate_steps"),
        ({"accumulate_steps": 5}, r"train\.accumulate_steps.*divisor.*12"),
        ({"ema_decay": 1.0}, r"train\.ema_decay"),
    ],
)
def test_impossible_values_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_adamw_is_optax_s_with_decay_on_kernels_alone():
    config = replace(CONSTANT, optimizer="adamw", momentum=0.8)
    batches = make_batches(4, 6)
    reference = optax.adamw(0.1, b1=0.8, weight_decay=0.01, mask={"kernel": True, "bias": False})
    params = make_params()
    state = reference.init(params["box_head"])
    for inputs in batches:
        gradients = jax.grad(loss)(params, inputs)["box_head"]
        updates, state = reference.update(gradients, state, params["box_head"])
        params["box_head"] = optax.apply_updates(params["box_head"], updates)
    trained = run(config, batches)[-1].params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), trained, params)
    assert not np.allclose(trained["box_head"]["kernel"], run(CONSTANT, batches)[-1].params["box_head"]["kernel"])


def test_unknown_optimizers_are_refused():
    with pytest.raises(ValueError, match=r"train\.optimizer"):
        TrainConfig(optimizer="adam")
