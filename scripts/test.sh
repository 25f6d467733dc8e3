#!/usr/bin/env bash
# Everything that has to pass: lint, format, types, tests. Makes its own .venv; PYTHON picks the interpreter.
#   bash scripts/test.sh            # the fast suite
#   bash scripts/test.sh -m slow    # arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/_environment.sh
export PYTHONNOUSERSITE=1
unset PYTHONPATH

prepare_environment requirements-dev.txt
# Tests compile with flags of their own (tests/xla.py): these two run as users do. The training step and RoIAlign compile
# too long for here; the model has RoIAlign in it. One command keeps one core busy, so they run beside lint and types.
say "With the flags of users: check_machine.py"
checks=known-faults,convolutions,products,layers,levels,mask-targets,deltas,matching,nms,top-k,losses,devices
"$python" scripts/check_machine.py --quick --only "$checks" >/dev/null &
checking=$!
trap 'kill "$checking" 2>/dev/null || true' EXIT
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
wait "$checking"
# The compiler frees and asks again for small pieces of memory: glibc keeps more of them, an eighth of its time.
export GLIBC_TUNABLES=glibc.malloc.tcache_count=2000:glibc.malloc.trim_threshold=1073741824
GLIBC_TUNABLES+=:glibc.malloc.top_pad=67108864:glibc.malloc.mmap_threshold=1073741824
say "pytest, two processes, all other tests"
"$python" -m pytest -n 2 --dist worksteal "${seen[@]/#/--deselect=}" "$@"
say "All passed."
