"""A place in the bytes of a file, from which no more is read than is there."""

import mmap


class Cursor:
    """What `pickletools.genops` reads from. It compares before it copies; a file would hand out all that is left."""

    def __init__(self, data: bytes | mmap.mmap, position: int = 0) -> None:
        self.data = data
        self.position = position

    def tell(self) -> int:
        """The place."""
        return self.position

    def read(self, count: int) -> bytes:
        """The next bytes, none at the end; ValueError if there are fewer."""
        left = len(self.data) - self.position
        if count > left > 0:
            raise ValueError(f"{count} bytes are claimed, {left} are left")
        return self.read_up_to(count)

    def read_up_to(self, count: int) -> bytes:
        """The next bytes, or those that are left."""
        start, self.position = self.position, min(self.position + count, len(self.data))
        return self.data[start : self.position]

    def readline(self) -> bytes:
        """The next bytes up to a line's end; ValueError if there is none."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("a line has no end")
        return self.read_up_to(end + 1 - self.position)
