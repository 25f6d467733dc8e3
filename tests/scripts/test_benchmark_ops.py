"""The benchmark of single operations: each is what its name says, and it prints valid JSON."""

import json
import sys

import jax
import numpy as np
import pytest

from mrcnn_jax.cli import benchmark_ops
from mrcnn_jax.errors import ConfigError


@pytest.fixture(scope="module")
def operations() -> dict:
    arguments = benchmark_ops.Arguments((64, 96), batch_size=2)
    return {name: (function, inputs) for name, function, inputs in benchmark_ops.operations(arguments)}


def test_all_are_there(operations: dict) -> None:
    assert tuple(operations) == benchmark_ops.OPERATIONS


@pytest.mark.parametrize(("name", "count", "side"), [("roi_align_box", 1000, 7), ("roi_align_mask", 100, 14)])
def test_gradients_are_those_of_the_pooling(operations: dict, name: str, count: int, side: int) -> None:
    pool, inputs = operations[name]
    gradients, (features, rois, image_hw, weights) = operations[f"{name}_gradients"]
    pooled = jax.jit(pool)(*inputs)
    assert pooled.shape == weights.shape == (2 * count, side, side, 256)
    found = jax.jit(gradients)(features, rois, image_hw, weights)
    # The pooled features are linear in the features: their weighted sum is that of the features, by its gradients.
    total = sum(np.vdot(np.float64(one), np.float64(other)) for one, other in zip(found, features, strict=True))
    assert total == pytest.approx(np.vdot(np.float64(pooled), np.float64(weights)), rel=1e-3)


def test_each_level_gives_its_best_anchors(operations: dict) -> None:
    function, (scores,) = operations["top_k_anchors"]
    assert [level.shape for level in scores] == [(2, 1152), (2, 288), (2, 72), (2, 18), (2, 6)]
    for (values, _), level in zip(function(scores), scores, strict=True):
        np.testing.assert_array_equal(values, np.sort(level)[:, ::-1][:, :1000])


@pytest.mark.parametrize(("name", "candidates", "kept"), [("nms_proposals", 1384, 1000), ("nms_detections", 4096, 100)])
def test_nms_sees_each_image(operations: dict, name: str, candidates: int, kept: int) -> None:
    function, inputs = operations[name]
    assert inputs[0].shape == (2, candidates, 4)
    found = jax.jit(function)(*inputs)
    assert found.indices.shape == (2, kept) and found.valid[:, 0].all()
    assert (found.indices[0] != found.indices[1]).any()


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--canvas", "64x96", "--iterations", "2", "--only", "top_k", "--dtype", "bfloat16"]
    monkeypatch.setattr(sys, "argv", ["benchmark_ops.py", *options])
    benchmark_ops.main()
    report = json.loads(capsys.readouterr().out)
    assert report["canvas"] == "64x96" and report["dtype"] == "bfloat16" and report["device"]["platform"] == "cpu"
    assert list(report["operations"]) == ["top_k_anchors"]
    figures = report["operations"]["top_k_anchors"]
    assert 0 < figures["min_ms"] <= figures["median_ms"] and figures["compile_seconds"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--canvas", "64x65"], "multiples of 32"),
        (["--canvas", "64x96", "--iterations", "0"], "expected 1 or more"),
        (["--canvas", "64x96", "--only", "conv"], "expected a part of one of roi_align_box, "),
    ],
)
def test_bad_options_are_refused(options: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_ops.py", *options])
    with pytest.raises(ConfigError, match=message):
        benchmark_ops.main()
