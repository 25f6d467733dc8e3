"""A predictor with the weights of a folder, which maps images to detections in pixels of the images."""

import difflib
import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import jax
import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.config.checks import coerce
from mrcnn_jax.data.transforms import with_keypoint_flip
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference.batches import PredictFn, assemble_batch, plan_batches, predict_images
from mrcnn_jax.inference.postprocessing import ImageDetections, restore_detections
from mrcnn_jax.inference.prediction_program import make_predict_fn
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.structures import Detections
from mrcnn_jax.weights.folder import load_weights


class Predictor:
    """Detects objects in images of any size: `predictor(images)`.

    It runs on the given devices and compiles once per canvas of the test config (with augmentation, twice per canvas
    and short side), for the first image that needs it or in `warm_up`. After that nothing is compiled, whatever the
    sizes and the number of images. Several threads may call it.
    """

    def __init__(
        self,
        variables: Mapping[str, Any],
        model_config: ModelConfig,
        test_config: TestConfig,
        categories: Sequence[Category],
        *,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Copies the variables to the devices.

        Args:
            variables: the model's collections, as in `Weights.variables`.
            categories: label k of the model is categories[k - 1].
            devices: devices to run on, each of which computes `test_config.batch_size` images of a batch; by default
                JAX's first one.
        """
        self.test_config = test_config
        self.categories = tuple(categories)
        self.model_config = with_keypoint_flip(model_config, categories) if test_config.augment_flip else model_config
        mesh = make_mesh(devices or jax.local_devices()[:1])
        self._batch_size = test_config.batch_size * mesh.size
        self._predict = _one_at_a_time(make_predict_fn(variables, self.model_config, test_config, mesh))

    @classmethod
    def load(cls, path: str | Path, **test_overrides: Any) -> "Predictor":
        """Returns the predictor of a weights folder or workdir; `test_overrides` replace fields of TestConfig.

        Raises DataError for a damaged or missing folder, and ConfigError for an unknown or invalid override.
        """
        test_overrides = dict(test_overrides)
        check_override_names(test_overrides)
        weights = load_weights(path)
        test = override_test(weights.test, test_overrides)
        return cls(weights.variables, weights.model, test, weights.categories)

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[str] | None = None) -> list[ImageDetections]:
        """Returns the detections of each image, in the order of the images.

        Args:
            images: list of uint8 RGB arrays [H, W, 3] of any size.
            names: names of the images for a NumericalError; images[0], images[1], ... by default.

        Raises:
            ValueError: an image does not have this type and shape.
            NumericalError: the network computed NaN or infinity for an image.
        """
        images = [check_image(image, index) for index, image in enumerate(_as_sequence(images))]
        called = dict(enumerate(names or [f"images[{index}]" for index in range(len(images))]))
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        batches = (
            assemble_batch(
                plan.indices, [images[index] for index in plan.indices], plan.canvas, self.test_config, self._batch_size
            )
            for plan in plan_batches(sizes, self.test_config, self._batch_size)
        )
        found = {
            index: restore_detections(
                detections,
                resized_hw,
                sizes[index],
                categories=self.categories,
                test_config=self.test_config,
                name=functools.partial(called.__getitem__, index),
            )
            for index, resized_hw, detections in predict_images(self._predict, batches)
        }
        return [found[index] for index in range(len(images))]

    def warm_up(self) -> None:
        """Compiles for every canvas, so that no later call has to."""
        for canvas in self.test_config.canvases:
            filler = assemble_batch((), [], canvas, self.test_config, self._batch_size)
            jax.block_until_ready(self._predict(filler.images, filler.image_hw, *filler.further))


def _one_at_a_time(predict_fn: PredictFn) -> PredictFn:
    """Returns the function for several threads: they do not compile the same program twice."""
    lock = threading.Lock()

    def predict(*inputs: Any) -> Detections:
        with lock:
            return predict_fn(*inputs)

    return predict


def check_image(image: Any, index: int) -> np.ndarray:
    """Returns the image as a NumPy array; raises ValueError unless it is uint8 RGB [H, W, 3]."""
    expected = f"Expected images[{index}] as a uint8 RGB array [height, width, 3] with values 0..255"
    if not hasattr(image, "__array__"):
        raise ValueError(f"{expected}, got {type(image).__name__}.")
    array = np.asarray(image)
    if array.dtype.kind == "f":
        state = "NaN or infinity" if not np.isfinite(array).all() else f"values up to {array.max(initial=0.0):g}"
        raise ValueError(
            f"{expected}, got {array.dtype} with {state}. Scale to 0..255 and convert with .astype('uint8')."
        )
    if array.dtype != np.uint8:
        raise ValueError(f"{expected}, got dtype {array.dtype}.")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        hint = " Move the channels last with .transpose(1, 2, 0)." if array.ndim == 3 and array.shape[0] == 3 else ""
        raise ValueError(f"{expected}, got shape {array.shape}.{hint}")
    return array


def _as_sequence(images: Any) -> Sequence[Any]:
    """Returns the images as a list; ValueError for a single image, which would be treated as a list of its rows."""
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise ValueError(f"Expected a list of images, got one array of shape {images.shape}. Pass [image].")
    if not isinstance(images, (Sequence, np.ndarray)) or isinstance(images, (str, bytes)):
        raise ValueError(f"Expected a list of images, got {type(images).__name__}.")
    return list(images)


def override_test(test_config: TestConfig, overrides: Mapping[str, Any]) -> TestConfig:
    """Returns the test config with some fields replaced; ConfigError for a value of the wrong type or out of range."""
    hints = get_type_hints(TestConfig, include_extras=True)
    values = {name: coerce(hints[name], value) for name, value in overrides.items()}
    try:
        return replace(test_config, **values)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_override_names(overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError for a name that is not a field of TestConfig, and suggests the nearest one."""
    names = [field.name for field in fields(TestConfig)]
    for name in overrides:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise ConfigError(f"Unknown test setting {name}: did you mean {nearest}?")
