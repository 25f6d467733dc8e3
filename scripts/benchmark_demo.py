"""Measures a running `mrcnn demo`: latency, throughput, answers by status, and the server's memory, as JSON.

python scripts/benchmark_demo.py --url http://127.0.0.1:8000 --requests 200 --clients 20 IMAGE...

Each client sends one request at a time, the images in turn. With --retry, a request that gets 503 is sent again after
the seconds of Retry-After, as the page does; its latency is the time to its last answer.
"""

import _checkout  # isort: skip

import http.client
import json
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import numpy as np
import tyro

from mrcnn_jax.cli import command_line
from mrcnn_jax.errors import ConfigError, DataError

TIMEOUT = 120
"""Seconds after which a request counts as lost."""


@dataclass(frozen=True)
class Arguments:
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")] = ()
    """Image files to send."""
    url: str = "http://127.0.0.1:8000"
    """Address of the server."""
    requests: int = 200
    """Number of requests."""
    clients: int = 20
    """Clients that send requests at the same time."""
    retry: bool = True
    """Send requests again that get 503."""


@dataclass
class Tally:
    """What all clients count; lists and counters are changed under `lock`."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    arguments = command_line.parse(Arguments(), __doc__ or "")
    if not arguments.images or arguments.requests < 1 or arguments.clients < 1:
        raise ConfigError("Name at least one image, and at least one request and client. See --help.")
    try:
        bodies = [path.read_bytes() for path in arguments.images]
    except OSError as error:
        raise DataError(f"Cannot read {error.filename}: {error.strerror}.") from None
    print(json.dumps(measure(arguments, bodies), indent=1))


def measure(arguments: Arguments, bodies: list[bytes]) -> dict[str, object]:
    """Returns counts of answers, latencies in milliseconds, requests a second, and what the server counts."""
    address = urlsplit(arguments.url).netloc
    before, tally = read_samples(address), Tally()
    started = time.perf_counter()
    with ThreadPoolExecutor(arguments.clients) as pool:
        for index in range(arguments.requests):
            pool.submit(send, address, bodies[index % len(bodies)], arguments.retry, tally)
    elapsed = time.perf_counter() - started
    after = read_samples(address)
    calls, seconds = (after[name] - before[name] for name in ("mrcnn_batch_size_count", "mrcnn_predict_seconds_total"))
    answered = np.array(tally.seconds) * 1000
    p50, p95, p100 = np.percentile(answered, [50, 95, 100]).round(1).tolist() if len(answered) else [None] * 3
    return {
        "requests": arguments.requests,
        "clients": arguments.clients,
        "answered": len(answered),
        "answers_by_status": dict(sorted(tally.statuses.items())),
        "answers_503_without_retry_after": tally.without_retry_after,
        "latency_ms": {"p50": p50, "p95": p95, "max": p100},
        "answered_per_second": round(len(answered) / elapsed, 2),
        "predictor_calls": int(calls),
        "share_of_time_in_predictor": round(seconds / elapsed, 3),
        "server_memory_mib": {"before": to_mib(before), "after": to_mib(after)},
    }


def send(address: str, body: bytes, retry: bool, tally: Tally) -> None:
    """Sends a request until it is answered with something other than 503, and counts all answers."""
    started = time.perf_counter()
    while True:
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
        retry_after = ""
        try:
            connection.request("POST", "/predict", body)
            response = connection.getresponse()
            status, retry_after = str(response.status), response.headers.get("Retry-After", "")
            response.read()
        except (OSError, http.client.HTTPException) as error:
            status = f"lost: {type(error).__name__}"
        finally:
            connection.close()
        with tally.lock:
            tally.statuses[status] += 1
            tally.without_retry_after += status == "503" and not retry_after
            if status == "200":
                tally.seconds.append(time.perf_counter() - started)
        if status != "503" or not retry:
            return
        time.sleep(float(retry_after or 1))


def read_samples(address: str) -> dict[str, float]:
    """Returns the samples of the server's /metrics that have no labels, by name. Raises DataError."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        raise DataError(f"No server answers at {address}. Start one with mrcnn demo, or give --url.") from None
    finally:
        connection.close()
    return {name: float(value) for name, value in re.findall(r"^(\w+) ([\d.]+)$", text, re.MULTILINE)}


def to_mib(samples: dict[str, float]) -> float | None:
    """Returns the server's resident memory in MiB, or None if it does not state it."""
    memory = samples.get("process_resident_memory_bytes")
    return None if memory is None else round(memory / 2**20, 1)


if __name__ == "__main__":
    _checkout.run_main(main, __file__)
