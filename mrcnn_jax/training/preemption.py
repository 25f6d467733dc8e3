"""Stop requests: after a first SIGTERM or SIGINT the loop finishes its step; a second one ends the process at once.

If there are several processes, the signal may reach any of them, and all stop at the same step: JAX notifies the
others. Its own handler of SIGTERM, which it installs when processes join, stays in place.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

NOTE_SECONDS = 1.0
"""Longest delay of the end at a second signal, for printing what is saved."""


class StopRequest:
    """Context manager for the main thread; `received` is the name of the stop signal once `poll` has seen it.

    A thread reads the signals from a pipe, because Python runs signal handlers only between two bytecodes of the main
    thread: during a compilation, which takes minutes, a second signal would not end the process.
    """

    def __init__(self, describe_saved: Callable[[], str] = lambda: "") -> None:
        """`describe_saved` returns what is saved at that moment, for the messages at the first and second signal."""
        self._describe_saved = describe_saved
        self.received: str | None = None
        self._is_joined = jax.distributed.is_initialized()
        self._signal: str | None = None
        self._num_polls = 0

    def __enter__(self) -> Self:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._previous_fd = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        handled = STOP_SIGNALS if not self._is_joined else (signal.SIGINT,)
        self._previous: dict[int, Any] = {number: signal.signal(number, _do_nothing) for number in handled}
        self._thread = threading.Thread(target=self._watch, name="stop-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._write_end)  # ends the thread
        self._thread.join()
        os.close(self._read_end)

    def poll(self) -> str | None:
        """Updates and returns `received`, which is the same on all processes; they have to call this equally often."""
        if self.received is None and not self._is_joined:
            self.received = self._signal
        elif self.received is None:
            if multihost_utils.reached_preemption_sync_point(self._num_polls):
                self.received = signal.SIGTERM.name
            self._num_polls += 1
        return self.received

    def _watch(self) -> None:
        while data := os.read(self._read_end, 16):
            for number in data:
                if number not in STOP_SIGNALS:
                    continue
                name = signal.Signals(number).name
                if self._signal is not None:
                    self._note(f"Ended by {name} without saving").join(NOTE_SECONDS)
                    os._exit(128 + number)
                self._signal = name
                self._note(
                    f"{name}: the run ends after its current step, and after a compilation before it, and then reports "
                    "what is saved. Another signal ends it at once"
                )
                if self._is_joined:
                    os.kill(os.getpid(), signal.SIGTERM)  # JAX's handler notifies the other processes

    def _note(self, text: str) -> threading.Thread:
        """Prints a line with what is saved on stderr, in a thread of its own: storage may be slow, a signal is not."""

        def write() -> None:
            with suppress(OSError):  # nobody reads it
                saved = self._describe_saved()
                print(f"{text}{f' ({saved})' if saved else ''}.", file=sys.stderr, flush=True)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        return thread


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Prevents the default action, which ends the process; the signal is read from the pipe."""
