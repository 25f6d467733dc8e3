"""Order, sizes, batching and refusals of the predictor, with a stand-in for the network; once with a real one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrcnn_jax
from mrcnn_jax.categories import Category
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.inference import prediction_program
from mrcnn_jax.inference import predictor as predictor_module
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.structures import Detections
from mrcnn_jax.weights.folder import Weights, save_weights

CATEGORIES = (Category(2, "dark"), Category(5, "light"))
TEST = TestConfig(short_side=64, max_side=96, canvases=((64, 96), (96, 64)), batch_size=2)
TINY = ModelConfig(
    backbone="resnet10",
    num_classes=2,
    norm="group_norm",
    fpn_channels=32,
    box_head_dim=32,
    mask_head_dim=32,
    mask_head_convs=1,
)


@pytest.fixture
def traced(monkeypatch):
    """Puts a stand-in for `predict` in place; the list of input shapes that it was traced for.

    It finds one object as large as the image, labelled by the brightness of the first pixel, which is its score.
    """
    shapes = []

    def predict(variables, images, image_hw, *, model, test_config):
        shapes.append(images.shape)
        height, width = image_hw[:, 0].astype(jnp.float32), image_hw[:, 1].astype(jnp.float32)
        brightness = images[:, 0, 0, 0].astype(jnp.float32) / 255.0 * variables["params"]["gain"]
        return Detections(
            boxes=jnp.stack([0 * width, 0 * width, width, height], -1)[:, None],
            scores=brightness[:, None],
            labels=1 + (brightness > 0.5).astype(jnp.int32)[:, None],
            masks=jnp.ones((len(images), 1, 28, 28)),
            heat_maps=jnp.zeros((len(images), 1, 0, 0, 0)),
            valid=(height > 0)[:, None],
        )

    monkeypatch.setattr(prediction_program, "predict", predict)
    return shapes


def make_predictor(test=TEST):
    return Predictor({"params": {"gain": np.float32(1.0)}}, TINY, test, CATEGORIES)


def grey_image(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def test_each_image_gets_its_own_detections_in_its_own_pixels(traced):
    sizes = [(30, 50), (50, 30), (200, 300), (1, 400), (400, 1), (64, 96), (7, 7)]
    images = [grey_image(*hw, 30 * k + 10) for k, hw in enumerate(sizes)]
    found = make_predictor()(images)
    for k, ((height, width), detections) in enumerate(zip(sizes, found, strict=True)):
        np.testing.assert_allclose(detections.boxes, [[0, 0, width, height]], rtol=1e-6)
        np.testing.assert_allclose(detections.scores, [(30 * k + 10) / 255], rtol=1e-6)
        assert detections.labels.tolist() == ([5] if 30 * k + 10 > 127 else [2])
        assert detections.category_names == (["light"] if 30 * k + 10 > 127 else ["dark"])
        assert detections.masks.shape == (1, height, width) and detections.masks.dtype == bool
        assert detections.masks[0, height // 2, width // 2]
        assert detections.keypoints.shape == (1, 0, 3)


def test_nothing_is_compiled_after_warm_up_and_once_per_canvas_before(traced):
    predictor = make_predictor()
    predictor.warm_up()
    assert traced == [(2, 64, 96, 3), (2, 96, 64, 3)]
    rng = np.random.default_rng(0)
    for count in (1, 2, 5):
        assert len(predictor([grey_image(*rng.integers(1, 300, 2), 9) for _ in range(count)])) == count
    assert len(traced) == 2
    assert predictor([]) == []


def test_a_image_gives_the_same_result_alone_and_among_others(traced):
    predictor = make_predictor()
    images = [grey_image(40 + 7 * k, 60, 20 * k) for k in range(5)]
    together = predictor(images)
    for alone, among in zip((predictor([one])[0] for one in images), together, strict=True):
        np.testing.assert_array_equal(alone.boxes, among.boxes)
        np.testing.assert_array_equal(alone.scores, among.scores)


def test_memory_layout_does_not_matter(traced):
    predictor = make_predictor()
    plain = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    read_only = plain.copy()
    read_only.setflags(write=False)
    strided = np.repeat(plain, 2, axis=1)[:, ::2]
    for variant in (read_only, np.asfortranarray(plain), strided, jnp.asarray(plain)):
        assert predictor([variant])[0].scores == predictor([plain])[0].scores


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 9, 3), np.float32), r"images\[1\].*float32 with values up to 0"),
        (np.full((8, 9, 3), np.nan), "NaN or infinity"),
        (np.zeros((8, 9, 3), np.int32), "dtype int32"),
        (np.zeros((8, 9), np.uint8), r"shape \(8, 9\)"),
        (np.zeros((8, 9, 4), np.uint8), r"shape \(8, 9, 4\)"),
        (np.zeros((3, 8, 9), np.uint8), "channels last"),
        (np.zeros((0, 9, 3), np.uint8), r"shape \(0, 9, 3\)"),
        ("photo.jpg", "got str"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_uint8_rgb_image_is_refused(traced, image, message):
    with pytest.raises(ValueError, match=message):
        make_predictor()([grey_image(8, 9, 1), image])
    assert traced == []


@pytest.mark.parametrize("images", [grey_image(8, 9, 1), "photo.jpg", None])
def test_a_single_image_must_be_in_a_list(traced, images):
    with pytest.raises(ValueError, match="Expected a list of images"):
        make_predictor()(images)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"scor_threshold": 0.1}, "scor_threshold: did you mean score_threshold"),
        ({"short_side": "480"}, "short_side: expected a whole number, got '480'"),
        ({"short_side": 480.5}, "whole number"),
        ({"max_detections": True}, "whole number"),
        ({"score_threshold": float("nan")}, "score_threshold: expected 0 to 1, got nan"),
        ({"min_detection_side": float("inf")}, "finite number, got inf"),
        ({"canvases": [(64, 90)]}, "multiples of 32"),
        ({"canvases": "64x96"}, "expected canvases"),
        ({"batch_size": 0}, "batch_size"),
        ({"keypoint_sigmas": 0.05}, "keypoint_sigmas: expected numbers such as .* got 0.05"),
        ({"keypoint_sigmas": ["0.05"]}, "keypoint_sigmas: expected numbers"),
        ({"keypoint_sigmas": (0.05, 0.0)}, "keypoint_sigmas: expected a positive value"),
        ({"resize": "bicubic"}, "resize: expected one of opencv, pillow, float, got 'bicubic'"),
        ({"augment_flip": 1}, "augment_flip: expected True or False, got 1"),
        ({"augment_short_sides": [(64, 96)]}, "augment_short_sides: expected whole numbers"),
        ({"augment_short_sides": [0]}, "augment_short_sides: expected 1 or more"),
    ],
)
def test_bad_overrides_are_refused_with_the_nearest_name(monkeypatch, override, message):
    weights = Weights({}, TINY, TEST, CATEGORIES)
    monkeypatch.setattr(predictor_module, "load_weights", lambda path: weights)
    with pytest.raises(ConfigError, match=message):
        Predictor.load("weights", **override)


def test_overrides_replace_the_folders_test_settings(monkeypatch):
    weights = Weights({}, TINY, TEST, CATEGORIES)
    monkeypatch.setattr(predictor_module, "load_weights", lambda path: weights)
    test = Predictor.load("w", canvases=[[128, 128]], score_threshold=np.float32(0.25), max_detections=7).test_config
    assert test.canvases == ((128, 128),) and test.score_threshold == 0.25 and test.max_detections == 7
    assert test.short_side == 64
    assert Predictor.load("w", resize="pillow").test_config.resize == "pillow"
    assert Predictor.load("w", keypoint_sigmas=(0.05, np.float64(1))).test_config.keypoint_sigmas == (0.05, 1.0)
    test = Predictor.load("w", augment_flip=True, augment_short_sides=[48, 80]).test_config
    assert test.augment_flip is True and test.augment_short_sides == (48, 80)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Predictor.load(tmp_path / "nothing")


def test_the_package_exports_the_predictor():
    assert mrcnn_jax.Predictor is Predictor
    assert mrcnn_jax.__version__
    with pytest.raises(AttributeError, match="Nothing"):
        _ = mrcnn_jax.Nothing


def random_variables():
    """Not `init_variables`, which takes long to compile: small random numbers in the network's shapes."""
    rng = np.random.default_rng(0)
    shapes = variable_shapes(MaskRCNN(TINY))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes)


def test_a_weights_folder_becomes_sound_detections(tmp_path):
    test = TestConfig(
        short_side=64,
        max_side=96,
        canvases=((64, 96),),
        pre_nms_top_n=20,
        post_nms_top_n=10,
        score_threshold=0.0,
        max_detections=5,
        max_candidates=20,
    )
    save_weights(tmp_path / "weights", random_variables(), model_config=TINY, test_config=test, categories=CATEGORIES)
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    predictor = Predictor.load(tmp_path)  # a workdir
    assert predictor.categories == CATEGORIES
    (found,) = predictor([image])
    assert 0 < len(found) <= 5
    x0, y0, x1, y1 = found.boxes.T
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= 130).all() and (y1 <= 100).all() and (x1 > x0).all()
    assert (np.diff(found.scores) <= 0).all() and set(found.labels.tolist()) <= {2, 5}
    assert found.masks.shape == (len(found), 100, 130)


def test_only_flips_need_the_keypoints_names() -> None:
    categories = (Category(1, "person", ("nose", "neck")), Category(2, "car", ("wheel", "door")))
    config = ModelConfig(num_keypoints=2)
    Predictor({}, config, TestConfig(), categories)
    with pytest.raises(ValueError, match="the same keypoints"):
        Predictor({}, config, TestConfig(augment_flip=True), categories)
