"""Being told to stop: the loop finishes its step after a first SIGTERM or SIGINT; a second one ends it at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Context manager for the main thread: `received` names the signal that asked to stop, or is None.

    A thread reads the signals from a pipe, because Python runs its handlers only between two bytecodes of the main
    thread: while that sits in a compilation of minutes, a second signal would not end the process.
    """

    def __init__(self) -> None:
        self.received: str | None = None

    def __enter__(self) -> Self:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._previous_fd = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._previous: dict[int, Any] = {number: signal.signal(number, _do_nothing) for number in STOP_SIGNALS}
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

    def _watch(self) -> None:
        while data := os.read(self._read_end, 16):
            for number in data:
                if number not in STOP_SIGNALS:
                    continue
                if self.received is not None:
                    os._exit(128 + number)
                self.received = signal.Signals(number).name


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Keeps the default action from ending the process; the pipe carries the signal."""
