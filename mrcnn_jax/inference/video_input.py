"""Reads the frames of a video file, or of a folder of images, upright and in order, one at a time.

Video files are decoded by FFmpeg, as PyAV's wheels contain it (the extra [video]).
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn_jax.config.depth_setting import AUTO_DEPTH
from mrcnn_jax.data.images import SUFFIXES, ImageHW
from mrcnn_jax.data.transforms import resize_image
from mrcnn_jax.errors import DataError, missing_extra
from mrcnn_jax.inference.image_files import read_image

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

FALLBACK_RATE = Fraction(25)
"""Frames a second of a file that states no rate."""
HD_HEIGHT = 720
"""Untagged colours are those of BT.709 from this height on, and of BT.601 below, as players take them."""
HDR_TRANSFERS = (16, 18)
"""PQ and HLG, as numbered by ITU-T H.273."""
MAX_MISSING_SECONDS = 0.5
"""A video whose frames end earlier than this before its stated end is reported as incomplete."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    pts: int  # start, in units of the video's time base, counted from the start of the file
    duration: int  # in the same units


@dataclass(eq=False)
class VideoInput:
    """An open video. Its frames can be iterated once."""

    path: Path
    image_hw: ImageHW
    """Size of all frames, upright: that of the first one."""
    time_base: Fraction
    """Seconds in a unit of time."""
    rate: Fraction
    """Frames a second, on average."""
    num_frames: int
    """Number of frames that the file states, or that its duration suggests; 0 if unknown."""
    frames: Iterator[Frame]
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel by its height."""
    findings: Counter[str] = field(default_factory=Counter)
    """What was found while reading so far: the number of frames for each text."""
    is_file: bool = True
    """False for a folder of images."""


def import_av() -> Any:
    """Returns the module `av`; raises ConfigError with the command that installs it."""
    try:
        import av
    except ModuleNotFoundError as missing:
        if missing.name != "av":
            raise
        raise missing_extra("Reading and writing videos needs PyAV", "video") from None
    return av


@contextmanager
def open_video(path: Path, rate: float = float(FALLBACK_RATE), depth: str = AUTO_DEPTH) -> Iterator[VideoInput]:
    """Opens a video file, or a folder whose images are the frames, in the order of their names; numbers count as such.

    Args:
        path: the file or folder.
        rate: frames a second of a folder.
        depth: TestConfig.depth, for images of a folder.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: the file cannot be opened or has no video, or there is no image in the folder.
    """
    if path.is_dir():
        yield _open_folder(path, Fraction(rate).limit_denominator(1001), depth)
        return
    av = import_av()
    if not path.is_file():
        raise DataError(f"{path} is missing or not a regular file.")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path} cannot be opened as a video: {error.strerror or error}.") from None
    with container:
        if not container.streams.video:
            raise DataError(f"{path} contains no video.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        time_base = stream.time_base
        stated_rate = stream.average_rate or stream.guessed_rate or FALLBACK_RATE
        seconds = (
            stream.duration * time_base if stream.duration else Fraction(container.duration or 0, av.time_base)
        )  # of the whole file if the stream states none
        findings: Counter[str] = Counter()
        frames = _decode_frames(container, stream, Fraction(stated_rate), seconds, findings)
        first = next(frames, None)
        if first is None:
            raise DataError(f"{path}: none of its frames can be decoded.")

        def all_frames() -> Iterator[Frame]:
            yield first
            yield from frames

        aspect = stream.sample_aspect_ratio or Fraction(1)
        is_turned = first.image.shape[:2] == (stream.width, stream.height) != (stream.height, stream.width)
        yield VideoInput(
            path,
            (first.image.shape[0], first.image.shape[1]),
            time_base,
            Fraction(stated_rate),
            stream.frames or round(seconds * stated_rate),
            all_frames(),
            1 / aspect if is_turned and aspect else aspect or Fraction(1),
            findings,
        )


def _decode_frames(
    container: "InputContainer", stream: "VideoStream", rate: Fraction, seconds: Fraction, findings: Counter[str]
) -> Iterator[Frame]:
    """Yields the frames that can be decoded; counts the others, and what is unusual, in `findings`."""
    av = import_av()
    assert stream.time_base is not None
    start = round(Fraction(container.start_time or 0, av.time_base) / stream.time_base)
    usual = max(1, round(1 / (rate * stream.time_base)))
    image_hw: ImageHW | None = None
    last, end, count = -1, 0, 0
    for decoded in _decode_packets(container, stream, findings):
        image = _to_rgb(decoded, findings)
        if image_hw is None:
            image_hw = (image.shape[0], image.shape[1])
        elif image.shape[:2] != image_hw:
            findings["of another size, which are resized to that of the first frame"] += 1
            image = resize_image(image, image_hw)
        pts = max(last, 0) + usual * (last >= 0) if decoded.pts is None else decoded.pts - start
        if pts <= last:
            findings["whose time is not after that of the frame before, which start one unit of time after it"] += 1
            pts = last + 1
        duration = decoded.duration or usual
        last, end, count = pts, pts + duration, count + 1
        yield Frame(image, pts, duration)
    missing = seconds - end * stream.time_base
    if count and missing > MAX_MISSING_SECONDS and not findings["damaged, which are left out"]:
        findings["missing at the end of the file"] += round(missing * rate)


def _decode_packets(
    container: "InputContainer", stream: "VideoStream", findings: Counter[str]
) -> Iterator["VideoFrame"]:
    av = import_av()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            findings["missing at the end of the file"] += 1
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            findings["damaged, which are left out"] += 1
            continue
        for frame in frames:
            findings["damaged in part, which are decoded as far as possible"] += bool(frame.is_corrupt)
            yield frame


def _to_rgb(frame: "VideoFrame", findings: Counter[str]) -> np.ndarray:
    """Returns the pixels uint8 [H, W, 3], rotated as the file demands."""
    findings["with HDR colours, which are not tone-mapped"] += frame.color_trc in HDR_TRANSFERS
    is_untagged_hd = frame.colorspace == 2 and frame.height >= HD_HEIGHT
    image = frame.to_ndarray(format="rgb24", src_colorspace="ITU709" if is_untagged_hd else None)
    if frame.rotation % 90:
        findings["to be rotated by an angle that is no multiple of 90 degrees, which are rotated to the nearest"] += 1
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))  # both anticlockwise


def _open_folder(folder: Path, rate: Fraction, depth: str) -> VideoInput:
    paths = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."),
        key=lambda path: [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)],
    )
    if not paths:
        raise DataError(f"No images in {folder}. Supported: {', '.join(sorted(SUFFIXES))}.")
    findings: Counter[str] = Counter()

    def read() -> Iterator[Frame]:
        image_hw: ImageHW | None = None
        for index, path in enumerate(paths):
            try:
                image = read_image(path, depth)
            except DataError:
                findings["damaged, which are left out"] += 1
                continue
            image_hw = image_hw or (image.shape[0], image.shape[1])
            if image.shape[:2] != image_hw:
                findings["of another size, which are resized to that of the first frame"] += 1
                image = resize_image(image, image_hw)
            yield Frame(image, index, 1)

    frames = read()
    first = next(frames, None)
    if first is None:
        raise DataError(f"{folder}: none of its images can be decoded.")

    def all_frames() -> Iterator[Frame]:
        yield first
        yield from frames

    hw = (first.image.shape[0], first.image.shape[1])
    return VideoInput(folder, hw, 1 / rate, rate, len(paths), all_frames(), findings=findings, is_file=False)
