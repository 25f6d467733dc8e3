"""ImageNet backbones for our ResNet: torchvision's and timm's, which share names, Hugging Face's, and Caffe2's.

Hugging Face's ResNets stride in the 3x3 convolution, like torchvision's. Caffe2's names are those of MSRA and FAIR.
Folded files use torchvision's names without batch norm: y = conv(x, weight) + bias replaces convolution and norm.
Caffe2's backbones take BGR and, except for FAIR's 32x8d, pixels that are not divided by their standard deviation; the
first kernel absorbs both. Stages may be missing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.named_leaves import count_not_finite
from mrcnn_jax.weights import detectron2, torchvision
from mrcnn_jax.weights.files import read_state_dict
from mrcnn_jax.weights.mapping import Row, advise, describe_bad_values

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""RGB, 0..255. All these backbones subtract the mean; torchvision's and FAIR's also divide by the deviation."""

DIVIDES = "resnext101_32x8d"
"""The only backbone with Caffe2's names that was trained on pixels divided by their standard deviation."""

SURPLUS = ("fc.", "fc1000", "pred_", "classifier.", "num_batches_tracked", "momentum", "lr", "weight_order")
"""Parts of the names of arrays that do not belong to the backbone: the classifier, and the state of training."""

Patterns = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

CAFFE2_NAMES: Patterns = (
    (r"_", "."),
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    (r"bn\.(?:s|gamma)$", "norm.weight"),
    (r"bn\.(?:bias|beta)$", "norm.bias"),
    (r"bn\.(?:rm|running\.mean)$", "norm.running_mean"),
    (r"bn\.(?:riv|running\.var)$", "norm.running_var"),
    (r"^res\.conv1\.norm\.", "conv1.norm."),
    (r"^conv1\.", "stem.conv1."),
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2([abc])\.", lambda match: f".conv{'abc'.index(match[1]) + 1}."),
)
"""Patterns that turn Caffe2's names into Detectron2's, applied in order."""


HUGGING_FACE_NAMES: Patterns = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.", lambda match: f"layer{int(match[1]) + 1}.{match[2]}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d)\.convolution\.", lambda match: f".conv{int(match[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda match: f".bn{int(match[1]) + 1}."),
)
"""Patterns that turn Hugging Face's names into torchvision's, applied in order."""

PREFIXES = ("backbone.", "resnet.")
"""Names of the backbone in classifiers; the other arrays of these belong to the classifier."""


def read_backbone(path: Path, model_config: ModelConfig) -> dict[str, np.ndarray]:
    """Returns leaves of our tree by name, from a backbone in one of the known naming schemes.

    frozen_bn and sync_bn take the values of the norms; group_norm takes only the kernels. Raises DataError if the file
    is not such a backbone, and ConfigError if the model would use it differently than it was trained.
    """
    arrays = read_state_dict(path).arrays
    for prefix in PREFIXES:
        if any(name.startswith((f"{prefix}conv1.", f"{prefix}embedder.")) for name in arrays):
            inside = {name: array for name, array in arrays.items() if name.startswith(prefix)}
            arrays = {name.removeprefix(prefix): array for name, array in inside.items()}
    if any(name.startswith("embedder.embedder.") for name in arrays):
        arrays = {_renamed(name, HUGGING_FACE_NAMES): array for name, array in arrays.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(f"{path}: {name} is not finite in {count_not_finite(array)}. Download the file again.")
    if any(re.match(r"(conv1|res\d_\d+_branch\w+)_w$", name) for name in arrays):
        arrays = {_renamed(name, CAFFE2_NAMES): array for name, array in arrays.items() if not _is_surplus(name)}
        arrays = _with_statistics(arrays, model_config.norm_eps)
        _check_caffe2(path, model_config)
        rows: Sequence[Row] = detectron2.backbone_rows(model_config, "", "backbone", is_bgr=True)
        rows = [*rows, *(detectron2.stage_rows(model_config, 3, "", "res5") if model_config.neck == "c4" else [])]
        scale = np.asarray((1.0, 1.0, 1.0) if model_config.backbone == DIVIDES else model_config.pixel_std, np.float32)
    else:
        is_folded = "conv1.bias" in arrays or any(name.endswith("conv1.bias") for name in arrays)
        arrays = _unfolded(arrays, model_config.norm_eps) if is_folded else arrays
        rows, scale = torchvision.backbone_rows(model_config, "", "backbone"), np.ones(3, np.float32)
    return _apply(path, rows, arrays, model_config, scale)


def _apply(
    path: Path, rows: Sequence[Row], arrays: Mapping[str, np.ndarray], model_config: ModelConfig, scale: np.ndarray
) -> dict[str, np.ndarray]:
    by_source = {row.source: row for row in rows}
    leaves = {}
    for name, array in arrays.items():
        if _is_surplus(name):
            continue
        row = by_source.get(name)
        if row is None or array.ndim != (4 if row.target.endswith("kernel") else 1):
            raise DataError(f"{path}: {name} {list(array.shape)} is not part of a {model_config.backbone} backbone.")
        if model_config.norm == "group_norm" and not row.target.endswith("kernel"):
            continue
        leaf = row.convert(array)
        if problem := describe_bad_values(row, leaf, model_config.norm_eps):
            raise DataError(f"{path}: {problem}.{advise([problem])}")
        leaves[row.target] = leaf * scale.reshape(-1, 1) if row.target.endswith("stem/conv/kernel") else leaf
    return leaves


def _is_surplus(name: str) -> bool:
    return any(part in name for part in SURPLUS)


def _unfolded(arrays: Mapping[str, np.ndarray], eps: float) -> dict[str, np.ndarray]:
    """Returns the arrays with norms that add each convolution's bias and change nothing else."""
    unfolded = {}
    for name, array in arrays.items():
        module, _, kind = name.rpartition(".")
        if kind != "bias" or module.startswith("fc"):
            unfolded[name] = array
            continue
        norm = re.sub(r"downsample\.0$", "downsample.1", re.sub(r"conv(\d)$", r"bn\1", module))
        if array.ndim != 1:
            raise DataError(f"{name} {list(array.shape)} is not part of a ResNet backbone.")
        unfolded |= {f"{norm}.weight": np.ones_like(array), f"{norm}.bias": array}
    return _with_statistics(unfolded, eps)


def _with_statistics(arrays: Mapping[str, np.ndarray], eps: float) -> dict[str, np.ndarray]:
    """Returns the arrays with mean 0 and variance 1 - eps for norms that are only a scale and a shift."""
    full = dict(arrays)
    for name, array in arrays.items():
        norm = name.removesuffix(".bias")
        if norm != name and array.ndim == 1 and re.search(r"(norm|bn\d|downsample\.1)$", norm):
            full.setdefault(f"{norm}.running_mean", np.zeros_like(array))
            full.setdefault(f"{norm}.running_var", np.full_like(array, 1 - np.float32(eps)))
    return full


def _renamed(name: str, patterns: Patterns) -> str:
    for pattern, new in patterns:
        name = re.sub(pattern, new, name)
    return name


def _check_caffe2(path: Path, model_config: ModelConfig) -> None:
    """Raises DataError if the model has no bottlenecks, ConfigError if it strides or normalises unlike Caffe2's."""
    if not model_config.layout.has_bottlenecks:
        raise DataError(f"{path} has a backbone with bottlenecks, but {model_config.backbone} has none.")
    needs_1x1 = model_config.layout.groups == 1
    if model_config.stride_in_1x1 != needs_1x1:
        side, option = (1, "--model.stride-in-1x1") if needs_1x1 else (3, "--model.no-stride-in-1x1")
        raise ConfigError(f"{path} strides in its {side}x{side} convolutions: add {option}.")
    if not np.allclose(model_config.pixel_mean, IMAGENET_MEAN, atol=1e-3):
        raise ConfigError(f"{path} was trained with the pixel mean {IMAGENET_MEAN}: set --model.pixel-mean.")
    if model_config.backbone == DIVIDES and not np.allclose(model_config.pixel_std, IMAGENET_STD, rtol=1e-3):
        raise ConfigError(f"{path} was trained with the pixel deviation {IMAGENET_STD}: set --model.pixel-std.")
