"""metrics.jsonl, TensorBoard events, the stopwatch and the progress line."""

import io
import json
import os
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from mrcnn_jax.errors import StorageError
from mrcnn_jax.training import metrics_log
from mrcnn_jax.training.metrics_log import MetricsLog, ProgressLine, Stopwatch, format_seconds

VALUES = {"loss/total": 1.25, "learning_rate": 0.01, "images_per_second": 12.34}


def read_lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_events(workdir: Path) -> list[Event]:
    """The records of all event files: 8 bytes length, 4 checksum, content, 4 checksum."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def write_steps(workdir: Path, steps: range, start_step: int) -> None:
    log = MetricsLog(workdir, start_step=start_step)
    for step in steps:
        log.write(step, VALUES | {"loss/total": float(step)})
    log.close()


def test_resume_cuts_off_later_steps_and_an_unfinished_line(tmp_path):
    write_steps(tmp_path, range(1, 6), start_step=0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss/to')
    write_steps(tmp_path, range(4, 7), start_step=3)
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert read_lines(tmp_path)[3] == {"step": 4} | VALUES | {"loss/total": 4.0}


def test_events_hold_the_same_numbers_and_mark_the_resume(tmp_path):
    write_steps(tmp_path, range(1, 3), start_step=0)
    write_steps(tmp_path, range(2, 4), start_step=1)
    events = read_events(tmp_path)
    losses = [(e.step, v.simple_value) for e in events for v in e.summary.value if v.tag == "loss/total"]
    assert losses == [(1, 1.0), (2, 2.0), (2, 2.0), (3, 3.0)]
    assert [e.step for e in events if e.session_log.status == 1] == [1, 2]  # START


def test_not_finite_values_stay_valid_json(tmp_path):
    log = MetricsLog(tmp_path, start_step=0)
    log.write(1, {"loss/class": float("nan"), "loss/box": float("inf"), "loss/mask": 0.5})
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {
        "step": 1,
        "loss/class": None,
        "loss/box": None,
        "loss/mask": 0.5,
        "not_finite": ["loss/class", "loss/box"],
    }


def test_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"metrics\.jsonl"):
        MetricsLog(tmp_path, start_step=0)


def test_stopwatch_leaves_out_pauses_and_ignores_bursts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: now[0])
    watch = Stopwatch()
    for _ in range(4):
        now[0] += 0.5
        watch.count_step()
    with watch.paused():
        now[0] += 60.0
    watch.lap()
    assert watch.steps_per_second == pytest.approx(2.0)
    assert watch.seconds == pytest.approx(62.0)
    watch.count_step()
    now[0] += 0.01
    watch.lap()
    assert watch.steps_per_second == pytest.approx(2.0)
    watch.count_step()
    now[0] += 0.99
    watch.lap()
    assert watch.steps_per_second == pytest.approx(2.0)


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    with ProgressLine(400, stream=stream) as line:
        line.show(120, VALUES, seconds_left=192.4)
        line.show(121, VALUES, seconds_left=None)
        line.show_evaluation(1, 2)
        line.say("a [bracket]")
    assert stream.getvalue().splitlines() == [
        "step 120/400  loss 1.25  lr 0.01  12.3 images/s  eta 0:03:12",
        "step 121/400  loss 1.25  lr 0.01",
        "a [bracket]",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with ProgressLine(400, stream=stream) as line:
        line.show(120, VALUES, seconds_left=192.4)
        line.say("a [bracket]")
    assert "step 120/400" in stream.getvalue() and "eta 0:03:12" in stream.getvalue()
    assert "a [bracket]" in stream.getvalue()


def test_training_goes_on_when_nobody_reads_the_output():
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = os.fdopen(write_end, "w")
    line = ProgressLine(400, stream=stream)
    line.say("into a closed pipe")
    line.say("and again")
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03")])
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
