"""Measures differences of features, objectness and deltas in bfloat16 from float32 on this device; prints JSON.

python scripts/_bfloat16.py configs/mask_rcnn_r50_fpn_1x.py --canvas 800x1344

Differences are relative, in the 2-norm, for random weights and a random image. They describe the arithmetic, not the
scores of a trained model.
"""

import _checkout  # isort: skip

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.benchmark import NUM_CLASSES, random_images, read_environment
from mrcnn_jax.config import Canvas, Config
from mrcnn_jax.models.mask_rcnn import MaskRCNN, init_variables


@dataclass(frozen=True)
class Arguments:
    config: command_line.Inline[Config]
    canvas: Canvas
    """Padded size of the network input."""


def main() -> None:
    config, options = command_line.split_preset()
    arguments = command_line.parse(
        Arguments(config, config.data.canvases[0]), __doc__ or "", options, usage="configs/NAME.py"
    )
    model_config = replace(arguments.config.model, num_classes=arguments.config.model.num_classes or NUM_CLASSES)
    images, image_hw = jax.device_put(random_images(arguments.canvas, 1))
    variables = init_variables(MaskRCNN(model_config), 0)

    def extract(dtype: Literal["float32", "bfloat16"], variables: Any, images: Any, image_hw: Any) -> dict[str, Any]:
        model = MaskRCNN(replace(model_config, dtype=dtype))
        features = model.apply(variables, images, image_hw, method=model.extract_features)
        logits, deltas = model.apply(variables, features, image_hw, method=model.score_anchors)
        outputs = {f"features_{level}": level_map for level, level_map in enumerate(features)}
        outputs |= {"objectness": jnp.concatenate(logits, axis=1), "deltas": jnp.concatenate(deltas, axis=1)}
        return {name: value.astype(jnp.float32) for name, value in outputs.items()}

    compiled = jax.jit(extract, static_argnums=0)
    exact = compiled("float32", variables, images, image_hw)
    rounded = compiled("bfloat16", variables, images, image_hw)
    differences = {
        name: float(jnp.linalg.norm(rounded[name] - value) / jnp.linalg.norm(value)) for name, value in exact.items()
    }
    print(json.dumps({**{name: float(f"{value:.3g}") for name, value in differences.items()}, **read_environment()}))


if __name__ == "__main__":
    _checkout.run_main(main, __file__)
