"""Trains the pairs of the paper's table 2 at CPU size, with the same seeds and budget, and compares their scores.

    python scripts/reproduce_ablations.py --to runs/ablations                           # generated shapes
    python scripts/reproduce_ablations.py --to runs/ablations --nuclei data/nuclei      # and prepared nuclei

It writes a run per variant and seed, ablations.md (tables), ablations.json and ablations-*.png. Finished runs are kept,
so the command can be stopped and run again, also with more seeds.
"""

import importlib.util
import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import _checkout
from _ablations import Claim, compare, draw_scores, finding_table, score_table

from mrcnn_jax.cli import command_line
from mrcnn_jax.errors import ConfigError

VARIANTS: dict[str, tuple[str, ...]] = {
    "Mask R-CNN": (),
    "RoIWarp": ("--model.roi-op", "warp"),
    "RoIPool": ("--model.roi-op", "pool", "--model.roi-reduce", "max"),
    "softmax masks": ("--model.mask-activation", "softmax"),
    "MLP masks": ("--model.mask-head", "mlp"),
    "class-agnostic masks": ("--model.class-agnostic-masks",),
    "no mask branch": ("--model.no-masks",),
}
"""Options of the variants. Each differs in one choice from the first: RoIAlign, a sigmoid per class, convolutions."""

ONE_CLASS = ("softmax masks", "class-agnostic masks")
"""Variants that are not meaningful for a single class."""

METRICS = {"mask AP": ("segm", "AP"), "mask AP50": ("segm", "AP50"), "mask AP75": ("segm", "AP75")}
METRICS |= {"box AP": ("bbox", "AP"), "box AP50": ("bbox", "AP50")}

CLAIMS = (
    Claim("Mask R-CNN", "RoIPool", "mask AP", "table 2c, 30.3 > 26.9"),
    Claim("Mask R-CNN", "RoIWarp", "mask AP", "table 2c, 30.3 > 27.1"),
    Claim("Mask R-CNN", "softmax masks", "mask AP", "table 2b, 30.3 > 24.8"),
    Claim("Mask R-CNN", "MLP masks", "mask AP", "table 2e, 33.6 > 31.5"),
    Claim("Mask R-CNN", "class-agnostic masks", "mask AP", "section 4.2, 30.3 > 29.7"),
    Claim("Mask R-CNN", "no mask branch", "box AP", "table 3, 38.2 > 37.3"),
)


@dataclass(frozen=True)
class Arguments:
    """The runs to train."""

    to: Path = command_line.Required
    """Folder of the runs and the tables."""
    nuclei: str = ""
    """Prepared nuclei with the splits train and val; if empty, only generated shapes are used."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; every variant is trained once with each."""
    num_steps: int = 0
    """Steps of a run, to try the command; rates and their drops stay the same. 0 takes the preset's number."""
    jobs: int = 0
    """Number of runs at a time, each on its own CPU core; 0 uses all cores."""


@dataclass(frozen=True)
class AblationRun:
    """One training run of one variant; `num_steps` 0 means the preset's number."""

    data: str
    preset: str
    folder: str
    variant: str
    seed: int
    num_steps: int

    @property
    def name(self) -> str:
        """Folder of the run within the folder of all runs; trials have separate folders."""
        trial = f"-{self.num_steps}-steps" if self.num_steps else ""
        return f"{self.data}{trial}/{self.variant.replace(' ', '_')}/{self.seed}"


def main() -> None:
    """Trains the runs that are missing and writes the comparison."""
    arguments = command_line.parse(Arguments(), __doc__ or "")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("The plot needs matplotlib: pip install matplotlib.")
    cores = sorted(os.sched_getaffinity(0))
    jobs = min(arguments.jobs or len(cores), len(cores))
    sources = {"shapes": ("configs/ablation_shapes.py", str(make_shapes(arguments.to)))}
    if arguments.nuclei:
        sources["nuclei"] = ("configs/ablation_nuclei.py", arguments.nuclei)
    runs = [
        AblationRun(data, preset, folder, variant, seed, arguments.num_steps)
        for seed in arguments.seeds
        for data, (preset, folder) in sources.items()
        for variant in VARIANTS
        if data == "shapes" or variant not in ONE_CLASS
    ]
    free: queue.Queue[int] = queue.Queue()
    for core in cores[:jobs]:
        free.put(core)
    with ThreadPoolExecutor(jobs) as pool:
        scores = list(pool.map(lambda run: train(run, arguments, free), runs))
    write_comparison(arguments.to, dict(zip(runs, scores, strict=True)))


def make_shapes(to: Path) -> Path:
    """Returns the folder of the generated images, which is created if it does not exist."""
    command = [
        sys.executable,
        str(_checkout.ROOT / "scripts/prepare_data.py"),
        "shapes",
        "--to",
        str(to / "data"),
        "--hard",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return to / "data"


def train(run: AblationRun, arguments: Arguments, free: "queue.Queue[int]") -> dict[str, dict[str, float]]:
    """Returns the scores of a run; trains it on its own core unless it is finished."""
    workdir = arguments.to / run.name
    evaluation = workdir / "evaluation.json"
    if not evaluation.is_file():
        core, started = free.get(), time.monotonic()
        os.sched_setaffinity(0, {core})  # applies to this thread and to the process that it starts
        command = [sys.executable, str(_checkout.ROOT / "scripts/train.py"), str(_checkout.ROOT / run.preset)]
        command += ["--workdir", str(workdir), "--data.train", f"{run.folder}:train", "--data.val", f"{run.folder}:val"]
        command += ["--train.seed", str(run.seed), *VARIANTS[run.variant]]
        command += ["--train.num-steps", str(run.num_steps)] if run.num_steps else []
        # Programs are compiled once for all seeds.
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str((arguments.to / "cache").absolute())}
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            with (workdir / "log.txt").open("w") as log:
                status = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
        finally:
            free.put(core)
        if status != 0:
            raise ConfigError(f"{run.name} ended with exit code {status}. See {workdir}/log.txt.")
        print(f"{run.name}: {time.monotonic() - started:.0f} s", flush=True)
    scores: dict[str, dict[str, float]] = json.loads(evaluation.read_text())
    return scores


def write_comparison(to: Path, results: Mapping[AblationRun, Mapping[str, Mapping[str, float]]]) -> None:
    """Writes tables, the numbers as JSON, and a plot for each data set."""
    text, numbers = [], {}
    for data in dict.fromkeys(run.data for run in results):
        by_metric = {
            metric: {
                variant: {
                    run.seed: scores[kind][name]
                    for run, scores in results.items()
                    if (run.data, run.variant) == (data, variant) and kind in scores
                }
                for variant in VARIANTS
            }
            for metric, (kind, name) in METRICS.items()
        }
        variants = [variant for variant in VARIANTS if any(scores[variant] for scores in by_metric.values())]
        claims = [claim for claim in CLAIMS if claim.worse in variants]
        findings = [compare(claim, by_metric[claim.metric]) for claim in claims]
        text += [f"## {data}", score_table(by_metric, variants), finding_table(findings)]
        numbers[data] = by_metric
        panels = {metric: by_metric[metric] for metric in ("mask AP", "mask AP75", "box AP")}
        draw_scores(to / f"ablations-{data}.png", panels, variants)
    (to / "ablations.md").write_text("\n\n".join(text) + "\n")
    (to / "ablations.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print(f"{to}/ablations.md, ablations.json and ablations-*.png\n\n" + "\n\n".join(text))


if __name__ == "__main__":
    _checkout.run_main(main, __file__)
