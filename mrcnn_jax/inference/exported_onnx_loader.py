"""Detects objects with a model exported to ONNX. It needs onnxruntime and numpy, and neither mrcnn_jax nor JAX.

    from load import Detector                  # with the folder of this file on sys.path

    detector = Detector()                      # reads the folder of this file
    detections = detector(images)              # a list of uint8 RGB arrays [H, W, 3] of any size
    detections[0]["boxes"]                     # [n, 4] x0 y0 x1 y1 in pixels of the image

`mrcnn export --form onnx` writes this module as load.py, followed by those of which it uses functions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.inference.exported_inputs import fit_size, resize
from mrcnn_jax.inference.exported_outputs import is_finite, restore
from mrcnn_jax.inference.exported_selection import clip_boxes, decode_boxes, propose, select_detections, softmax

Arrays = dict[str, np.ndarray]


class OnnxDetector:
    """Detects objects in images of any size; description.json lists the arrays of a result under `results`.

    Proposals and detections are selected here, in NumPy, between the parts of the network.
    """

    def __init__(
        self,
        folder: str | Path = Path(__file__).parent,
        *,
        masks: str | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
    ) -> None:
        """Reads the files of all canvases.

        `masks` is "full" or "crops", by default what the export chose. `providers` are onnxruntime's devices in the
        order of preference, and `threads` its threads, 0 for one a core.
        """
        import onnxruntime

        folder = Path(folder)
        self.description = json.loads((folder / "description.json").read_text())
        self.masks = masks or self.description["masks"]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # constants that are not used would be a warning each
        options.intra_op_num_threads = threads
        self._parts = {
            tuple(canvas["canvas"]): {
                name: onnxruntime.InferenceSession(str(folder / file), options, providers=list(providers))
                for name, file in canvas["files"].items()
            }
            for canvas in self.description["programs"]
        }

    def __call__(self, images: Sequence[np.ndarray]) -> list[Arrays]:
        """Returns the detections of each image, best first.

        Raises ValueError for an image that is not uint8 RGB [H, W, 3], and FloatingPointError if the network computed
        NaN or infinity for one.
        """
        for index, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"Expected images[{index}] as uint8 [H, W, 3], got {image.dtype} {image.shape}.")
        return [self._detect(image, f"images[{index}]") for index, image in enumerate(images)]

    def _detect(self, image: np.ndarray, name: str) -> Arrays:
        settings = self.description["test"]
        (height, width), canvas = fit_size(image.shape[:2], settings)
        pixels = np.zeros((1, *canvas, 3), self.description["images_dtype"])
        pixels[0, :height, :width] = resize(image, (height, width), settings["resize"])
        inputs: Arrays = {"images": pixels, "image_hw": np.array([[height, width]], np.int32)}
        found = self._find(self._parts[canvas], inputs)
        if found is None or not is_finite(found):
            raise FloatingPointError(f"The network computed NaN or infinity for {name}.")
        return restore(found, inputs["image_hw"][0], image.shape[:2], self.description, self.masks)

    def _find(self, parts: dict[str, Any], inputs: Arrays) -> Arrays | None:
        """Returns padded detections in pixels of the canvas, or None for NaN or infinity in features or boxes."""
        description, image_hw = self.description, inputs["image_hw"][0]
        known = inputs | _run(parts["network"], inputs)
        if not all(np.isfinite(values).all() for values in known.values()):
            return None
        logits, deltas = (
            [known[f"{kind}_{level['stride']}"][0] for level in description["levels"]] for kind in ("logits", "deltas")
        )
        rois = propose(logits, deltas, image_hw, inputs["images"].shape[1:3], description)
        found = self._classify(parts, known, rois)
        if found is None:
            return None
        slots, count = description["test"]["max_detections"], len(found["scores"])
        padded = {name: _pad(values, slots) for name, values in found.items()}
        known |= {"rois": padded["boxes"][None], "labels": padded["labels"]}
        for name, shape in description["heads"].items():  # masks and heat maps; sizes of 0 without the head
            is_needed = count > 0 and name in parts
            padded[name] = _run(parts[name], known)[name] if is_needed else np.zeros((slots, *shape), np.float32)
        return padded | {"valid": np.arange(slots) < count, "not_finite": np.array(0)}

    def _classify(self, parts: dict[str, Any], known: Arrays, rois: np.ndarray) -> Arrays | None:
        """Returns boxes, scores and labels of the detections among the proposals; None for NaN or infinity."""
        description, image_hw, count = self.description, known["image_hw"][0], len(rois)
        stages, scores = description["stages"], []
        for stage in stages:
            rows = _pad(rois, description["test"]["post_nms_top_n"])[None]
            outputs = _run(parts[stage["part"]], known | {"rois": rows})
            logits, deltas = outputs["class_logits"][:count], outputs["box_deltas"][:count]
            if not (np.isfinite(logits).all() and np.isfinite(deltas).all()):
                return None
            scores.append(softmax(logits))
            if len(stages) > 1:  # a cascade: each stage refines the boxes of the one before
                rois = clip_boxes(decode_boxes(deltas[:, 0], rois, stage["delta_weights"]), image_hw)

        def decode(proposal: np.ndarray, label: np.ndarray) -> np.ndarray:
            if len(stages) > 1:
                return rois[proposal]
            return decode_boxes(deltas[proposal, label], rois[proposal], stages[0]["delta_weights"])

        return select_detections(
            np.sum(scores, axis=0) / np.float32(len(stages)), decode, image_hw, description["test"]
        )


Detector = OnnxDetector
"""The name that the loaders of all forms of export share."""


def _run(session: Any, known: Arrays) -> Arrays:
    """Returns the outputs of a part of the network by name."""
    names = [output.name for output in session.get_outputs()]
    inputs = {each.name: known[each.name] for each in session.get_inputs()}
    return dict(zip(names, session.run(names, inputs), strict=True))


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    """Returns the rows followed by zeros up to `count` rows."""
    return np.concatenate([rows, np.zeros((count - len(rows), *rows.shape[1:]), rows.dtype)])
