"""The cascade of box heads, in NumPy once more: their RoIs, targets, losses, gradients and detections."""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import Config, ModelConfig, TargetsConfig, TestConfig
from mrcnn_jax.detection import cascade, predict
from mrcnn_jax.detection.objective import compute_objective
from mrcnn_jax.detection.roi_targets import rematch_rois
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Detections, GroundTruth, Proposals, RoiTargets
from tests import oracles, tiny

CONFIG = replace(tiny.MODEL, box_head_stages=3)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
IOUS = (0.5, 0.6, 0.7)
SIZES = ((60, 80), (50, 64))
NUM, CLASSES = 40, CONFIG.num_classes + 1


class TableHeads(nn.Module):
    """Box heads whose outputs are in a table; what was pooled adds to the background's logit."""

    config: ModelConfig

    def classify_rois(self, features: jax.Array, stage: int) -> tuple[jax.Array, jax.Array]:
        logits, deltas = (jnp.asarray(self.get_variable("params", name))[stage] for name in ("logits", "deltas"))
        return logits.at[:, 0].add(features), deltas


HEADS = TableHeads(CONFIG)


@pytest.fixture
def seen_rois(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The RoIs of each call of `pool_rois`, which finds the one map, [B * N], in them."""
    seen: list[Any] = []

    def pool(features: Any, sets: Any, image_hw: Any, *, output_sizes: list[int], model_config: ModelConfig) -> Any:
        assert output_sizes == [CONFIG.box_pool_size] and model_config == CONFIG
        seen.extend(sets)
        return [features[0]]

    monkeypatch.setattr(cascade, "pool_rois", pool)
    return seen


def make_tables(seed: int = 0) -> dict[str, Any]:
    """Outputs of three heads for two images; of the deltas some are large enough to throw a RoI out of the image."""
    rng = np.random.default_rng(seed)
    deltas = rng.normal(0, 0.8, (3, 2, NUM, 1, 4))
    deltas[0, :, 0, 0, 0] = 100.0  # ten widths to the right
    logits = rng.normal(0, 1.5, (3, 2 * NUM, CLASSES))
    return {"logits": logits.astype(np.float32), "deltas": deltas.reshape(3, -1, 1, 4).astype(np.float32)}


def make_rois(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Objects of each image, RoIs [2, N, 4] near them, and which of these are valid."""
    rng = np.random.default_rng(seed)
    objects = [np.array([[10, 10, 40, 40], [45, 20, 75, 55]], np.float32), np.array([[30, 5, 60, 45]], np.float32)]
    rois = np.stack([boxes[rng.integers(0, len(boxes), NUM)] + rng.integers(-6, 7, (NUM, 4)) for boxes in objects])
    valid = np.arange(NUM) < np.array([[NUM - 5], [NUM - 9]])
    return objects, np.where(valid[..., None], np.clip(rois, 0, 50), 0).astype(np.float32), valid


def targets_by_loop(rois: np.ndarray, objects: np.ndarray, labels: np.ndarray, stage: int) -> tuple:
    """Labels and deltas of the RoIs of one image, all valid, at a stage's IoU and with its weights."""
    states, matched = oracles.match(oracles.iou_matrix(rois, objects), IOUS[stage], IOUS[stage], False)
    found = np.where(np.array(states) == 2, labels[matched], 0)
    pairs = zip(rois, matched, found, strict=True)
    deltas = [oracles.encode_box(objects[m], roi, WEIGHTS[stage]) if label else np.zeros(4) for roi, m, label in pairs]
    return found, np.array(deltas)


LABELS = (np.array([2, 3], np.int32), np.array([1], np.int32))


def make_case() -> tuple[RoiTargets, GroundTruth]:
    """What the first head is trained on, with garbage in padding rows, and the objects, with a padding slot."""
    objects, rois, valid = make_rois()
    labels, deltas = np.full((2, NUM), 3, np.int32), np.full((2, NUM, 4), 7.0, np.float32)
    truth = GroundTruth(np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), np.int32), None, np.zeros((2, 3), bool))
    for i in range(2):
        count = len(objects[i])
        truth.boxes[i, :count], truth.labels[i, :count], truth.valid[i, :count] = objects[i], LABELS[i], True
        labels[i, valid[i]], deltas[i, valid[i]] = targets_by_loop(rois[i, valid[i]], objects[i], LABELS[i], 0)
    targets = RoiTargets(rois, labels, deltas, np.zeros((2, NUM), np.int32), valid)
    return jax.tree.map(jnp.asarray, (targets, truth))


def compute_losses(
    tables: dict, features: Any, case: tuple | None = None, sizes: tuple = SIZES, **changes: Any
) -> dict[str, jax.Array]:
    inputs = {"params": tables}, (features,), *(case or make_case()), jnp.asarray(sizes, jnp.int32)
    return cascade.cascade_losses(*inputs, model=HEADS, targets_config=TargetsConfig(**changes))


def cascade_by_loop(tables: dict) -> tuple[dict, list, dict, np.ndarray]:
    """Losses [B], RoIs [stages, B, N, 4], and the gradients of all losses' sum to tables and pooled features."""
    objects, rois, valid = make_rois()
    losses: dict[str, list] = {f"{name}_{stage}": [] for stage in (1, 2, 3) for name in ("class", "box")}
    gradients = {name: np.zeros(table.shape) for name, table in tables.items()}
    all_rois, of_features = [rois], np.zeros((2, NUM))
    for stage in range(3):
        boxes, still_valid = np.zeros((2, NUM, 4)), np.zeros((2, NUM), bool)
        for i in range(2):
            rows = np.flatnonzero(valid[i])
            at = i * NUM + rows  # in the tables
            labels, wanted = targets_by_loop(rois[i, rows], objects[i], LABELS[i], stage)
            scores, deltas = oracles.softmax(tables["logits"][stage, at]), tables["deltas"][stage, at, 0]
            losses[f"class_{stage + 1}"].append(-np.log(scores[np.arange(len(rows)), labels]).mean())
            error = (deltas - wanted) * (labels > 0)[:, None]
            losses[f"box_{stage + 1}"].append(oracles.smooth_l1(error, 1.0).sum() / len(rows))
            gradients["deltas"][stage, at, 0] = np.clip(error, -1, 1) / len(rows)
            gradients["logits"][stage, at] = (scores - np.eye(CLASSES)[labels]) / len(rows)
            of_features[i, rows] += gradients["logits"][stage, at, 0] / 3
            for row, delta in zip(rows, deltas, strict=True):
                box = oracles.clip_box(oracles.decode_box(delta, rois[i, row], WEIGHTS[stage]), SIZES[i])
                if box[2] > box[0] and box[3] > box[1]:
                    boxes[i, row], still_valid[i, row] = box, True
        rois, valid = boxes, still_valid
        all_rois.append(rois)
    return losses, all_rois[:3], gradients, of_features.reshape(-1)


def test_losses_rois_and_gradients_equal_the_loop(seen_rois: list[Any]) -> None:
    tables, features = make_tables(), jnp.zeros(2 * NUM)
    losses, rois, gradients, of_features = cascade_by_loop(tables)
    found = compute_losses(tables, features)
    assert sorted(found) == sorted(losses)
    for name, loss in losses.items():
        np.testing.assert_allclose(found[name], loss, rtol=1e-4, err_msg=name)
    assert len(rois) == 3 and rois[0][:, 0].any() and not rois[1][:, 0].any()  # row 0 left the image
    for stage, expected in enumerate(rois):
        np.testing.assert_allclose(seen_rois[stage], expected, atol=1e-4)
    # The heads' own gradients are those of their own losses: boxes carry none. The features receive a third of the sum.
    to_tables, to_features = jax.grad(lambda *arrays: sum(compute_losses(*arrays).values()).sum(), (0, 1))(
        tables, features
    )
    for name, expected in gradients.items():
        np.testing.assert_allclose(to_tables[name], expected, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(to_features, of_features, atol=1e-6)


@pytest.mark.parametrize("garbage", [np.nan, 1e30, 0.5])
def test_padding_rows_have_no_effect(garbage: float, seen_rois: list[Any]) -> None:
    del seen_rois
    tables, (targets, truth) = make_tables(), make_case()
    padding = ~np.asarray(targets.valid).reshape(-1)
    spoiled = {name: np.where(padding.reshape(1, -1, *[1] * (t.ndim - 2)), garbage, t) for name, t in tables.items()}
    rois = jnp.where(targets.valid[..., None], targets.rois, jnp.array([[[5.0, 5, 30, 30]]]))
    case = targets.replace(rois=rois), truth.replace(labels=jnp.where(truth.valid, truth.labels, 77))
    run = jax.value_and_grad(lambda *inputs: sum(compute_losses(*inputs).values()).sum())
    features = jnp.zeros(2 * NUM)
    jax.tree.map(np.testing.assert_array_equal, run(spoiled, features, case), run(tables, features, (targets, truth)))


def test_a_roi_of_iou_055_is_foreground_for_the_first_head_alone(seen_rois: list[Any]) -> None:
    box, valid = jnp.array([[[0.0, 0, 20, 11]]]), jnp.ones((1, 1), bool)
    truth = GroundTruth(jnp.array([[[0.0, 0, 20, 20]]]), jnp.array([[2]]), None, valid)
    for stage, label in ((0, 2), (1, 0), (2, 0)):
        rematch = partial(rematch_rois, foreground_iou=IOUS[stage], delta_weights=WEIGHTS[stage])
        found = jax.vmap(rematch)(box, valid, truth)
        assert found.labels.tolist() == [[label]] and found.valid.all()
        np.testing.assert_allclose(found.deltas[0, 0, 1], 10 * 4.5 / 11 if label else 0, rtol=1e-5)
    # Heads that leave the box as it is and are sure of its label are right at first, then wrong; unless IoUs are lower.
    tables = {"logits": jnp.zeros((3, 1, CLASSES)).at[..., 2].set(20.0), "deltas": jnp.zeros((3, 1, 1, 4))}
    first = jax.vmap(partial(rematch_rois, foreground_iou=0.5, delta_weights=WEIGHTS[0]))(box, valid, truth)
    for ious, wrong in (((0.6, 0.7), (2, 3)), ((0.55, 0.7), (3,)), ((0.51, 0.54), ())):
        found = compute_losses(tables, jnp.zeros(1), (first, truth), SIZES[:1], cascade_ious=ious)
        assert [float(found[f"class_{stage}"][0]) > 10 for stage in (1, 2, 3)] == [
            stage in wrong for stage in (1, 2, 3)
        ]
    assert all(rois.tolist() == box.tolist() for rois in seen_rois)


def test_generalised_iou_is_charged_at_each_heads_weights(seen_rois: list[Any]) -> None:
    # Half a box to the right, in the deltas of each head: the IoU with the object, where the RoI is, is a third.
    box, valid = jnp.array([[[10.0, 10, 20, 20]]]), jnp.ones((1, 1), bool)
    truth = GroundTruth(box, jnp.array([[2]]), None, valid)
    first = jax.vmap(partial(rematch_rois, foreground_iou=0.5, delta_weights=WEIGHTS[0]))(box, valid, truth)
    for stage in range(3):
        deltas = jnp.zeros((3, 1, 1, 4)).at[stage, 0, 0, 0].set(WEIGHTS[stage][0] / 2)
        tables = {"logits": jnp.zeros((3, 1, CLASSES)), "deltas": deltas}
        found = compute_losses(tables, jnp.zeros(1), (first, truth), SIZES[:1], box_loss="giou")
        np.testing.assert_allclose(found[f"box_{stage + 1}"], 2 / 3, rtol=1e-5)
    np.testing.assert_allclose(seen_rois[1], [[[15, 10, 25, 20]]])  # from the first pass, stage 0


def test_detections_are_the_last_boxes_with_mean_scores(seen_rois: list[Any]) -> None:
    config = TestConfig(score_threshold=0.2, nms_threshold=0.5, max_detections=12)
    tables = make_tables(1)
    _, rois, valid = make_rois()
    spoiled = {name: np.where(valid.reshape(1, -1, *[1] * (t.ndim - 2)), t, 0) for name, t in tables.items()}
    spoiled["logits"][:, ~valid.reshape(-1), 1] = 20.0  # padding rows that are sure of an object
    boxes_and_padding = np.where(valid[..., None], rois, np.array([5, 5, 30, 30], np.float32))
    proposals = Proposals(jnp.asarray(boxes_and_padding), jnp.zeros((2, NUM)), jnp.asarray(valid))
    inputs = {"params": spoiled}, (jnp.zeros(2 * NUM),), proposals, jnp.asarray(SIZES, jnp.int32)
    found = cascade.classify_in_cascade(*inputs, model=HEADS, test_config=config)
    assert len(seen_rois) == 3
    scores = sum(oracles.softmax(logits) for logits in tables["logits"]).reshape(2, NUM, CLASSES) / 3
    for i in range(2):
        boxes = rois[i].astype(np.float64)
        for stage in range(3):
            deltas = tables["deltas"][stage].reshape(2, NUM, 4)[i]
            boxes = np.array([oracles.decode_box(*pair, WEIGHTS[stage]) for pair in zip(deltas, boxes, strict=True)])
            boxes = np.array([oracles.clip_box(box, SIZES[i]) for box in boxes])
        index, label = np.nonzero((scores[i] > 0.2) & valid[i][:, None])
        index, label = index[label > 0], label[label > 0]
        usable = (boxes[index, 2] > boxes[index, 0]) & (boxes[index, 3] > boxes[index, 1])
        kept = oracles.greedy_nms(boxes[index], scores[i][index, label], usable, label, 0.5, 12)
        assert 2 < len(kept) == int(found.valid[i].sum())
        np.testing.assert_allclose(found.scores[i][: len(kept)], scores[i][index, label][kept], rtol=1e-5)
        np.testing.assert_array_equal(found.labels[i][: len(kept)], label[kept])
        np.testing.assert_allclose(found.boxes[i][: len(kept)], boxes[index][kept], atol=1e-3)
        assert not np.asarray(found.boxes)[i, len(kept) :].any()


def test_one_head_is_classified_as_without_a_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("propose_batch", "classify_proposals", "classify_in_cascade"):
        monkeypatch.setattr(predict, name, lambda *_, name=name, **__: Detections(*[name] * 6))
    monkeypatch.setattr(
        predict, "add_masks_and_keypoints", lambda variables, features, detections, *_, **__: detections
    )
    monkeypatch.setattr(MaskRCNN, "apply", lambda *_, **__: ())
    inputs = {}, jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.zeros((1, 2), jnp.int32)
    for config, name in ((tiny.MODEL, "classify_proposals"), (CONFIG, "classify_in_cascade")):
        for run in (predict.predict, predict.predict_boxes):
            assert run(*inputs, model=MaskRCNN(config), test_config=TestConfig()).boxes == name


def test_parameters_of_one_and_of_three_heads() -> None:
    one, three = (jax.tree.map(np.shape, tiny.make_variables(config)["params"]) for config in (tiny.MODEL, CONFIG))
    assert three.keys() - one.keys() == {"box_head_2", "box_head_3"} and one.keys() <= three.keys()
    assert one["box_head"]["deltas"] == {"kernel": (32, 4 * CLASSES), "bias": (4 * CLASSES,)}
    for name in ("box_head", "box_head_2", "box_head_3"):
        assert three[name] == {**one["box_head"], "deltas": {"kernel": (32, 4), "bias": (4,)}}
    assert [CONFIG.stage_delta_weights(stage) for stage in range(3)] == list(WEIGHTS)
    assert (TargetsConfig().roi_foreground_iou, *TargetsConfig().cascade_ious) == IOUS


def test_every_parameter_learns() -> None:
    variables, batch = tiny.make_variables(CONFIG), tiny.make_batch(2, (64, 96))

    def loss(params: dict) -> tuple:
        found = compute_objective(
            params, {}, batch, jax.random.key(0), model=MaskRCNN(CONFIG), targets_config=tiny.TARGETS
        )
        return found.total, found.sums

    gradients, sums = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    names = {"objectness", "rpn_box", "mask", *(f"{name}_{stage}" for name in ("class", "box") for stage in (1, 2, 3))}
    assert sums.keys() == {"foreground_rois", "foreground_proposals", "loss/total", *(f"loss/{name}" for name in names)}
    total = sum(float(sums[f"loss/{name}"]) for name in names)
    assert np.isfinite(total) and float(sums["loss/total"]) == pytest.approx(total, rel=1e-5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and np.asarray(leaf).any(), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(neck="c4", box_head_stages=3), "more than 1 requires model.neck fpn, got c4"),
        (lambda: ModelConfig(box_head_stages=0), "expected 1 or more, got 0"),
        (lambda: TargetsConfig(cascade_ious=(0.6, 1.7)), "cascade_ious: expected a value in"),
        (lambda: Config(model=ModelConfig(box_head_stages=4)), "each of the 3 box heads after the first"),
    ],
)
def test_refused_configs(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
