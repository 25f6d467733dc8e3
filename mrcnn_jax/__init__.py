"""Mask R-CNN in JAX: training, inference and evaluation.

    from mrcnn_jax import Predictor
    detections = Predictor.load("weights/")([image])

Names are imported on first use, so that the core depends only on JAX, Flax, Optax, NumPy and jaxtyping.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrcnn_jax.config import Config as Config
    from mrcnn_jax.config import ModelConfig as ModelConfig
    from mrcnn_jax.config import TestConfig as TestConfig
    from mrcnn_jax.data.coco import coco_source as coco_source
    from mrcnn_jax.data.prepare import prepare as prepare
    from mrcnn_jax.errors import UserError as UserError
    from mrcnn_jax.evaluation.weights_scores import evaluate_weights as evaluate
    from mrcnn_jax.inference.predictor import Predictor as Predictor
    from mrcnn_jax.presets import load_preset as load_preset
    from mrcnn_jax.presets import preset_names as preset_names
    from mrcnn_jax.training.loop import train as train
    from mrcnn_jax.weights.folder import load_weights as load_weights

__version__ = "0.1.0"
__all__ = [  # noqa: RUF022 - in order of use
    "Predictor",
    "Config",
    "ModelConfig",
    "TestConfig",
    "load_preset",
    "preset_names",
    "prepare",
    "coco_source",
    "train",
    "evaluate",
    "load_weights",
    "UserError",
]

_HOMES = {
    "Predictor": "inference.predictor",
    "Config": "config",
    "ModelConfig": "config",
    "TestConfig": "config",
    "load_preset": "presets",
    "preset_names": "presets",
    "prepare": "data.prepare",
    "coco_source": "data.coco",
    "train": "training.loop",
    "evaluate": "evaluation.weights_scores:evaluate_weights",
    "load_weights": "weights.folder",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute or name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
