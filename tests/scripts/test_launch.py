"""The recipes for clusters: they parse, and they start training again when they should. No training runs here."""

import itertools
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mrcnn_jax.cli import command_line
from mrcnn_jax.presets import load_preset
from tests.paths import ROOT

LAUNCH = ROOT / "scripts" / "launch"

FAKE_TRAIN = """
echo "$*" >>"$FAKE/calls"
[ -z "${FAKE_CHECKPOINTS:-}" ] || mkdir -p "$FAKE_CHECKPOINTS/checkpoints/$(wc -l <"$FAKE/calls")"
if [ -e "$FAKE/wait" ]; then
  trap 'exit 75' TERM
  touch "$FAKE/waits"
  for _ in {1..400}; do sleep 0.05; done
  exit 1
fi
code=$(sed -n 1p "$FAKE/codes")
sed -i 1d "$FAKE/codes"
exit "${code:-75}"
"""
"""A training command that ends with the next of the given codes, with 75 after them, or when it is told to."""


class Fake:
    """A folder with fake commands, and what was done with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workdir = folder / "run"
        self.write("train", FAKE_TRAIN)
        self.environment = {
            **os.environ,
            "FAKE": str(folder),
            "HOME": str(folder),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "TRAIN": f"bash {folder}/bin/train",
            "WORKDIR": str(self.workdir),
        }

    def write(self, command: str, text: str) -> None:
        path = self.folder / "bin" / command
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)

    def script(self, name: str, *argv: str, codes: tuple[int, ...] = (), **environment: str) -> int:
        """Exit code of a launcher whose training ends with these codes, one after another."""
        (self.folder / "codes").write_text("".join(f"{code}\n" for code in codes))
        return subprocess.run(
            ["bash", str(LAUNCH / name), *argv], env=self.environment | environment, cwd=ROOT, timeout=60
        ).returncode

    def lines(self, name: str = "calls") -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, name: str, text: str = "") -> None:
        deadline = time.monotonic() + 30
        while not (self.folder / name).exists() or text not in (self.folder / name).read_text():
            assert time.monotonic() < deadline, f"no {text!r} in {name}"
            time.sleep(0.05)


def assert_accepted(line: str) -> None:
    """That scripts/train.py knows the preset and all options."""
    words = line.split()
    at = words.index("--workdir")
    config = command_line.parse(load_preset(ROOT / words[0]), "", words[1:at] + words[at + 2 :])
    assert config.train.batch_size == 256 and config.data.train and config.data.val


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


@pytest.mark.parametrize("name", ["again.sh", "local.sh", "slurm.sbatch", "tpu_pod.sh"])
def test_scripts_parse(name: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


@pytest.mark.parametrize("name", ["local.sh", "slurm.sbatch", "tpu_pod.sh", "jobset.yaml"])
def test_recipes_say_how_to_start_them_and_how_they_resume(name: str) -> None:
    lines = (LAUNCH / name).read_text().splitlines()
    comment = " ".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert f"scripts/launch/{name}" in comment and "newest checkpoint" in comment


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0, 0], 0),
        ([75, 75, 75], 75),
        ([6, 134, 137], 75),
        ([0, 75, 0], 75),
        ([143], 75),
        ([0, 0], 75),  # one of three left no code: it was killed with its shell
        ([6, 6, 3], 3),  # a process that refused its data, and those that waited for it
        ([134, 2, 134], 2),
        ([4, 4, 4], 4),
        ([6, 5, 75], 5),
        ([1, 6, 6], 1),
    ],
)
def test_one_code_for_all_processes(tmp_path: Path, codes: list[int], expected: int) -> None:
    for index, code in enumerate(codes):
        (tmp_path / str(index)).write_text(f"{code}\n")
    count = 1 if codes == [143] else 3
    result = subprocess.run(
        ["bash", "-euc", f"source '{LAUNCH}/again.sh'; outcome '{tmp_path}' {count}"], capture_output=True, text=True
    )
    assert result.stdout == f"{expected}\n"


@pytest.mark.parametrize(
    ("codes", "expected", "num_runs"),
    [((75, 75, 0), 0, 3), ((6, 134, 137, 0), 0, 4), ((3,), 3, 1), ((75, 2), 2, 2), ((1,), 1, 1), ((), 75, 4)],
)
def test_local_starts_again(fake: Fake, codes: tuple[int, ...], expected: int, num_runs: int) -> None:
    argv = ["1", "configs/shapes_tiny.py", "--workdir", str(fake.workdir), "--train.seed", "3"]
    assert fake.script("local.sh", *argv, codes=codes) == expected
    assert len(fake.lines()) == num_runs
    assert all(line.startswith(" ".join(argv[1:])) for line in fake.lines()), "the same command each time"


def test_local_goes_on_while_there_are_new_checkpoints(fake: Fake) -> None:
    options = {"FAKE_CHECKPOINTS": str(fake.workdir), "MAX_RESTARTS": "1"}
    assert fake.script("local.sh", "1", f"--workdir={fake.workdir}", codes=(75,) * 5 + (0,), **options) == 0
    assert len(fake.lines()) == 6


def test_local_tells_processes_who_they_are(fake: Fake) -> None:
    assert fake.script("local.sh", "3", "--workdir", str(fake.workdir), codes=(0, 0, 0)) == 0
    options = sorted(line.split(" --distributed.") for line in fake.lines())
    assert len(options) == 3 and len({tuple(option[1:3]) for option in options}) == 1
    assert options[0][2] == "num-processes 3"
    assert sorted(option[3] for option in options) == ["process-id 0", "process-id 1", "process-id 2"]


def test_local_lets_processes_save_and_stops(fake: Fake) -> None:
    (fake.folder / "wait").touch()
    argv = ["bash", str(LAUNCH / "local.sh"), "2", "--workdir", str(fake.workdir)]
    with subprocess.Popen(argv, env=fake.environment) as launcher:
        fake.wait_for("calls", "process-id 1")
        fake.wait_for("waits")
        time.sleep(0.2)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=30) == 75
    assert len(fake.lines()) == 2
    assert [(fake.workdir / "exit_codes" / name).read_text() for name in "01"] == ["75\n", "75\n"]


@pytest.mark.parametrize("argv", [[], ["two"], ["2", "configs/shapes_tiny.py"]])
def test_local_refuses_what_it_cannot_use(fake: Fake, argv: list[str]) -> None:
    assert fake.script("local.sh", *argv) == 2 and not fake.lines()


FAKE_SRUN = """
echo "$1" >"$FAKE/srun"
shift
highest=0
for task in 0 1; do
  SLURM_PROCID=$task "$@" || { code=$?; [ "$code" -le "$highest" ] || highest=$code; }
done
exit "$highest"
"""


@pytest.mark.parametrize(
    ("codes", "state", "expected", "is_requeued"),
    [
        ((75, 75), "RUNNING", 75, True),
        ((6, 134), "RUNNING", 75, True),
        ((75, 75), "COMPLETING", 75, False),  # cancelled
        ((3, 137), "RUNNING", 3, False),
        ((0, 0), "RUNNING", 0, False),
    ],
)
def test_slurm_puts_the_job_back(
    fake: Fake, codes: tuple[int, ...], state: str, expected: int, is_requeued: bool
) -> None:
    fake.write("srun", FAKE_SRUN)
    fake.write("squeue", f"echo {state}")
    fake.write("scontrol", 'echo "$*" >>"$FAKE/requeued"')
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS_PER_NODE": "2"}
    assert fake.script("slurm.sbatch", codes=codes, **job) == expected
    assert fake.lines("requeued") == ["requeue 7"] * is_requeued
    assert fake.lines("srun") == ["--kill-on-bad-exit=1"]
    assert len(fake.lines()) == 2 and f"--workdir {fake.workdir} " in fake.lines()[0]
    assert_accepted(fake.lines()[0])
    if is_requeued:  # and not for ever
        for count in range(1, 4):
            assert fake.script("slurm.sbatch", codes=codes, SLURM_RESTART_COUNT=str(count), **job) == 75
        assert len(fake.lines("requeued")) == 3


def test_slurm_options() -> None:
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    assert options["gpus-per-node"] == options["ntasks-per-node"], "JAX gives each task one GPU"
    assert options["signal"] == "TERM@120" and "requeue" in options and options["open-mode"] == "append"
    first_command = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:]), "SLURM would not read it"


FAKE_GCLOUD = """
echo "${*%%--command*}" >>"$FAKE/gcloud"
case "$*" in
  *describe*) cat "$FAKE/state" ;;
  *create*) echo ACTIVE >"$FAKE/state" ;;
  *) for argument; do case $argument in --command=*) bash -c "${argument#*=}" ;; esac; done ;;
esac
"""


@pytest.fixture
def pod(fake: Fake) -> Fake:
    """A TPU slice of one host, this one, which has everything installed."""
    fake.write("gcloud", FAKE_GCLOUD)
    fake.environment |= {"SHARED": str(fake.folder), "MOUNT": "true", "PAUSE_SECONDS": "0", "POLL_SECONDS": "0.1"}
    (fake.folder / "mrcnn_jax").symlink_to(ROOT)
    (fake.folder / "venv").mkdir()
    (fake.folder / "venv" / "installed").touch()
    (fake.folder / "state").write_text("ACTIVE\n")
    return fake


@pytest.mark.parametrize(
    ("codes", "num_runs", "end"), [((75, 6, 0), 3, "with 0"), ((75, 3), 2, "with 3"), ((), 4, "with 75")]
)
def test_tpu_hosts_start_again(pod: Fake, codes: tuple[int, ...], num_runs: int, end: str) -> None:
    assert pod.script("tpu_pod.sh", codes=codes) == 0
    pod.wait_for("mrcnn_jax.log", f"launch: over, {end}")
    assert len(pod.lines()) == num_runs
    assert_accepted(pod.lines()[0])
    assert sum("--worker=all" in line for line in pod.lines("gcloud")) == 1


def test_tpu_host_that_trains_is_left_alone_until_told_to_stop(pod: Fake) -> None:
    (pod.folder / "wait").touch()
    assert pod.script("tpu_pod.sh") == 0
    pod.wait_for("waits")
    assert pod.script("tpu_pod.sh") == 0
    time.sleep(0.2)
    assert len(pod.lines()) == 1
    assert pod.script("tpu_pod.sh", "stop") == 0
    pod.wait_for("mrcnn_jax.log", "launch: over, with 75")
    assert len(pod.lines()) == 1


@pytest.mark.parametrize("state", ["SUSPENDED", "NONE", "FAILED"])
def test_tpu_slice_that_is_gone_is_asked_for_again(pod: Fake, state: str) -> None:
    (pod.folder / "state").write_text(f"{state}\n")
    assert pod.script("tpu_pod.sh", "watch", codes=(0,)) == 0
    verbs = [line.split()[3] for line in pod.lines("gcloud") if "queued-resources" in line and "describe" not in line]
    assert verbs == ["delete"] * (state != "NONE") + ["create"]
    assert "launch: over, with 0" in (pod.folder / "mrcnn_jax.log").read_text()
