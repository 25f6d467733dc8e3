"""ImageNet bodies as .npz in torchvision's names, batch norm folded into the convolutions, for our ResNet.

Such a file holds `conv1.weight` [out, in, h, w], `conv1.bias` [out], `layer1.0.conv1.weight`, ...,
`layer2.0.downsample.0.weight`, ...; y = conv(x, weight) + bias replaces convolution and norm. Stages may be missing.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import DataError

MAX_BYTES = 2**31
"""Files that unpack to more are refused: the largest body has 240 MB."""


def read_body(path: Path, model: ModelConfig) -> dict[str, np.ndarray]:
    """Leaves of our tree by name, from a file in torchvision's names.

    With frozen_bn the biases become the shift of a norm that changes nothing else, so that the body computes the same;
    other norms take the kernels alone. Raises DataError for a file that is no such body.
    """
    leaves: dict[str, np.ndarray] = {}
    for source, array in _read_npz(path).items():
        module, _, kind = source.rpartition(".")
        name = _module_name(module)
        if name is None or kind not in ("weight", "bias") or array.ndim != (4 if kind == "weight" else 1):
            raise DataError(
                f"{path}: {source} {list(array.shape)} is not part of a ResNet body with folded batch norm."
            )
        if not np.isfinite(array).all():
            raise DataError(f"{path}: {source} is not finite. Download the file again.")
        array = array.astype(np.float32)
        if kind == "weight":
            leaves[f"params/backbone/{name}/conv/kernel"] = array.transpose(2, 3, 1, 0)  # [h, w, in, out]
        elif model.norm == "frozen_bn":
            leaves |= _shift_only(f"frozen/backbone/{name}/norm", array, model.norm_eps)
    return leaves


def _read_npz(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(f"{path} unpacks to {size} bytes, more than any body has.")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} is not readable as .npz: {reason}.") from error


def _module_name(module: str) -> str | None:
    """`conv1` -> `stem`, `layer2.0.conv1` -> `layer2_0/conv1`, `layer2.0.downsample.0` -> `layer2_0/downsample`."""
    if module == "conv1":
        return "stem"
    match = re.fullmatch(r"(layer[1-4])\.(\d+)\.(conv[123]|downsample)(?:\.0)?", module)
    return None if match is None else f"{match[1]}_{match[2]}/{match[3]}"


def _shift_only(norm: str, shift: np.ndarray, eps: float) -> dict[str, np.ndarray]:
    """Constants of a frozen batch norm that computes x + shift."""
    ones = np.ones_like(shift)
    # The norm divides by sqrt(var + eps).
    return {
        f"{norm}/scale": ones,
        f"{norm}/bias": shift,
        f"{norm}/mean": 0 * ones,
        f"{norm}/var": ones - np.float32(eps),
    }
