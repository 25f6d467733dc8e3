"""The command: its options, a missing package, a port that is taken; a server that starts, answers and is stopped."""

import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import benchmark_demo
import pytest

from mrcnn_jax.cli.serve_demo import Arguments, check_arguments, is_loopback, listen, require_packages
from mrcnn_jax.errors import ConfigError
from tests.paths import ROOT
from tests.serving.stub import SLOW, encode_image, read_metrics

SERVE = """
import sys
from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.serve_demo import Arguments, listen, serve
from tests.serving.stub import StubPredictor

stub = StubPredictor(warm_up_error=MemoryError() if "--fail" in sys.argv else None)
arguments = Arguments(weights=None, port=0)
command_line.run(lambda: serve(stub, arguments, listen(arguments.host, arguments.port)))
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 65536}, "--port: expected 0 to 65535, got 65536."),
        ({"max_requests": 0}, "--max-requests: expected 1 to 1000, got 0."),
        ({"max_megabytes": -1}, "--max-megabytes: expected 1 to 1000, got -1."),
        ({"max_megapixels": 1000}, "--max-megapixels: expected 1 to 134, got 1000."),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_arguments(Arguments(weights=Path("w"), **options))
    assert str(caught.value) == message
    check_arguments(Arguments(weights=Path("w")))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_packages()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'starlette, uvicorn, .* -m pip install "mrcnn-jax\[demo\]"'):
        require_packages()


def test_only_this_machine_reaches_the_server_by_default() -> None:
    assert is_loopback(Arguments(weights=Path("w")).host)
    assert is_loopback("127.9.9.9") and is_loopback("::1") and not is_loopback("0.0.0.0") and not is_loopback("::")


def test_an_address_that_cannot_be_used_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Cannot listen on 127.0.0.1, port {port}: .* another --host or --port"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"Cannot listen on no\.such\.invalid"):
        listen("no.such.invalid", 0)


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SERVE, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_server_starts_answers_is_measured_and_answers_pending_requests_when_it_is_stopped() -> None:
    with start() as server:
        assert server.stderr is not None
        listening, ready = server.stderr.readline(), server.stderr.readline()
        address = re.search(r"http://(127\.0\.0\.1:\d+)/", listening)
        assert address and ready == f"Ready: http://{address[1]}/\n"
        options = benchmark_demo.Arguments(url=f"http://{address[1]}", requests=40, clients=8)
        found = benchmark_demo.measure(options, [encode_image(), encode_image(size=(30, 30))])
        assert found["answered"] == 40 >= found["predictor_calls"] >= 10 and found["answers_by_status"] == {"200": 40}
        connection = http.client.HTTPConnection(address[1], timeout=20)
        connection.request("POST", "/predict", encode_image(SLOW))
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(connection.getresponse)
            while not read_length(address[1]):
                assert not pending.done()
            server.send_signal(signal.SIGINT)
            assert len(json.loads(pending.result().read())["detections"]) == 3
        connection.close()
        assert server.wait(timeout=20) == 0
        assert server.stderr.read() == "Stopped; all pending requests are answered.\n"


def read_length(address: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        return read_metrics(answer.read().decode())["mrcnn_queue_length"]


def test_a_failed_warm_up_ends_the_command() -> None:
    with start("--fail") as server:
        assert server.wait(timeout=60) == 6 and server.stderr is not None
        assert "error: Out of memory" in server.stderr.read()


def test_the_page_is_part_of_the_wheel() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    (pattern,) = tools["package-data"]["mrcnn_jax.serving"]
    folder = ROOT / "mrcnn_jax" / "serving"
    assert {path.name for path in folder.glob(pattern)} == {"index.html", "page.css", "drawing.js", "page.js"}
    assert "mrcnn_jax.serving" in tools["packages"]
