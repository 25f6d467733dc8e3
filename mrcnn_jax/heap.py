"""Release of the memory that compilation leaves behind."""

import contextlib
import ctypes


def trim_heap() -> None:
    """Returns the C library's freed memory to the system; does nothing if the library is not glibc.

    XLA frees the memory that it used to compile a program, 1.1 GB for a training step of ResNet-50-FPN, but glibc keeps
    it, and the program's own arrays would come on top.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
