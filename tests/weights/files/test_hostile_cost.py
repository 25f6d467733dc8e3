"""No hostile file costs more than a second or 200 MB before it is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.weights.files.archive_cases import all_archives
from tests.weights.files.array_cases import all_arrays
from tests.weights.files.inert_cases import inert_cases
from tests.weights.files.pickle_cases import all_pickles

MAX_SECONDS = 1.0
MAX_GROWTH = 200_000  # kB

# A process of its own, since a process's peak never falls; of processor time, since tests run beside each other.
READ_ALL = """
import json, re, sys, time
from pathlib import Path
from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.files import read_state_dict

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

costs, before = {}, peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    started = time.process_time()
    try:
        read_state_dict(path)
        raise SystemExit(f"{path} was read")
    except DataError:
        costs[path.name] = (time.process_time() - started, peak() - before)
print(json.dumps(costs))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read as Linux tells it")
def test_hostile_files_cost_little(tmp_path: Path) -> None:
    files, work = tmp_path / "files", tmp_path / "work"
    files.mkdir()
    work.mkdir()
    cases = [*all_pickles(), *inert_cases(), *all_archives(), *all_arrays()]
    for case in cases:
        (files / case.name.replace("/", "_")).write_bytes(case.content)
    claims = {"length": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little"), "line": b"(S"}
    for label, start in claims.items():  # 150 MB that take no room on the disk
        with (files / f"sparse_{label}").open("wb") as file:
            file.write(start)
            file.truncate(150_000_000)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", READ_ALL, str(files)]
    run = subprocess.run(command, cwd=work, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120)
    shutil.rmtree(files)  # pytest would keep them
    assert run.returncode == 0, run.stderr
    costs = json.loads(run.stdout)
    assert len(costs) == len({case.name for case in cases}) + len(claims)
    slowest, largest = max(costs, key=lambda key: costs[key][0]), max(costs, key=lambda key: costs[key][1])
    print(f"{len(costs)} files; slowest {slowest} {costs[slowest][0]:.2f} s, largest {largest} {costs[largest][1]} kB")
    assert costs[slowest][0] < MAX_SECONDS, slowest
    assert costs[largest][1] < MAX_GROWTH, largest
    assert list(work.iterdir()) == []
