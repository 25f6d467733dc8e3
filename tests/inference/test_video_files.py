"""Videos in and out: frames, times, sizes, rotation, colours, audio, and files that are damaged or no videos."""

import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from mrcnn_jax.errors import ConfigError, DataError, StorageError
from mrcnn_jax.inference import video_output
from mrcnn_jax.inference.read_ahead import read_ahead
from mrcnn_jax.inference.video_input import Frame, open_video
from mrcnn_jax.inference.video_output import create_video
from mrcnn_jax.visualization.overlays import save_picture
from tests.colour_predictor import write_frames

QUARTERS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 60))
"""Colours of the quarters of an image: top left, top right, bottom left, bottom right."""
TOLERANCE = 12  # of colours, after lossy encoding


def quarters(height: int = 48, width: int = 64, brightness: float = 1.0) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for index, colour in enumerate(QUARTERS):
        rows = slice(height // 2, None) if index // 2 else slice(height // 2)
        columns = slice(width // 2, None) if index % 2 else slice(width // 2)
        image[rows, columns] = np.array(colour) * brightness
    return image


def centres(image: np.ndarray) -> np.ndarray:
    """The colours at the centres of the quarters."""
    height, width = image.shape[:2]
    return np.array([image[y, x] for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)], int)


def copy_video(source: Path, target: Path) -> list[str]:
    notes: list[str] = []
    with open_video(source) as video, create_video(target, video, notes) as write:
        for frame in video.frames:
            write(frame.image, frame.pts, frame.duration)
    return notes


def read_all(path: Path) -> tuple[list[Frame], list[float]]:
    with open_video(path) as video:
        frames = list(video.frames)
        return frames, [round(float(frame.pts * video.time_base), 6) for frame in frames]


@pytest.mark.parametrize("size", [(48, 64), (49, 63), (720, 1280)])
@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_a_copy_has_the_same_frames_times_and_colours(
    size: tuple[int, int], encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_output, "ENCODERS", {encoder: video_output.ENCODERS[encoder]})
    path = write_frames(tmp_path / "a.mkv", [quarters(*size)] * 10, pix_fmt="yuv444p")
    copy_video(path, tmp_path / "b.mp4")
    (frames, times), (copied, copied_times) = read_all(path), read_all(tmp_path / "b.mp4")
    assert len(copied) == 10 and times == pytest.approx([0.04 * index for index in range(10)])
    assert copied_times == pytest.approx(times, abs=1e-4)
    even = tuple(side + side % 2 for side in size)
    assert frames[0].image.shape[:2] == size and copied[0].image.shape[:2] == even
    for frame in (frames[5], copied[5]):
        np.testing.assert_allclose(centres(frame.image), QUARTERS, atol=TOLERANCE)
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == {"libx264": "h264"}.get(encoder, encoder)
        assert float(stream.duration * stream.time_base) == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rates_keep_their_times(suffix: str, tmp_path: Path) -> None:
    pts = np.cumsum([0, 40, 10, 100, 40, 7, 300, 33]).tolist()
    path = write_frames(tmp_path / f"a{suffix}", [quarters()] * 8, pts=pts, time_base=Fraction(1, 1000))
    copy_video(path, tmp_path / "b.mp4")
    expected = [each / 1000 for each in pts]
    assert read_all(path)[1] == read_all(tmp_path / "b.mp4")[1] == expected


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotation_of_the_file_is_applied(degrees: int, tmp_path: Path) -> None:
    """The file demands an anticlockwise rotation: after 90 degrees the top right quarter is at the top left."""
    path = write_frames(tmp_path / "a.mp4", [quarters()] * 3, rotation=degrees)
    copy_video(path, tmp_path / "b.mp4")
    order = {90: (1, 3, 0, 2), -90: (2, 0, 3, 1), 180: (3, 2, 1, 0)}[degrees]
    for each in (path, tmp_path / "b.mp4"):
        image = read_all(each)[0][0].image
        assert image.shape[:2] == ((48, 64) if degrees == 180 else (64, 48))
        np.testing.assert_allclose(centres(image), np.array(QUARTERS)[list(order)], atol=TOLERANCE)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


@pytest.mark.parametrize(("codec", "suffix", "is_kept"), [("aac", ".mp4", True), ("wmav2", ".asf", False)])
def test_audio_is_copied_or_reported(codec: str, suffix: str, is_kept: bool, tmp_path: Path) -> None:
    path = write_frames(tmp_path / f"a{suffix}", [quarters()] * 50, audio=codec)
    notes = copy_video(path, tmp_path / "b.mp4")

    def packets(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            streams = container.streams.audio
            return [bytes(packet) for packet in container.demux(streams) if packet.size] if streams else []

    assert len(packets(path)) > 10
    assert packets(tmp_path / "b.mp4") == (packets(path) if is_kept else [])
    assert notes == ([] if is_kept else ["The audio (wmav2) cannot be stored in an MP4 file and is left out."])


def damage(path: Path, numbers: tuple[int, ...]) -> None:
    """Overwrites the data of these packets of the video."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for position, size in (places[number] for number in numbers):
        content[position + 6 : position + size] = b"\x55" * (size - 6)
    path.write_bytes(content)


def test_damaged_frames_are_left_out_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(20)]
    path = write_frames(tmp_path / "a.mp4", noise)
    damage(path, (7, 12))
    with open_video(path) as video:
        frames = list(video.frames)
        assert video.num_frames == 20 and len(frames) == 18
        assert video.findings["damaged, which are left out"] == 2
    assert all(first.pts < second.pts for first, second in pairwise(frames))


def test_a_file_that_ends_early_is_reported(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.mkv", [quarters(brightness=k / 60) for k in range(60)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_video(path) as video:
        count = len(list(video.frames))
        assert 0 < count < 40
        assert video.findings["missing at the end of the file"] == 60 - count


def test_files_that_are_no_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    whole = write_frames(tmp_path / "a.mp4", [quarters()] * 5)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:900])
    (tmp_path / "folder").mkdir()
    expected = {
        "text.mp4": "cannot be opened as a video",
        "empty.mp4": "cannot be opened as a video",
        "cut.mp4": "contains no video",
        "nowhere.mp4": "is missing or not a regular file",
        "folder": "No images in",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message), open_video(tmp_path / name):
            pass


def test_without_pyav_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install \"mrcnn-jax\[video\]\""), open_video(tmp_path / "a.mp4"):
        pass


def test_a_folder_of_images_is_a_video(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        save_picture(tmp_path / f"f{number}.png", np.full((20, 30, 3), 10 * number, np.uint8))
    save_picture(tmp_path / "f11.png", np.full((40, 60, 3), 110, np.uint8))
    (tmp_path / "f2.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").touch()
    with open_video(tmp_path, rate=29.97) as video:
        frames = list(video.frames)
        assert (video.num_frames, video.rate, video.time_base) == (5, Fraction(2997, 100), Fraction(100, 2997))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 90, 100, 110]
    assert [frame.pts for frame in frames] == [0, 2, 3, 4]  # the time of the damaged one remains
    assert all(frame.image.shape == (20, 30, 3) for frame in frames)
    assert sorted(video.findings.values()) == [1, 1]


def test_a_folder_that_does_not_exist_is_a_storage_error(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.mp4", [quarters()] * 5)
    with pytest.raises(StorageError, match="could not be written"):
        copy_video(path, tmp_path / "nowhere" / "b.mp4")


def test_items_are_read_ahead_in_order_up_to_the_limit() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    for number in read_ahead(items(), 3):
        assert made == list(range(len(made))) and len(made) <= number + 6
    assert made == list(range(50))
    assert list(read_ahead(iter([]), 3)) == []


def test_an_error_follows_the_items_before_it_and_a_closed_iterator_leaves_no_thread() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise DataError("damaged")

    got = []
    with pytest.raises(DataError, match="damaged"):
        for item in read_ahead(items(), 2):
            got.append(item)
    assert got == list(range(5))
    before = threading.active_count()
    ahead = read_ahead(iter(range(10**9)), 2)
    assert next(ahead) == 0 and threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before
