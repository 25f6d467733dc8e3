"""Flipped and resized variants of images: there and back, merged by hand, and the mirror law with a real network."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.data.transforms import fit_size
from mrcnn_jax.detection.predict import predict, predict_boxes, predict_masks_and_keypoints
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.evaluation.evaluate import evaluate
from mrcnn_jax.inference import augmentation, prediction_program
from mrcnn_jax.inference.batches import assemble_batch, predict_images
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.prediction_program import make_predict_fn, make_prediction_program
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.ops.nms import suppress_overlaps
from mrcnn_jax.structures import Detections
from tests import tiny
from tests.evaluation.test_evaluate import TEST as RECTANGLES
from tests.evaluation.test_evaluate import Images, RectangleFinder

MIRRORED = (1, 0, 2)
CATEGORIES = tuple(Category(k, f"c{k}", ("left_eye", "right_eye", "nose")) for k in (1, 2, 3))
MODEL = replace(tiny.MODEL, backbone="resnet18", num_keypoints=3, keypoint_head_dim=16, keypoint_head_convs=1)
# Floats are resized to the mirrored numbers, bytes to others after rounding. Both short sides have the same canvas, and
# so one compilation.
TEST = TestConfig(
    short_side=64,
    max_side=96,
    canvases=((64, 96),),
    resize="float",
    score_threshold=0.2,
    pre_nms_top_n=40,
    post_nms_top_n=30,
    max_detections=10,
    max_candidates=64,
)
RNG = np.random.default_rng(0)


def found_in(boxes, scores, labels) -> Detections:
    """Detections of a batch of one image without masks and keypoints; a score of 0 is an empty slot."""
    scores = np.array([scores], np.float32)
    shape = scores.shape
    return Detections(
        boxes=np.array([boxes], np.float32),
        scores=scores,
        labels=np.array([labels], np.int32),
        masks=np.zeros((*shape, 0, 0), np.float32),
        heat_maps=np.zeros((*shape, 0, 0, 0), np.float32),
        valid=scores > 0,
    )


def variant(image_hw, *, is_flipped=False) -> augmentation.Variant:
    return augmentation.Variant(np.zeros((1, 128, 128, 3), np.uint8), np.array([image_hw], np.int32), is_flipped)


def test_further_short_sides_scale_the_whole_recipe():
    test = TestConfig(augment_flip=True, augment_short_sides=(400, 800, 400, 1000))
    half, large = augmentation.further_recipes(test, (1344, 800))
    assert (half.short_side, half.max_side, half.canvases) == (400, 667, ((672, 416),))
    assert (large.short_side, large.max_side, large.canvases) == (1000, 1667, ((1696, 1024),))
    assert not augmentation.is_augmented(half) and not augmentation.is_augmented(TestConfig())
    assert augmentation.is_augmented(test) and augmentation.is_augmented(TestConfig(augment_short_sides=(400,)))
    assert augmentation.without_augmentation(test) == TestConfig()
    with pytest.raises(ValueError, match=r"augment_short_sides: expected 1 or more, got \(0,\)"):
        TestConfig(augment_short_sides=(0,))


@pytest.mark.parametrize("image_hw", [(480, 640), (640, 480), (500, 333), (10, 4000), (999, 1000), (1, 1)])
def test_every_image_fits_the_scaled_canvas_at_its_scaled_size(image_hw):
    test = TestConfig(augment_short_sides=(333, 640, 1201))
    new_hw, canvas = fit_size(image_hw, test.short_side, test.max_side, test.canvases)
    for recipe in augmentation.further_recipes(test, canvas):
        scaled_hw, scaled_canvas = fit_size(image_hw, recipe.short_side, recipe.max_side, recipe.canvases)
        assert np.all(np.array(scaled_hw) <= scaled_canvas)
        np.testing.assert_allclose(scaled_hw, np.array(new_hw) * recipe.short_side / test.short_side, rtol=0.01, atol=1)


def test_images_come_at_every_short_side_and_flips_stay_in_their_corner():
    test = replace(TEST, augment_flip=True, augment_short_sides=(96, 60), resize="opencv")
    image = RNG.integers(1, 256, (64, 90, 3), dtype=np.uint8)
    batch = assemble_batch((7,), [image], (64, 96), test, 2)
    assert [images.shape for images, _ in batch.further] == [(2, 96, 160, 3), (2, 64, 96, 3)]
    assert [image_hw.tolist() for _, image_hw in batch.further] == [[[96, 135], [0, 0]], [[60, 84], [0, 0]]]
    flipped = augmentation.flip_images(batch.images, batch.image_hw)
    np.testing.assert_array_equal(flipped[0, :64, :90], image[:, ::-1])
    assert not flipped[0, :, 90:].any() and not flipped[1].any()
    np.testing.assert_array_equal(augmentation.flip_images(flipped, batch.image_hw), batch.images)
    variants = augmentation.make_variants([(batch.images, batch.image_hw), *batch.further], flip=True)
    assert [(len(v.images[0]), v.is_flipped) for v in variants] == [(n, flip) for flip in (0, 1) for n in (64, 96, 64)]


def test_heat_maps_flipped_twice_are_the_same_and_once_exchange_left_and_right():
    maps = RNG.normal(size=(2, 5, 3, 7, 7)).astype(np.float32)
    once = augmentation.flip_heat_maps(maps, MIRRORED)
    np.testing.assert_array_equal(augmentation.flip_heat_maps(once, MIRRORED), maps)
    np.testing.assert_array_equal(once[1, 4, 0, 2, 0], maps[1, 4, 1, 2, 6])
    np.testing.assert_array_equal(once[1, 4, 2, 2, 0], maps[1, 4, 2, 2, 6])
    assert augmentation.flip_heat_maps(np.zeros((2, 5, 0, 0, 0)), ()).shape == (2, 5, 0, 0, 0)


def test_boxes_move_between_frames_and_back():
    ours = found_in([(10, 20, 40, 30), (0, 0, 64, 64), (1, 2, 3, 4)], (0.9, 0.8, 0.0), (1, 2, 0))
    mine, plain, flipped = (variant(hw, is_flipped=flip) for hw, flip in (((64, 64), 0), ((32, 128), 0), ((64, 64), 1)))
    moved = augmentation.to_variant(ours, plain, mine.image_hw)
    np.testing.assert_array_equal(moved.boxes[0], [(20, 10, 80, 15), (0, 0, 128, 32), (0, 0, 0, 0)])  # none is zeros
    mirror = augmentation.to_variant(ours, flipped, mine.image_hw)
    np.testing.assert_array_equal(mirror.boxes[0], [(24, 20, 54, 30), (0, 0, 64, 64), (0, 0, 0, 0)])
    for there in (plain, flipped, variant((61, 77), is_flipped=True)):
        back = augmentation.to_reference(augmentation.to_variant(ours, there, mine.image_hw), there, mine.image_hw)
        np.testing.assert_allclose(back.boxes[0, :2], ours.boxes[0, :2], atol=1e-5)


def test_duplicates_of_two_variants_are_merged_within_their_class_and_the_best_kept():
    plain = found_in([(10, 10, 20, 20), (40, 40, 60, 60), (0, 0, 5, 5)], (0.8, 0.6, 0.1), (1, 1, 2))
    # In the flipped image, twice as large and 64 wide in the reference: the first box again and shifted by one pixel,
    # the second as another class, an empty slot.
    flipped = found_in([(88, 20, 110, 40), (8, 80, 48, 120), (0, 0, 128, 128)], (0.9, 0.5, 0.0), (1, 2, 0))
    variants = [variant((64, 64)), variant((128, 128), is_flipped=True)]
    test = replace(TEST, max_detections=3, nms_threshold=0.5)
    merged = augmentation.merge_detections([plain, flipped], variants, test)
    np.testing.assert_array_equal(merged.boxes[0], [(9, 10, 20, 20), (40, 40, 60, 60), (40, 40, 60, 60)])
    np.testing.assert_array_equal(merged.scores, np.float32([[0.9, 0.6, 0.5]]))
    assert merged.labels.tolist() == [[1, 1, 2]] and merged.valid.all()
    kept = augmentation.merge_detections([plain, flipped], variants, replace(test, nms_threshold=0.95))
    assert kept.scores[0].tolist() == np.float32([0.9, 0.8, 0.6]).tolist()  # IoU 10 / 11 is less
    nothing = found_in(np.zeros((3, 4)), (0, 0, 0), (0, 0, 0))
    assert not augmentation.merge_detections([nothing, nothing], variants, test).valid.any()


def test_suppression_equals_the_networks_own():
    corners = RNG.integers(0, 30, (80, 2))
    boxes = np.concatenate([corners, corners + RNG.integers(1, 20, (80, 2))], -1).astype(np.float32)
    scores, labels = RNG.permutation(80).astype(np.float32), RNG.integers(1, 3, 80).astype(np.int32)
    scores[::9] = -np.inf
    arrays = (jnp.asarray(array) for array in (boxes, scores, np.isfinite(scores), labels))
    expected = suppress_overlaps(*arrays, iou_threshold=0.3, max_kept=80)
    kept = augmentation.suppress(boxes, scores, labels, iou_threshold=0.3)
    assert kept.tolist() == np.asarray(expected.indices)[np.asarray(expected.valid)].tolist()
    assert 5 < len(kept) < 70


def test_flips_need_the_keypoints_names():
    flipped = replace(TEST, augment_flip=True)
    with pytest.raises(ConfigError, match=r"17 keypoints, but model\.keypoint_flip has 0 indices"):
        augmentation.check_keypoint_flip(flipped, ModelConfig(num_keypoints=17))
    with pytest.raises(ConfigError, match=r"3 keypoints, but model\.keypoint_flip has 2 indices"):
        make_prediction_program(replace(MODEL, keypoint_flip=(1, 0)), flipped, make_mesh())


def make_image() -> np.ndarray:
    return np.asarray(tiny.make_batch(1, (64, 90), seed=1).images[0])


def test_boxes_and_then_the_rest_are_the_whole_prediction():
    """One program for both, so that it is compiled once."""
    model, images, image_hw = MaskRCNN(MODEL), np.zeros((2, 64, 96, 3), np.uint8), np.array([(64, 90), (0, 0)])
    images[0, :, :90] = make_image()

    @jax.jit
    def both(variables, images, image_hw):
        boxes = predict_boxes(variables, images, image_hw, model=model, test_config=TEST)
        completed = predict_masks_and_keypoints(variables, images, image_hw, boxes, model=model)
        return completed, predict(variables, images, image_hw, model=model, test_config=TEST), boxes

    completed, whole, boxes = jax.device_get(both(tiny.make_variables(MODEL), images, image_hw))
    assert whole.valid[0].sum() >= 3 and whole.heat_maps.std() > 0 and whole.masks.std() > 0
    jax.tree.map(np.testing.assert_array_equal, completed, whole)
    assert boxes.masks.shape == (2, 10, 0, 0) and boxes.heat_maps.shape == (2, 10, 0, 0, 0)

    # The same through the host, with the one variant that there is.
    predict_fn = augmentation.augment(lambda images, image_hw: boxes, lambda *inputs: completed, TEST, MIRRORED)
    jax.tree.map(np.testing.assert_array_equal, predict_fn(images, image_hw), whole)


def mirror_image(found: ImageDetections, width: int) -> ImageDetections:
    x0, y0, x1, y1 = found.boxes.T
    x, y, score = np.moveaxis(found.keypoints[:, list(MIRRORED)], -1, 0)
    return replace(
        found,
        boxes=np.stack([width - x1, y0, width - x0, y1], -1),
        mask_probabilities=found.mask_probabilities[..., ::-1],
        keypoints=np.stack([width - x, y, score], -1),
    )


def test_a_mirrored_image_has_the_mirrored_prediction_and_warm_up_compiles_everything(monkeypatch):
    traced = []

    def counting(part):
        def run(variables, images, *inputs, **settings):
            traced.append((part.__name__, images.shape))
            return part(variables, images, *inputs, **settings)

        return run

    for part in (predict_boxes, predict_masks_and_keypoints):
        monkeypatch.setattr(prediction_program, part.__name__, counting(part))
    test = replace(TEST, augment_flip=True, augment_short_sides=(60,))
    predictor = Predictor(tiny.make_variables(MODEL), MODEL, test, CATEGORIES)
    predictor.warm_up()
    assert traced == [("predict_boxes", (1, 64, 96, 3)), ("predict_masks_and_keypoints", (1, 64, 96, 3))]
    image = make_image()
    ours, mirrored = predictor([image, np.ascontiguousarray(image[:, ::-1])])
    assert len(traced) == 2  # nothing was compiled after warm_up
    assert isinstance(ours, ImageDetections) and ours.mask_probabilities.dtype == ours.keypoints.dtype == np.float32
    assert len(ours) >= 5 and ours.masks.shape == (len(ours), 64, 90) and ours.keypoints.shape == (len(ours), 3, 3)
    expected = mirror_image(ours, 90)
    # Sums over mirrored pixels differ in their last bits, and every layer enlarges that.
    for name in ("boxes", "scores", "labels", "mask_probabilities", "keypoints"):
        np.testing.assert_allclose(getattr(mirrored, name), getattr(expected, name), rtol=1e-3, atol=1e-3)


def test_evaluation_with_augmentation_finds_the_same_rectangles():
    test = replace(RECTANGLES, augment_flip=True, augment_short_sides=(96,), max_detections=4)
    finder = RectangleFinder()
    predict_fn = augmentation.augment(
        lambda *inputs: replace(finder(*inputs), masks=np.zeros((1, 4, 0, 0), np.float32)),
        lambda images, image_hw, boxes: replace(boxes, masks=np.full((1, 4, 28, 28), 0.75, np.float32)),
        test,
        (),
    )
    evaluation = evaluate(Images(), predict_fn, test_config=test)
    assert {shape[1:3] for shape in finder.shapes} == {(64, 96), (96, 64), (96, 160), (160, 96)}
    for kind in ("bbox", "segm"):
        assert evaluation.metrics[kind]["AP50"] == evaluation.metrics[kind]["AP75"] == 1.0
    assert len(evaluation.results) == 2 * 7  # each rectangle once, although four variants found it


@pytest.fixture
def traced(monkeypatch):
    """Puts stand-ins for the network in place, and lists the input shapes that they were traced for.

    They find a box as large as the image, whose mask is the brightness of the first eight pixels of eight rows.
    """
    shapes = []

    def boxes(variables, images, image_hw, *, model, test_config):
        shapes.append(images.shape)
        sides = image_hw[:, ::-1].astype(jnp.float32)
        ones = jnp.ones((len(images), 1))
        return Detections(
            boxes=jnp.concatenate([0 * sides, sides], -1)[:, None],
            scores=ones * variables["score"],
            labels=ones.astype(jnp.int32),
            masks=jnp.zeros((len(images), 1, 0, 0)),
            heat_maps=jnp.zeros((len(images), 1, 0, 0, 0)),
            valid=image_hw[:, :1] > 0,
        )

    def masks(variables, images, image_hw, detections, *, model):
        shapes.append(images.shape)
        return replace(detections, masks=images[:, None, :8, :8, 0] / jnp.float32(255.0))

    monkeypatch.setattr(prediction_program, "predict_boxes", boxes)
    monkeypatch.setattr(prediction_program, "predict_masks_and_keypoints", masks)
    return shapes


def test_the_predictor_compiles_each_part_once_for_each_size_and_canvas(traced):
    test = replace(RECTANGLES, augment_flip=True, augment_short_sides=(96,), max_detections=1)
    predictor = Predictor({"score": np.float32(0.5)}, ModelConfig(), test, CATEGORIES)
    predictor.warm_up()
    shapes = [(1, 64, 96, 3), (1, 96, 160, 3), (1, 96, 64, 3), (1, 160, 96, 3)]
    assert sorted(traced) == sorted(2 * shapes)
    found = predictor([np.zeros((*size, 3), np.uint8) for size in ((7, 300), (50, 40), (64, 96))])
    assert [one.boxes.tolist() for one in found] == [[[0, 0, 300, 7]], [[0, 0, 40, 50]], [[0, 0, 96, 64]]]
    assert len(traced) == 8


def test_the_compiled_parts_run_on_several_devices(traced):
    test = replace(RECTANGLES, augment_flip=True, max_detections=1)
    predict_fn = make_predict_fn({"score": np.float32(0.5)}, ModelConfig(), test, make_mesh(jax.devices()[:2]))
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :8] = 100
    batches = [assemble_batch((k,), [image], (64, 96), test, 2) for k in range(2)]
    for _, _, detections in predict_images(predict_fn, batches):
        assert detections.valid.all() and detections.scores.tolist() == [0.5]
        np.testing.assert_allclose(detections.boxes, [[0, 0, 96, 64]])
        np.testing.assert_allclose(detections.masks, 50 / 255, rtol=1e-6)  # the flipped image is dark there
    assert traced == [(1, 64, 96, 3)] * 2  # of each device's share


def test_without_augmentation_nothing_is_added():
    assert assemble_batch((0,), [make_image()], (64, 96), TEST, 1).further == ()
