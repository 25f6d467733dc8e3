"""Details that decide whether foreign weights compute the same, 5, 15 to 29, 31 and 32: proposals, RoIs, heads, output.

See test_parity_input.py for the others.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.config.conventions import DETECTRON2, TORCHVISION
from mrcnn_jax.detection.image_anchors import LevelAnchors
from mrcnn_jax.detection.proposals import propose
from mrcnn_jax.detection.selection import select_detections
from mrcnn_jax.inference.keypoint_decoding import decode_keypoints
from mrcnn_jax.inference.paste_masks import paste_masks
from mrcnn_jax.inference.postprocessing import restore_detections
from mrcnn_jax.models.heads import KeypointHead, Upconv, interleave
from mrcnn_jax.ops.keypoints import encode_keypoints
from mrcnn_jax.ops.losses import keypoint_loss
from mrcnn_jax.ops.masks import sample_mask_targets
from mrcnn_jax.ops.nms import suppress_overlaps
from mrcnn_jax.ops.roi_align import align_rois, assign_levels
from mrcnn_jax.structures import Detections, Proposals
from mrcnn_jax.weights.mapping import (
    add_background,
    background_first,
    flipped_upconv_kernel,
    roi_dense_kernel,
    upconv_kernel,
)
from tests import oracles
from tests.weights.reference import load_golden, make_arrays, make_source

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def propose_all(logits: list, boxes: list, **choices: object) -> Proposals:
    """Proposals of given anchors, level by level, that the deltas do not move."""
    anchors = [LevelAnchors(jnp.asarray(level, jnp.float32), jnp.ones(len(level), bool)) for level in boxes]
    deltas = [jnp.zeros((len(level), 4)) for level in boxes]
    logits = [jnp.asarray(level, jnp.float32) for level in logits]
    settings = {"pre_nms_top_n": 10, "post_nms_top_n": 4, "nms_threshold": 0.7, **choices}
    return propose(logits, deltas, anchors, jnp.array([100, 100]), **settings)


def test_05_boxes_are_scaled_by_axis_with_the_rounded_sizes() -> None:
    slots = {"scores": np.ones(1), "labels": np.ones(1, np.int32), "valid": np.ones(1, bool)}
    empty = {"masks": np.zeros((1, 0, 0)), "heat_maps": np.zeros((1, 0, 0, 0))}
    detections = Detections(boxes=np.array([[0, 0, 1000, 800]], np.float32), **slots, **empty)
    found = restore_detections(
        detections, (800, 1067), (480, 640), categories=(Category(1, "a"),), test_config=TestConfig()
    )
    np.testing.assert_allclose(found.boxes, [[0, 0, 599.8126, 480]], rtol=1e-6)  # not 600, of one scale for both


def test_15_small_proposals_are_dropped_and_probabilities_tie() -> None:
    boxes = [[[0, 0, 10, 5e-4], [20, 20, 40, 40]], [[50, 50, 90, 90]]]
    kept = {side: int(propose_all([[9, 8], [7]], boxes, min_side=side).valid.sum()) for side in (0.0, 1e-3)}
    assert kept == {0.0: 3, 1e-3: 2}
    # Both probabilities are 1.0 in float32: the finer level comes first although its logit is lower.
    first = {
        score: propose_all([[30], [40]], [boxes[0][1:], boxes[1]], score=score).boxes[0, 0]
        for score in ("logit", "probability")
    }
    assert first == {"logit": 50, "probability": 20}
    assert TORCHVISION.model["min_proposal_side"] == 1e-3 and DETECTRON2.model["min_proposal_side"] == 0


def test_16_suppression_is_per_class_exact_and_above_the_threshold_only() -> None:
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]], jnp.float32)  # IoU of the first two: 0.5
    scores, valid, groups = jnp.array([0.9, 0.8, 0.7]), jnp.ones(3, bool), jnp.array([0, 0, 1])
    for threshold, expected in ((0.5, [0, 1, 2]), (0.49, [0, 2])):
        kept = suppress_overlaps(boxes, scores, valid, groups, iou_threshold=threshold, max_kept=3)
        assert kept.indices[kept.valid].tolist() == expected
    far = boxes + 1e6 * groups[:, None]  # what an offset per class does to float32: nothing here depends on it
    kept = suppress_overlaps(far, scores, valid, groups, iou_threshold=0.5, max_kept=3)
    assert kept.indices[kept.valid].tolist() == [0, 1, 2]


def test_17_background_comes_first() -> None:
    logits, deltas = np.arange(3), np.arange(8)  # Detectron2: two classes, then background; four deltas a class
    assert background_first(logits).tolist() == [2, 0, 1]
    assert add_background(deltas, group=4).tolist() == [0, 0, 0, 0, *range(8)]
    model = make_source(make_arrays("torchvision_maskrcnn_resnet50_fpn", {})).recognised.model
    assert model.num_classes == 90  # COCO's ids with their gaps: the softmax runs over all of them


def test_18_roi_features_are_flattened_channels_last() -> None:
    features, weight = random(2, 7, 7, 3), random(5, 3 * 49)
    theirs = features.transpose(0, 3, 1, 2).reshape(2, -1) @ weight.T
    ours = features.reshape(2, -1) @ roi_dense_kernel(weight, channels=3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_19_transposed_convolutions() -> None:
    x = random(1, 4, 4, 3)
    mask_weight = random(3, 2, 2, 2)  # in, out, h, w
    upconv = Upconv(2, jnp.dtype("float32"))
    found = interleave(upconv.apply({"params": {"kernel": upconv_kernel(mask_weight), "bias": jnp.zeros(2)}}, x))
    expected = oracles.transposed_conv2d(x[0], mask_weight.transpose(2, 3, 0, 1))
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    # Keypoints: 4x4, stride 2, padding 1, then twice the side, bilinear, borders repeated.
    weight, bias = random(3, 2, 4, 4), random(2)
    head = KeypointHead(ModelConfig(num_keypoints=2, keypoint_head_convs=0))
    found = head.apply({"params": {"kernel": flipped_upconv_kernel(weight), "bias": bias}}, x)
    low = np.zeros((10, 10, 2))
    for row in range(4):
        for column in range(4):
            low[2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += np.einsum(
                "i,iohw->hwo", x[0, row, column], weight
            )
    low = low[1:-1, 1:-1] + bias
    centres = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    expected = np.array([[oracles.bilinear(low, y, x) for x in centres] for y in centres])
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("ratio", "aligned"), [(2, False), (0, True)])
def test_20_roi_align_of_both_families(ratio: int, aligned: bool) -> None:
    feature = random(20, 24, 2)
    rois = np.array([[10.0, 8, 61, 70], [20, 20, 22, 21]], np.float32)  # the second is below one cell
    found = align_rois(
        (jnp.asarray(feature),),
        jnp.asarray(rois),
        jnp.zeros(2, jnp.int32),
        strides=(4,),
        output_size=7,
        sampling_ratio=ratio,
        aligned=aligned,
    )
    expected = [oracles.roi_align(feature.astype(np.float64), roi, 4, 7, ratio, aligned) for roi in rois]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    families = {
        family.model["roi_align_aligned"]: family.model["sampling_ratio"] for family in (TORCHVISION, DETECTRON2)
    }
    assert families == {False: 2, True: 0}


def test_21_samples_beyond_one_cell_outside_are_zero_others_clamped() -> None:
    feature = jnp.ones((4, 4, 1))
    rois = jnp.array([[-3.0, 0, 0, 4], [-1.5, 0, -0.5, 4]])  # samples at x = -1.5 and -1
    settings = {"strides": (1,), "output_size": 1, "sampling_ratio": 1, "aligned": False}
    found = align_rois((feature,), rois, jnp.zeros(2, jnp.int32), **settings)
    assert found.ravel().tolist() == [0, 1]


def test_22_level_of_rois_at_a_border() -> None:
    side = np.float32(224) * (1 - np.float32(3e-7))  # a hair below: only torchvision's eps lifts it
    rois = jnp.array([[0, 0, side, side], [0, 0, 112, 112]], jnp.float32)
    levels = {
        name: assign_levels(
            rois, 4, eps_in_log=family.model["level_eps_in_log"], eps_after_log=family.model["level_eps_after_log"]
        ).tolist()
        for name, family in (("torchvision", TORCHVISION), ("detectron2", DETECTRON2))
    }
    assert levels == {"torchvision": [2, 1], "detectron2": [1, 1]}


def select(test_config: TestConfig, scores: list, boxes: list) -> Detections:
    """Detections of one class from probabilities of given boxes."""
    probability = jnp.asarray(scores, jnp.float32)
    logits = jnp.log(jnp.stack([1 - probability, probability], axis=-1))
    proposals = Proposals(jnp.asarray(boxes, jnp.float32), probability, probability > 0)
    deltas = jnp.zeros((len(scores), 2, 4))
    return select_detections(
        logits,
        deltas,
        proposals,
        jnp.array([100, 100]),
        model_config=ModelConfig(num_classes=1),
        test_config=test_config,
    )


def test_23_scores_above_the_threshold_and_sides_of_a_hundredth_pixel() -> None:
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 50.005]]
    for side, expected in ((0.0, 2), (1e-2, 1)):
        found = select(TestConfig(max_detections=3, min_detection_side=side), [0.9, 0.04, 0.8], boxes)
        assert int(found.valid.sum()) == expected
    assert TORCHVISION.test["min_detection_side"] == 1e-2 and DETECTRON2.test["min_detection_side"] == 0


def test_24_suppression_comes_before_the_best_hundred() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9.9], [50, 50, 60, 60]]
    found = select(TestConfig(max_detections=2), [0.9, 0.8, 0.7], boxes)
    np.testing.assert_allclose(found.scores, [0.9, 0.7], rtol=1e-5)  # the best two before it would leave one


def test_25_masks_are_pasted_by_grid_or_into_whole_pixels() -> None:
    mask, box = np.zeros((1, 4, 4), np.float32), np.array([[2.3, 1.0, 10.3, 9.0]])
    mask[0, 1:3, 1:3] = 1
    grid, whole = (paste_masks(mask, box, (12, 12), 0.5, method)[0] for method in ("grid", "integer_box"))
    # Grid: cells of 2 x 2 pixels from (2.3, 1), so the object spans x 4.3..8.3, y 3..7.
    assert np.flatnonzero(grid.any(axis=0)).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(grid.any(axis=1)).tolist() == [3, 4, 5, 6]
    # Whole pixels: 6 cells over the box widened by 6/4 and truncated, 0..12 by -1..11, plus one.
    assert np.flatnonzero(whole.any(axis=0)).tolist() == [4, 5, 6, 7, 8]
    exact = np.full((1, 28, 28), 0.5, np.float32)
    assert paste_masks(exact, np.array([[0.0, 0, 8, 8]]), (8, 8), 0.5, "grid")[0, 4, 4]
    assert not paste_masks(exact, np.array([[0.0, 0, 8, 8]]), (8, 8), 0.5, "integer_box")[0, 4, 4]  # above, not from


def test_26_mask_targets_are_the_objects_part_of_the_roi_and_hard() -> None:
    # torchvision's are soft; the loss of its own step is met within 3 %: test_golden_training.py.
    triangle = jnp.tril(jnp.ones((1, 8, 8), jnp.uint8))
    box, roi = jnp.array([[0.0, 0, 8, 8]]), jnp.array([[0.0, 4, 8, 12]])
    found = sample_mask_targets(triangle, box, roi, jnp.zeros(1, jnp.int32), output_size=4)
    assert found[0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_27_keypoint_cells_are_half_open_but_for_the_last() -> None:
    roi = jnp.array([[10.0, 20, 66, 76]])
    points = jnp.array([[[10, 20, 2], [66, 76, 1], [65.99, 75.99, 2], [11, 21, 0], [9.9, 30, 2], [11, 22.5, 2]]])
    cells, valid = encode_keypoints(points.astype(jnp.float32), roi, size=56)
    assert valid[0].tolist() == [True, True, True, False, False, True]
    assert cells[0].tolist() == [0, 55 * 56 + 55, 55 * 56 + 55, 0, 0, 2 * 56 + 1]


def test_28_keypoints_are_decoded_bicubically() -> None:
    golden = load_golden("detectron2_keypoint_r50_fpn")
    boxes = golden["det_boxes_resized_frame"][:2]
    scale = np.array(golden["meta"]["original_size"])[::-1] / golden["image_size"][::-1]
    found = decode_keypoints(golden["det_keypoint_heatmaps"], boxes, "softmax")
    np.testing.assert_allclose(found[..., :2] * scale, golden["det_keypoints"][:2, :, :2], atol=1e-2)
    np.testing.assert_allclose(found[..., 2], golden["det_keypoints"][:2, :, 2], rtol=1e-3)
    logits = decode_keypoints(golden["det_keypoint_heatmaps"], boxes, "logit")
    assert (logits[..., 2] > 1).any()
    # PyTorch's kernel, a = -0.75, repeats borders: the last of 4 samples takes 1 + 0.10546875 of the last of 2 cells.
    corner = np.zeros((1, 1, 2, 2), np.float32)
    corner[..., 0, 1] = 1
    x, y, top = decode_keypoints(corner, np.array([[0, 0, 4, 4]]), "logit")[0, 0]
    assert (x, y) == (3.5, 0.5) and top == pytest.approx(1.10546875**2, rel=1e-5)
    many = decode_keypoints(np.tile(corner, (1, 300, 1, 1)), np.array([[0, 0, 4, 4]]), "logit")  # clothes have 294
    np.testing.assert_allclose(many, np.tile([x, y, top], (1, 300, 1)))


def test_29_keypoint_loss_is_the_mean_over_visible_points() -> None:
    logits = random(2, 3, 4, 4)
    cells, valid = jnp.array([[0, 5, 3], [15, 1, 2]]), jnp.array([[True, False, True], [False, False, True]])
    picked = [-np.log(oracles.softmax(logits[r, k].ravel()))[cells[r, k]] for r, k in ((0, 0), (0, 2), (1, 2))]
    assert keypoint_loss(jnp.asarray(logits), cells, valid) == pytest.approx(np.mean(picked), rel=1e-5)
    nothing = jnp.zeros_like(valid)
    value, gradient = jax.value_and_grad(keypoint_loss)(jnp.full((2, 3, 4, 4), jnp.nan), cells, nothing)
    assert value == 0 and not gradient.any()


def test_31_scores_and_boxes_stay_float32_in_bfloat16() -> None:
    head = KeypointHead(ModelConfig(num_keypoints=2, keypoint_head_convs=1, keypoint_head_dim=4, dtype="bfloat16"))
    found = jax.eval_shape(head.init_with_output, jax.random.key(0), jnp.zeros((1, 14, 14, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_32_c4_has_res5_as_head_and_fifteen_anchors_on_one_map() -> None:
    model = make_source(make_arrays("detectron2_r50_c4", {})).recognised.model
    assert (model.neck, model.anchors_per_cell, model.feature_strides, model.feature_channels) == (
        "c4",
        15,
        (16,),
        1024,
    )
    assert (model.box_pool_size, model.mask_size) == (14, 14)
    assert replace(model, neck="fpn").mask_size == 28
