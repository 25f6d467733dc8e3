"""A position in the bytes of a file, with reads that are checked against the end."""

import mmap


class Cursor:
    """The file for `pickletools.genops`. It checks lengths before copying; a file would return all remaining bytes."""

    def __init__(self, data: bytes | mmap.mmap, position: int = 0) -> None:
        self.data = data
        self.position = position

    def tell(self) -> int:
        """Returns the position."""
        return self.position

    def read(self, count: int) -> bytes:
        """Returns the next `count` bytes, or none at the end. Raises ValueError if there are fewer."""
        left = len(self.data) - self.position
        if count > left > 0:
            raise ValueError(f"{count} bytes are declared, but {left} are left")
        return self.read_up_to(count)

    def read_up_to(self, count: int) -> bytes:
        """Returns the next `count` bytes, or all that are left."""
        start, self.position = self.position, min(self.position + count, len(self.data))
        return self.data[start : self.position]

    def readline(self) -> bytes:
        """Returns the next bytes up to and including the end of a line. Raises ValueError if there is none."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("a line has no end")
        return self.read_up_to(end + 1 - self.position)
