"""Runs of scripts/train.py in one or several processes with simulated devices, as a launcher starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.xla import FAST_TO_COMPILE

ROOT = Path(__file__).resolve().parents[1]
HEARTBEAT = 5
"""Seconds."""
PATIENCE = 900
"""Seconds until a run that should have ended counts as hanging: each process compiles, on as little as half a core."""

PRESET = """
from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

CANVASES = ((64, 64), (96, 64))

config = Config(
    model=ModelConfig(
        backbone="resnet10", backbone_width=8, num_classes=0, norm="frozen_bn", head_norm="none", freeze_at=0,
        neck="dc5", anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0), box_head_dim=32, mask_head_dim=16,
        mask_head_convs=1,
    ),
    # Room for all proposals: a random choice among them would depend on their order, and rounding on equal scores.
    targets=TargetsConfig(
        rpn_samples=32, pre_nms_top_n=64, post_nms_top_n=24, roi_samples=80, roi_foreground_fraction=0.5
    ),
    test=TestConfig(
        short_side=64, max_side=96, canvases=CANVASES, pre_nms_top_n=64, post_nms_top_n=32, max_detections=10,
        score_threshold=0.0,
    ),
    data=DataConfig(canvases=CANVASES, short_sides=(48, 64), max_side=96, max_objects=16, mask_size=28),
    # So slow that rounding does not grow: a proposal more or less would change the loss for good.
    train=TrainConfig(
        num_steps=8, batch_size=8, learning_rate=1e-3, warmup_steps=0, log_every=1, eval_every=0, checkpoint_every=100,
        num_pictures=1,
    ),
)
"""


class Run:
    """Processes that train together: `with Run(...) as run: run.wait()`; what is left of them ends with the block."""

    def __init__(
        self,
        workdir: Path,
        *,
        processes: int,
        devices: int,
        options: Sequence[str] = (),
        own_options: Sequence[Sequence[str]] = (),
    ) -> None:
        """`own_options` are those of each process alone."""
        workdir.mkdir(exist_ok=True)
        self.workdir = workdir
        preset = workdir.parent / "preset.py"
        preset.write_text(PRESET)
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            # Threads of XLA on any machine: the order of a sum depends on their number.
            "NPROC": "2",
            "PJRT_NPROC": "2",
            "XLA_FLAGS": FAST_TO_COMPILE,
            "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, str(ROOT / "scripts/train.py"), str(preset), "--workdir", str(workdir), *options]
        port = free_port()
        self.processes = []
        for index in range(processes):
            joining = ["--distributed.coordinator", f"localhost:{port}", "--distributed.num-processes", str(processes)]
            joining += ["--distributed.process-id", str(index), "--distributed.heartbeat-seconds", str(HEARTBEAT)]
            joining = joining if processes > 1 else []
            own = own_options[index] if own_options else []
            with (workdir / f"process-{index}.log").open("w") as log:
                self.processes.append(
                    subprocess.Popen([*command, *joining, *own], env=environment, stdout=log, stderr=log)
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, timeout: float = PATIENCE) -> list[int]:
        """The exit codes."""
        end = time.monotonic() + timeout
        return [process.wait(max(end - time.monotonic(), 0.1)) for process in self.processes]

    def wait_for_step(self, step: int, timeout: float = PATIENCE) -> None:
        """Returns when this step is in the log, or all processes have ended."""
        end = time.monotonic() + timeout
        while max(losses(self.workdir), default=0) < step:
            assert time.monotonic() < end, self.log()
            assert any(process.poll() is None for process in self.processes), self.log()
            time.sleep(0.05)

    def send(self, index: int, number: signal.Signals) -> None:
        self.processes[index].send_signal(number)

    def log(self, index: int = 0) -> str:
        return (self.workdir / f"process-{index}.log").read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def losses(workdir: Path) -> dict[int, float]:
    """The total loss of each logged step."""
    return read_metrics(workdir, lambda line: line["loss/total"])


def read_metrics(workdir: Path, pick: Callable) -> dict:
    """What `pick` takes of each logged step; a line that is being written is left out."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return {line["step"]: pick(line) for line in parsed}


def saved_steps(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def worst_difference(first: dict[int, float], second: dict[int, float]) -> float:
    """The largest relative difference over the steps of `second`, all of which `first` has."""
    return max(abs(first[step] - value) / abs(first[step]) for step, value in second.items())
