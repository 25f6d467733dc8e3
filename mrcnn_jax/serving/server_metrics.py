"""Counters and histograms of the server in Prometheus' text format (version 0.0.4)."""

import bisect
import resource
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the latency histogram's buckets."""


class LatencyHistogram:
    """Counts of observed values by upper bound, their number and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Adds a value to the first bucket whose bound is not below it."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        """Returns the samples: cumulative buckets, sum and count."""
        lines, total = [], 0
        for bound, count in zip([*self.bounds, "+Inf"], self.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self.sum:.6f}", f"{name}_count {total}"]


class ServerMetrics:
    """What the server counts. Methods may be called from any thread."""

    def __init__(self, batch_size: int) -> None:
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()
        self._errors: Counter[str] = Counter()
        self._seconds = LatencyHistogram(SECONDS)
        self._batch_sizes = LatencyHistogram([2**k for k in range((batch_size - 1).bit_length() + 1)])
        self._batch_seconds = 0.0
        self.last_batch_seconds = 0.0

    def request(self, status: int, seconds: float, error: str = "") -> None:
        """Counts an answered request to /predict, with the kind of its error if there was one."""
        with self._lock:
            self._statuses[status] += 1
            self._seconds.observe(seconds)
            if error:
                self._errors[error] += 1

    def batch(self, size: int, seconds: float) -> None:
        """Counts a call of the network."""
        with self._lock:
            self._batch_sizes.observe(size)
            self._batch_seconds += seconds
            self.last_batch_seconds = seconds

    def text(self, queue_length: int, is_ready: bool) -> str:
        """Returns all metrics in Prometheus' text format."""
        with self._lock:
            statuses = [f'mrcnn_requests_total{{status="{key}"}} {n}' for key, n in sorted(self._statuses.items())]
            errors = [f'mrcnn_errors_total{{kind="{key}"}} {n}' for key, n in sorted(self._errors.items())]
            families = [
                ("mrcnn_requests_total", "counter", "Answered requests to /predict by HTTP status.", statuses),
                ("mrcnn_errors_total", "counter", "Refused and failed requests by kind.", errors),
                ("mrcnn_queue_length", "gauge", "Requests at work.", [f"mrcnn_queue_length {queue_length}"]),
                ("mrcnn_ready", "gauge", "1 after the warm-up.", [f"mrcnn_ready {int(is_ready)}"]),
                ("mrcnn_batch_size", "histogram", "Images per call.", self._batch_sizes.lines("mrcnn_batch_size")),
                (
                    "mrcnn_predict_seconds_total",
                    "counter",
                    "Seconds spent predicting.",
                    [f"mrcnn_predict_seconds_total {self._batch_seconds:.6f}"],
                ),
                (
                    "mrcnn_request_seconds",
                    "histogram",
                    "Seconds from a request's headers to its answer.",
                    self._seconds.lines("mrcnn_request_seconds"),
                ),
            ]
        if (memory := resident_bytes()) is not None:
            name = "process_resident_memory_bytes"
            families.append((name, "gauge", "Resident memory size in bytes.", [f"{name} {memory}"]))
        lines = []
        for name, kind, text, samples in families:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples]
        return "\n".join(lines) + "\n"


def resident_bytes() -> int | None:
    """Returns the process's resident memory, or None where the system does not have Linux's /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None
