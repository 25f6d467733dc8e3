"""predictions.jsonl: results that are appended as they come, from which an interrupted run continues.

The first line is the header: settings, categories, the number of images, and which of them the file contains. Each
further line is one image, in the order of the run, and is complete if it ends with a newline. So the number of complete
lines states how far the run came, and what follows them is cut off.

A part, `predictions-2-of-8.jsonl`, has the second of eight ranges of images; the parts in order are the whole file.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mrcnn_jax.categories import Category
from mrcnn_jax.errors import ConfigError, DataError, StorageError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`, from 1; the only part is the whole run."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ValueError(f"Expected a part from 1/{self.count} to {self.count}/{self.count}, got {self}.")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def range_of(self, num_images: int) -> range:
        """Returns the positions, from 0, of this part's images among all."""
        first, last = ((self.index - end) * num_images // self.count for end in (1, 0))
        return range(first, last)

    def path(self, output: Path) -> Path:
        """Returns the path of this part's file in a folder."""
        return output / ("predictions.jsonl" if self.count == 1 else f"predictions-{self.index}-of-{self.count}.jsonl")


WHOLE = Part()


@dataclass(frozen=True)
class RunHeader:
    """What all lines of a run have in common."""

    settings: Mapping[str, Any]
    """JSON values that the results depend on; a run continues only with the same ones."""
    categories: tuple[Category, ...]
    num_images: int
    """Number of images in all parts."""

    def to_line(self, part: Part) -> str:
        content = {
            "format_version": FORMAT_VERSION,
            "part": [part.index, part.count],
            "num_images": self.num_images,
            "categories": [asdict(category) for category in self.categories],
            "settings": dict(self.settings),
        }
        return json.dumps(content) + "\n"


def read_header(path: Path) -> RunHeader:
    """Returns the header of a file of predictions. Raises DataError if the file has none, or an unknown version."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.readline())
        if content["format_version"] != FORMAT_VERSION:
            raise DataError(f"{path} has the format version {content['format_version']}, not {FORMAT_VERSION}.")
        fields = {"keypoints": tuple, "skeleton": lambda pairs: tuple(map(tuple, pairs))}
        categories = tuple(
            Category(**{name: fields.get(name, lambda value: value)(value) for name, value in each.items()})
            for each in content["categories"]
        )
        return RunHeader(content["settings"], categories, content["num_images"])
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path} does not begin with the header of predictions. Remove it or add --overwrite."
        ) from None


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the images of a file of predictions, one at a time. Raises DataError for a damaged line."""
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, start=2):
            try:
                yield json.loads(line)
            except ValueError:
                raise DataError(f"{path}, line {number} is damaged. Add --overwrite to predict again.") from None


@contextmanager
def open_log(path: Path, header: RunHeader, part: Part, *, overwrite: bool) -> Iterator[tuple[IO[bytes], int]]:
    """Opens a file of predictions to append lines, and provides it with the number of images that it contains.

    The file is created, or continued after its last complete line; with `overwrite` it is emptied first. Only one
    process at a time can have it open.

    Raises ConfigError if it is of other settings, DataError if it is damaged, and StorageError if it cannot be written
    or another process writes to it.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    with file, _writing(path):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            raise StorageError(f"Another process is writing {path}. Wait for it, or choose another folder.") from None
        if overwrite:
            file.truncate(0)
        done = _count_done(file, path, header, part)
        yield file, done
        file.flush()
        os.fsync(file.fileno())


def _count_done(file: IO[bytes], path: Path, header: RunHeader, part: Part) -> int:
    """Returns the number of images in an open file; writes the header if there is none, and cuts off a torn line."""
    file.seek(0)
    first = file.readline()
    if not first.endswith(b"\n"):
        file.truncate(0)
        file.write(header.to_line(part).encode())
        file.flush()
        return 0
    check_same(path, header)
    end, done = len(first), 0
    expected = part.range_of(header.num_images)
    for line in file:
        if not line.endswith(b"\n"):
            break
        if done >= len(expected) or not line.startswith(b'{"id": %d, ' % (expected[done] + 1)):
            raise DataError(f"{path}, line {done + 2} is damaged. Add --overwrite to predict again.")
        end += len(line)
        done += 1
    file.truncate(end)
    return done


def check_same(path: Path, header: RunHeader) -> None:
    """Raises ConfigError if a file of predictions has another header, and states the settings that differ."""
    found = read_header(path)
    names = sorted({*found.settings, *header.settings})
    differing = [name for name in names if found.settings.get(name) != _as_json(header.settings.get(name))]
    differing += ["categories"] * (found.categories != header.categories)
    differing += ["number of images"] * (found.num_images != header.num_images)
    if differing:
        raise ConfigError(
            f"{path} contains predictions with other settings ({', '.join(differing)}). Choose another --output, or "
            "add --overwrite to replace them."
        )


def check_parts(output: Path, header: RunHeader, part: Part) -> None:
    """Raises ConfigError if what a folder contains besides this part's file could not be joined with it."""
    whole = WHOLE.path(output)
    if part.count > 1:
        if whole.exists():
            check_same(whole, header)
        return
    for count in () if whole.exists() else find_parts(output):
        if not are_complete(output, header, count):
            raise ConfigError(f"{output} contains parts of {count} that are not finished. Finish them, or --overwrite.")
        join_parts(output, header, count)


def are_complete(output: Path, header: RunHeader, count: int) -> bool:
    """Returns whether the files of all `count` parts exist in a folder and contain all their images."""
    parts = [Part(index, count) for index in range(1, count + 1)]
    return all(
        part.path(output).is_file() and _count_lines(part.path(output)) == 1 + len(part.range_of(header.num_images))
        for part in parts
    )


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


def join_parts(output: Path, header: RunHeader, count: int) -> None:
    """Writes predictions.jsonl from the complete files of all parts. Raises ConfigError if one has other settings."""
    with replacing(WHOLE.path(output)) as file:
        file.write(header.to_line(WHOLE).encode())
        for index in range(1, count + 1):
            path = Part(index, count).path(output)
            check_same(path, header)
            with path.open("rb") as source:
                source.readline()
                shutil.copyfileobj(source, file)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Provides a file that replaces `path` when the block ends without an error. Raises StorageError."""
    unfinished = path.with_name(f".{path.name}.new")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("w+b") as file:
                yield file
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror}. Free space or choose another folder."
        ) from error


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def find_parts(output: Path) -> list[int]:
    """Returns into how many parts the files of parts in a folder divide a run."""
    names = (path.stem.split("-") for path in output.glob("predictions-*-of-*.jsonl"))
    return sorted({int(words[3]) for words in names if len(words) == 4 and words[3].isdecimal()})


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process is in a block for the same existing file."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
