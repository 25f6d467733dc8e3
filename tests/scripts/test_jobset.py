"""The recipe for GKE: one process on each host of the slice, started again by the rule of the other recipes."""

import re
from typing import Any

import pytest
import yaml

from mrcnn_jax.cli import command_line
from mrcnn_jax.presets import load_preset
from tests.paths import ROOT

PATH = ROOT / "scripts" / "launch" / "jobset.yaml"


def jobset() -> dict[str, Any]:
    return yaml.safe_load(PATH.read_text())["spec"]


def test_jobset_runs_one_process_on_each_host() -> None:
    (replicated,) = jobset()["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert rows * columns == job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    assert "cloud.google.com/gke-tpu-accelerator" in pod["nodeSelector"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert volume["name"] == mount["name"]
    python, script, preset, *options = container["command"]
    assert python == "python" and script == "scripts/train.py"
    assert all(option.partition("=")[2].startswith(mount["mountPath"]) for option in options)
    assert options[0].startswith("--workdir=")
    assert command_line.parse(load_preset(ROOT / preset), "", options[1:]).data.train


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 75, 134, 137])
def test_jobset_starts_again_by_the_same_rule(code: int) -> None:
    # The messages are those of Kubernetes' job controller; a pod that matches no rule exceeds the backoff limit.
    spec = jobset()
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    rules = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert all(rule["containerName"] == "train" and rule["values"] == sorted(rule["values"]) for rule in rules)
    matching = [index for index, rule in enumerate(rules) if code in rule["values"]]
    if not matching:
        assert code in (6, 134, 137) and spec["failurePolicy"]["maxRestarts"] > 0
        return
    message = (
        f"Container train for pod ns/mrcnn-0 failed with exit code {code} matching FailJob rule at index {matching}"
    )
    assert action_on(message) == ("RestartJobSetAndIgnoreMaxRestarts" if code == 75 else "FailJobSet")


def test_jobset_does_not_count_evictions() -> None:
    assert action_on("Pod ns/p has condition DisruptionTarget matching FailJob rule at index 2") == (
        "RestartJobSetAndIgnoreMaxRestarts"
    )


def action_on(message: str) -> str:
    """What the JobSet does when its job fails by podFailurePolicy with this message."""
    for rule in jobset()["failurePolicy"]["rules"]:
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
        if any(re.search(pattern, message) for pattern in rule["onJobFailureMessagePatterns"]):
            return rule["action"]
    return "RestartJobSet"
