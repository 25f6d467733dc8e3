"""Mask R-CNN in JAX: a functional reference implementation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrcnn_jax.inference.predictor import Predictor as Predictor

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Predictor`, imported at its first use: the core has to import without what the predictor needs."""
    if name == "Predictor":
        from mrcnn_jax.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
