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
say "ruff check"
"$python" -m ruff check
say "ruff format --check"
"$python" -m ruff format --check
say "mypy"
"$python" -m mypy
say "pytest, two processes"
"$python" -m pytest -n 2 --dist worksteal "$@"
say "All passed."
