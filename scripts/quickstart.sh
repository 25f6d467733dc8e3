#!/usr/bin/env bash
# Runs Mask R-CNN from nothing: .venv, requirements, generated images, training, COCO scores, drawn predictions.
#   bash scripts/quickstart.sh [WORKDIR]      # default runs/quickstart; a second call reuses what exists
# The variable PYTHON selects the interpreter (3.11 to 3.13).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/_environment.sh
export PYTHONNOUSERSITE=1
unset PYTHONPATH
# One simulated device per core: XLA's own threads leave a second core half idle; a sharded step does not.
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-2}
run=${1:-runs/quickstart}

prepare_environment requirements.txt

say "Data: generated images of overlapping shapes in $run/data"
"$python" scripts/prepare_data.py shapes --to "$run/data" >/dev/null

say "Training configs/shapes_tiny.py in $run (continues where it was stopped)"
"$python" scripts/train.py configs/shapes_tiny.py --workdir "$run" --data.train "$run/data:train" --data.val "$run/data:val"

if [ ! "$run/predictions/predictions.json" -nt "$run/weights" ]; then
  say "Predicting eight new images"
  "$python" - "$run/new_images" <<'PYTHON'
"""Writes eight generated images that are neither in the training nor in the validation data."""

import sys
from pathlib import Path

from mrcnn_jax.data.shapes import shapes_source

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
source = shapes_source(8, seed=0, stream=2)
for image in map(source.load, range(source.num_images)):
    (folder / image.file_name).write_bytes(image.data)
PYTHON
  "$python" scripts/predict.py --weights "$run" --output "$run/predictions" --overwrite "$run/new_images"
fi

echo
cat "$run/evaluation.txt"
echo
echo "Validation images with ground truth beside predictions:"
ls -1 "$run"/pictures/*.png
echo "Predictions on new images, also in $run/predictions/predictions.json:"
ls -1 "$run"/predictions/pictures/*
say "Done. For your own images, run: .venv/bin/python scripts/predict.py --weights $run --output DIR IMAGE..."
