#!/usr/bin/env bash
# Runs all checks: lint, format, types and tests. Creates its own .venv; PYTHON selects the interpreter.
#   bash scripts/test.sh            # the fast suite, and the documentation
#   bash scripts/test.sh -m slow    # arguments go to pytest; the documentation is not built
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/_environment.sh
export PYTHONNOUSERSITE=1
unset PYTHONPATH

prepare_environment requirements-dev.txt
# The tests set their own compiler flags (tests/xla.py); these two checks run with the flags of users. The training step
# and RoIAlign take too long to compile here, but the model contains RoIAlign. One command occupies one core, so the
# first check runs concurrently with lint and types.
say "With the flags of users: check_machine.py"
checks=known-faults,convolutions,products,layers,levels,mask-targets,deltas,matching,nms,top-k,losses,devices
"$python" scripts/check_machine.py --quick --only "$checks" >/dev/null &
checking=$!
trap 'kill "$checking" "${building:-$checking}" 2>/dev/null || true' EXIT
say "ruff check"
"$python" -m ruff check
say "ruff format --check"
"$python" -m ruff format --check
say "mypy"
"$python" -m mypy
say "With the flags of users: a model against torchvision"
stages=(tests/weights/test_golden.py::test_{input,features,rpn,anchors,proposals,box_head,detections})
seen=("${stages[@]/%/[torchvision_maskrcnn_resnet50_fpn]}")
FLAGS_OF_USERS=1 "$python" -m pytest -q "${seen[@]}"
if (($# == 0)); then
  say "The documentation, with its notebook"
  XLA_FLAGS=$("$python" -c 'from tests.xla import FAST_TO_COMPILE; print(FAST_TO_COMPILE)') \
    "$python" -m sphinx -W --keep-going -q -b html docs build/site &
  building=$!
fi
wait "$checking"
# The compiler frees and allocates many small blocks of memory. Letting glibc keep more of them saves an eighth of its
# time.
export GLIBC_TUNABLES=glibc.malloc.tcache_count=2000:glibc.malloc.trim_threshold=1073741824
GLIBC_TUNABLES+=:glibc.malloc.top_pad=67108864:glibc.malloc.mmap_threshold=1073741824
say "pytest: all other tests, in two processes"
"$python" -m pytest -n 2 --dist worksteal "${seen[@]/#/--deselect=}" "$@"
if (($# == 0)); then wait "$building"; fi
say "All passed."
