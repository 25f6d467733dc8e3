"""Who may train in a folder, and being told to stop."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_jax.errors import ConfigError, StorageError
from mrcnn_jax.json_files import write_json
from mrcnn_jax.training.preemption import StopRequest
from mrcnn_jax.training.workdir import claim_workdir
from tests.paths import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def start_python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def test_second_trainer_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    code = f"""
import time
from pathlib import Path
from mrcnn_jax.training.workdir import claim_workdir
with claim_workdir(Path({str(tmp_path)!r})):
    print("READY", flush=True)
    time.sleep(60)
"""
    with start_python(code) as process:
        assert process.stdout.readline() == "READY\n"
        with pytest.raises(ConfigError, match=rf"pid {process.pid} .*--workdir"), claim_workdir(tmp_path):
            pass
        process.kill()
        process.wait()
        with claim_workdir(tmp_path):
            assert f"pid {os.getpid()} " in (tmp_path / "train.lock").read_text()


def test_workdir_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written to"), claim_workdir(tmp_path / "file" / "run"):
        pass


def test_write_json_replaces_the_whole_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1] * 100})
    write_json(tmp_path / "a.json", {"x": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(StorageError, match="could not be written"):
        write_json(tmp_path / "a.json" / "b.json", {})


def test_write_json_keeps_links_and_pipes(tmp_path):
    target, link, pipe = tmp_path / "target.json", tmp_path / "link.json", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    write_json(link, {"x": 1})
    assert link.is_symlink() and json.loads(target.read_text()) == {"x": 1}
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_json(pipe, {"x": 2})
    assert json.loads(os.read(reader, 100)) == {"x": 2} and pipe.is_fifo()
    os.close(reader)
    code = "from pathlib import Path; from mrcnn_jax.json_files import write_json; write_json(Path('/dev/stdout'), {})"
    printed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, cwd=ROOT)
    assert printed.stdout == b"{}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_is_noted_and_the_second_ends_the_process(number):
    code = """
import time
from mrcnn_jax.training.preemption import StopRequest
with StopRequest(lambda: "nothing is saved") as stop:
    print("READY", flush=True)
    while stop.poll() is None:
        time.sleep(0.01)
    print(stop.received, flush=True)
    time.sleep(60)
"""
    with start_python(code) as process:
        assert process.stdout.readline() == "READY\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.name}\n"
        process.send_signal(number)
        assert process.wait(timeout=10) == 128 + number
        first, second = process.stderr.read().splitlines()
        assert first.startswith(f"{number.name}: ") and first.endswith("ends it at once (nothing is saved).")
        assert second == f"Ended by {number.name} without saving (nothing is saved)."


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert stop.poll() is None
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1
