"""Detects objects with an exported model. It needs jax, numpy and flatbuffers, and neither mrcnn_jax nor OpenCV.

    from load import Detector                  # with the folder of this file on sys.path

    detector = Detector()                      # reads the folder of this file
    detections = detector(images)              # a list of uint8 RGB arrays [H, W, 3] of any size
    detections[0]["boxes"]                     # [n, 4] x0 y0 x1 y1 in pixels of the image

`mrcnn export` writes this module as load.py, followed by those of which it uses functions.
"""

import importlib.metadata
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.inference.exported_inputs import fit_size, resize
from mrcnn_jax.inference.exported_outputs import is_finite, restore


class Detector:
    """Detects objects in images of any size; description.json lists the arrays of a result under `results`."""

    def __init__(
        self, folder: str | Path = Path(__file__).parent, *, batch_size: int | None = None, masks: str | None = None
    ) -> None:
        """Reads the programs for JAX's default platform, and the weights.

        `batch_size` fixes the number of images of a call, as the export may do: fewer are filled up, and more are
        split. Otherwise each new number of images compiles once. `masks` is "full" or "crops", by default what the
        export chose.
        """
        folder = Path(folder)
        self.description = json.loads((folder / "description.json").read_text())
        _set_flags(self.description["xla_flags"])
        import jax
        import jax.export

        fixed = self.description["batch_size"]
        if fixed and batch_size not in (None, fixed):
            raise ValueError(f"{folder} was exported for batches of {fixed} images, not {batch_size}.")
        self.batch_size, self.masks = fixed or batch_size, masks or self.description["masks"]
        platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        if platform not in self.description["programs"]:
            raise ValueError(f"{folder} has programs for {', '.join(self.description['programs'])}, not {platform}.")
        self._programs: dict[tuple[int, int], Callable[..., Any]] = {}
        for program in self.description["programs"][platform]:
            exported = jax.export.deserialize(bytearray((folder / program["file"]).read_bytes()))
            self._programs[tuple(program["canvas"])] = jax.jit(exported.call)
        with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
            self._weights = jax.device_put([arrays[name] for name in self.description["weights"]])

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Returns the detections of each image, best first.

        Raises ValueError for an image that is not uint8 RGB [H, W, 3], and FloatingPointError if the network computed
        NaN or infinity for one.
        """
        for index, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"Expected images[{index}] as uint8 [H, W, 3], got {image.dtype} {image.shape}.")
        settings = self.description["test"]
        fitted = [fit_size(image.shape[:2], settings) for image in images]
        found: dict[int, dict[str, np.ndarray]] = {}
        for canvas in dict.fromkeys(canvas for _, canvas in fitted):
            members = [index for index, (_, own) in enumerate(fitted) if own == canvas]
            size = self.batch_size or len(members)
            for batch in (members[start : start + size] for start in range(0, len(members), size)):
                inputs = np.zeros((size, *canvas, 3), self.description["images_dtype"])
                image_hw = np.zeros((size, 2), np.int32)
                for slot, index in enumerate(batch):
                    image_hw[slot] = height, width = fitted[index][0]
                    inputs[slot, :height, :width] = resize(images[index], (height, width), settings["resize"])
                outputs = self._programs[canvas](self._weights, inputs, image_hw)
                outputs = {name: np.asarray(values) for name, values in outputs.items()}
                for slot, index in enumerate(batch):
                    one = {name: values[slot] for name, values in outputs.items()}
                    if not is_finite(one):
                        raise FloatingPointError(f"The network computed NaN or infinity for images[{index}].")
                    found[index] = restore(one, image_hw[slot], images[index].shape[:2], self.description, self.masks)
        return [found[index] for index in range(len(images))]


def _set_flags(flags: Sequence[dict[str, str]]) -> None:
    """Adds the flags that this jaxlib needs for correct results or speed to XLA_FLAGS; warns if it is too late."""

    def release(version: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", version)[:3]]

    jaxlib, known = release(importlib.metadata.version("jaxlib")), os.environ.get("XLA_FLAGS", "").strip()
    if known and not known.startswith("-"):  # the name of a file
        return
    wanted = [flag for flag in flags if release(flag["first"]) <= jaxlib <= release(flag["last"])]
    missing = [flag for flag in wanted if flag["flag"].partition("=")[0] not in re.split(r"[\s=]+", known)]
    if "jax" not in sys.modules:
        os.environ["XLA_FLAGS"] = " ".join([known, *dict.fromkeys(flag["flag"] for flag in missing)]).strip()
    elif wrong := [flag["flag"] for flag in missing if flag["effect"] == "wrong"]:
        text = (
            f"This jaxlib computes wrong results. Make the Detector before jax is imported, or set XLA_FLAGS={wrong[0]}"
        )
        warnings.warn(text, RuntimeWarning, stacklevel=3)
