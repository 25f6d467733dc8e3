"""NumPy's selection of proposals and detections finds what the compiled programs find: ties, nothing, everything."""

import functools
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.detection.image_anchors import make_anchors
from mrcnn_jax.detection.proposals import propose
from mrcnn_jax.detection.selection import select_boxes, select_detections
from mrcnn_jax.inference import exported_selection
from mrcnn_jax.inference.export_onnx import describe_selection
from mrcnn_jax.ops.nms import suppress_overlaps
from mrcnn_jax.ops.top_k import find_largest
from mrcnn_jax.structures import Proposals
from tests import tiny

CANVAS = (64, 96)
TEST = TestConfig(pre_nms_top_n=40, post_nms_top_n=30, max_detections=12, max_candidates=60, score_threshold=0.2)
MODELS = {
    "fpn": replace(tiny.MODEL, min_proposal_side=2.0),
    "torchvision": replace(tiny.MODEL, anchor_stride="fitted", proposal_score="probability", anchors_rounded=True),
    "c4": replace(tiny.MODEL, neck="c4", mask_head_convs=0, size_divisor=1),
}
KINDS = ("random", "ties", "nothing", "not_finite", "all_equal")
SIZES = ((64, 96), (50, 33), (3, 96))


def description(model_config: ModelConfig, test_config: TestConfig = TEST) -> dict:
    return {"model": asdict(model_config), "test": asdict(test_config), **describe_selection(model_config)}


def rpn_outputs(model_config: ModelConfig, kind: str, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    logits, deltas = [], []
    for stride in model_config.feature_strides:
        cells = -(-CANVAS[0] // stride) * -(-CANVAS[1] // stride)
        scores = rng.normal(0, 4, cells * model_config.anchors_per_cell)
        moves = rng.normal(0, 0.3, (cells, 4 * model_config.anchors_per_cell))
        if kind == "ties":
            scores, moves = np.round(scores / 4), np.round(moves)
        elif kind == "all_equal":
            scores, moves = 0 * scores + 20, 0 * moves
        elif kind == "nothing":
            moves = moves + 50.0  # far right of the image
        elif kind == "not_finite":
            scores[::3] = np.nan
            scores[1::9] = -np.inf
        logits.append(scores.astype(np.float32))
        deltas.append(moves.astype(np.float32))
    return logits, deltas


@pytest.mark.parametrize("name", MODELS)
def test_proposals_are_those_of_the_compiled_program(name: str) -> None:
    model_config = MODELS[name]

    @jax.jit
    def expect(logits: list, deltas: list, image_hw: jax.Array) -> Proposals:
        return propose(
            logits,
            deltas,
            make_anchors(CANVAS, image_hw, model_config),
            image_hw,
            pre_nms_top_n=TEST.pre_nms_top_n,
            post_nms_top_n=TEST.post_nms_top_n,
            nms_threshold=TEST.rpn_nms_threshold,
            min_side=model_config.min_proposal_side,
            score=model_config.proposal_score,
        )

    counts = set()
    for seed, (kind, size) in enumerate((kind, size) for kind in KINDS for size in SIZES):
        logits, deltas = rpn_outputs(model_config, kind, seed)
        expected = expect(logits, deltas, jnp.asarray(size, jnp.int32))
        found = exported_selection.propose(logits, deltas, np.array(size), CANVAS, description(model_config))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.boxes[np.asarray(expected.valid)], rtol=1e-6, atol=2e-5)
        assert (len(found) == 0) == (kind == "nothing"), (kind, size)
        counts.add(len(found))
    assert 0 in counts and max(counts) == TEST.post_nms_top_n, counts


@pytest.mark.parametrize("few", [True, False])
def test_detections_are_those_of_the_compiled_program(few: bool) -> None:
    test_config = TEST if few else replace(TEST, score_threshold=0.0, max_candidates=4096, min_detection_side=1.5)
    model_config, count, classes = tiny.MODEL, 40, 4
    expect = jax.jit(functools.partial(select_detections, model_config=model_config, test_config=test_config))
    counts = set()
    for kind in ("random", "ties", "nothing", "one", "no_proposals"):
        rng = np.random.default_rng(len(kind))
        corners = rng.uniform(0, 50, (count, 2))
        rois = np.concatenate([corners, corners + rng.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)
        logits = rng.normal(0, 3, (count, classes)).astype(np.float32)
        deltas = rng.normal(0, 2, (count, classes, 4)).astype(np.float32)
        valid = np.arange(count) < {"one": 1, "no_proposals": 0}.get(kind, 31)
        if kind == "ties":
            rois, logits, deltas = np.round(rois / 8) * 8, np.round(logits / 3), np.zeros_like(deltas)
        elif kind == "nothing":
            deltas[..., 0] = 1e3  # right of the image
        rois[~valid] = 0.0
        image_hw = np.array([60, 80], np.int32)
        proposals = Proposals(jnp.asarray(rois), jnp.zeros(count), jnp.asarray(valid))
        expected = expect(logits, deltas, proposals, jnp.asarray(image_hw))
        own = slice(0, int(valid.sum()))

        def decode(proposal, label, deltas=deltas[own], rois=rois[own]):
            weights = model_config.box_delta_weights
            return exported_selection.decode_boxes(deltas[proposal, label], rois[proposal], weights)

        scores = exported_selection.softmax(logits[own])
        found = exported_selection.select_detections(scores, decode, image_hw, asdict(test_config))
        kept = np.asarray(expected.valid)
        assert found["labels"].tolist() == expected.labels[kept].tolist()
        np.testing.assert_allclose(found["boxes"], expected.boxes[kept], rtol=1e-6, atol=2e-5)
        np.testing.assert_allclose(found["scores"], expected.scores[kept], rtol=1e-5)
        assert (kept.sum() == 0) == (kind in ("nothing", "no_proposals"))
        counts.add(int(kept.sum()))
    assert max(counts) == TEST.max_detections


def test_suppression_visits_equal_scores_in_order_and_keeps_groups_apart() -> None:
    box, near, far = [0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]
    boxes = np.array([near, box, box, far, box], np.float32)
    scores, groups = np.array([0.5, 0.5, 0.5, 0.9, 0.1], np.float32), np.array([1, 1, 2, 1, 2])
    keep = functools.partial(exported_selection.suppress_overlaps, boxes, scores, groups)
    assert keep(0.5, 10).tolist() == [3, 0, 2]
    assert keep(0.8, 10).tolist() == [3, 0, 1, 2]  # an IoU of the threshold itself is kept
    assert keep(0.5, 2).tolist() == [3, 0]
    expected = suppress_overlaps(
        jnp.asarray(boxes), jnp.asarray(scores), jnp.ones(5, bool), jnp.asarray(groups), iou_threshold=0.8, max_kept=4
    )
    assert expected.indices.tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("count", [1, 5, 29, 30, 99])
def test_the_largest_come_in_the_order_of_the_compiled_program(count: int) -> None:
    values = np.round(np.random.default_rng(count).normal(0, 2, 30)).astype(np.float32)
    expected = find_largest(jnp.asarray(values), min(count, 30))[1].tolist()
    assert exported_selection.find_largest(values[:0], count).tolist() == []
    assert exported_selection.find_largest(values, count).tolist() == expected


def test_boxes_that_a_cascade_refined_are_selected_as_they_are() -> None:
    boxes = np.array([[0, 0, 20, 20], [1, 1, 21, 21], [40, 40, 90, 50]], np.float32)
    scores = np.array([[0.1, 0.8, 0.1], [0.1, 0.7, 0.2], [0.4, 0.3, 0.3]], np.float32)
    image_hw = np.array([60, 80], np.int32)
    found = exported_selection.select_detections(scores, lambda proposal, _: boxes[proposal], image_hw, asdict(TEST))
    expected = select_boxes(
        jnp.asarray(scores),
        jnp.ones(3, bool),
        lambda proposal, _: jnp.asarray(boxes)[proposal],
        jnp.asarray(image_hw),
        test_config=TEST,
    )
    assert found["labels"].tolist() == [1, 1, 2] == expected.labels[np.asarray(expected.valid)].tolist()
    assert found["boxes"].tolist() == [[0, 0, 20, 20], [40, 40, 80, 50], [40, 40, 80, 50]]
