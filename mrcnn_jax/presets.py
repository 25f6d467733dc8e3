"""Presets: files that define `config = Config(...)`, found by name or by path."""

import difflib
import runpy
from pathlib import Path

from mrcnn_jax.config import Config
from mrcnn_jax.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent


def presets_folder() -> Path:
    """Returns the folder `configs` of a checkout, or its copy in an installed package."""
    installed = PACKAGE / "preset_files"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def preset_names() -> list[str]:
    """Returns the names of this project's presets, such as `mask_rcnn_r50_fpn_1x`."""
    return sorted(path.stem for path in presets_folder().glob("[!_]*.py"))


def load_preset(preset: str | Path) -> Config:
    """Returns the `config` of a preset: a name from `preset_names`, or the path of a file that defines `config`.

    Raises ConfigError for an unknown name, naming the closest preset, and for a file that does not define a Config.
    """
    path = Path(preset)
    if not path.is_file():
        path = presets_folder() / f"{path.stem}.py"
    if not path.is_file():
        names = preset_names()
        close = difflib.get_close_matches(path.stem, names, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"There is no preset {preset}: {hint}The presets are {', '.join(names)}.")
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as exception:  # the file may raise anything
        raise ConfigError(f"{path}: {type(exception).__name__}: {exception}") from exception
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: expected a file that defines `config = Config(...)`, got {type(config).__name__}.")
    return config
