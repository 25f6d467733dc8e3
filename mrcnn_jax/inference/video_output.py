"""Writes frames as an MP4 file, H.264 where FFmpeg has it, with the audio of the original file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn_jax.errors import StorageError
from mrcnn_jax.inference.video_input import VideoInput, import_av

if TYPE_CHECKING:
    from av.container import OutputContainer

ENCODERS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
"""In the order of preference, with their settings."""
MAX_UNITS = 65535
"""The most units in a second that MPEG-4 part 2 can express."""
BT709, LIMITED = 1, 1
"""Colours of the written file, as numbered by FFmpeg."""

WriteFrame = Callable[[np.ndarray, int, int], None]
"""Writes an image uint8 [H, W, 3] of the video's size with its start and duration in units of its time base."""


def find_encoder() -> str:
    """Returns the name of the first of ENCODERS that this FFmpeg has."""
    av = import_av()
    return next((name for name in ENCODERS if name in av.codecs_available), "mpeg4")


def padded_hw(image_hw: tuple[int, int]) -> tuple[int, int]:
    """Returns the size of the written frames: even, since colours have half the resolution in video."""
    height, width = image_hw
    return height + height % 2, width + width % 2


@contextmanager
def create_video(path: Path, video: VideoInput, notes: list[str]) -> Iterator[WriteFrame]:
    """Yields a function that writes the frames of an MP4 file with the times, pixel aspect and audio of `video`.

    The file is complete when the context ends without an error. Odd sizes grow by a copy of the last row or column.
    Audio that MP4 cannot contain is left out, and `notes` gets a sentence. Raises StorageError if the file cannot be
    written.
    """
    av = import_av()
    encoder = find_encoder()
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            height, width = padded_hw(video.image_hw)
            stream = container.add_stream(encoder, rate=video.rate, options=ENCODERS[encoder])
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            unit = video.time_base
            if encoder == "mpeg4" and unit.denominator > MAX_UNITS:
                unit = Fraction(1, MAX_UNITS)
            context = stream.codec_context
            context.time_base = unit
            context.sample_aspect_ratio = video.pixel_aspect
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED
            copy_audio = _start_audio(container, video, notes) if video.is_file else lambda until: None

            def write(image: np.ndarray, pts: int, duration: int) -> None:
                if image.shape[:2] != (height, width):
                    image = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), "edge")
                rgb = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                frame.pts, frame.time_base = round(pts * video.time_base / unit), unit
                frame.duration = max(1, round(duration * video.time_base / unit))
                copy_audio(pts * video.time_base)
                container.mux(stream.encode(frame))

            yield write
            container.mux(stream.encode(None))
            copy_audio(None)
    except (av.FFmpegError, OSError) as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}. Free space or choose another folder."
        ) from error


def _start_audio(
    container: "OutputContainer", video: VideoInput, notes: list[str]
) -> Callable[[Fraction | None], None]:
    """Adds the first audio stream of the original file; returns a function that copies it up to a time in seconds."""
    av = import_av()
    source = av.open(str(video.path))
    others = len(source.streams) - len(source.streams.video[:1]) - len(source.streams.audio[:1])
    if others:
        notes.append(f"{others} further streams of the file, such as subtitles, are left out.")
    if not source.streams.audio:
        source.close()
        return lambda until: None
    audio = source.streams.audio[0]
    codec = audio.codec_context.codec
    if not {codec.name, codec.canonical_name} & container.supported_codecs:
        source.close()
        notes.append(f"The audio ({codec.name}) cannot be stored in an MP4 file and is left out.")
        return lambda until: None
    target = container.add_stream_from_template(audio)
    start = round(Fraction(source.start_time or 0, av.time_base) / audio.time_base)
    packets = source.demux(audio)
    waiting: list[Any] = []

    def copy(until: Fraction | None) -> None:
        """Copies all packets that start before `until`; all that are left, and closes the source, for None."""
        while True:
            try:
                packet = waiting.pop() if waiting else next(packets, None)
            except av.FFmpegError:
                packet = None
                notes.append("The audio is damaged and ends early.")
            if packet is None or packet.dts is None:
                break
            if until is not None and (packet.dts - start) * audio.time_base > until:
                waiting.append(packet)
                return
            packet.dts -= start
            packet.pts = packet.dts if packet.pts is None else packet.pts - start
            packet.stream = target
            container.mux_one(packet)
        if until is None:
            source.close()

    return copy
