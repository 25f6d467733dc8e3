"""A small model learns twelve images by heart: everything between pixels and mask AP has to agree for that.

    python -m pytest -m slow tests/training/test_overfit.py
    OVERFIT_DATA=data/fruits_nuts:train python -m pytest -m slow tests/training/test_overfit.py    # on a prepared set

Takes about ten minutes on two CPU cores.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.shapes import shapes_source

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_twelve_images_are_learnt_by_heart(tmp_path: Path) -> None:
    data = os.environ.get("OVERFIT_DATA")
    if data is None:
        prepare(shapes_source(12, seed=0, stream=0), tmp_path / "data", "train")
        data = f"{tmp_path / 'data'}:train"
    command = [sys.executable, "scripts/train.py", "configs/overfit_tiny.py", "--workdir", str(tmp_path / "run")]
    # A process of its own: two devices and full optimisation instead of the suite's settings.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["JAX_NUM_CPU_DEVICES"] = "2"
    subprocess.run([*command, "--data.train", data, "--data.val", data], cwd=ROOT, env=environment, check=True)
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert scores["num_images"] == 12
    assert scores["segm"]["AP"] >= 0.9
    assert scores["bbox"]["AP"] >= 0.9
