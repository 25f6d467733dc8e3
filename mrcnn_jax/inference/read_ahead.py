"""Iteration in a thread: the next items are made while the caller works with the earlier ones."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")
_WAIT = 0.1  # seconds between looks at whether the caller has gone


class _End:
    """The last thing in the queue, with the error that ended the iteration, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(items: Iterator[T], size: int) -> Generator[T]:
    """Yields the items, of which a thread makes up to `size` ahead. The thread ends with this iterator.

    An error of `items` is raised here after the items before it.
    """
    ready: queue.Queue[T | _End] = queue.Queue(size)
    is_closed = threading.Event()

    def put(item: T | _End) -> bool:
        while not is_closed.is_set():
            try:
                ready.put(item, timeout=_WAIT)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as raised:
            error = raised
        put(_End(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_closed.set()
        thread.join()
