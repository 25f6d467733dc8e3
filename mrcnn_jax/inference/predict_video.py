"""Predicts the frames of a video; writes a drawn copy, the detections of each frame, and a summary with the tracks.

Frames are decoded in a thread, predicted in batches in a second one, drawn in several and encoded in another. Only the
frames on their way are in memory, whatever the length of the video.
"""

import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mrcnn_jax.errors import StorageError
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.inference.read_ahead import read_ahead
from mrcnn_jax.inference.tracking import TrackSettings, follow
from mrcnn_jax.inference.video_input import Frame, VideoInput
from mrcnn_jax.inference.video_output import WriteFrame, create_video, find_encoder, padded_hw
from mrcnn_jax.inference.video_results import PredictedFrame, TrackTable

DrawFrameFn = Callable[[PredictedFrame], np.ndarray]
"""Returns a picture of the frame with its detections, uint8 RGB of the same size."""

BATCHES_HELD = 2
"""Batches that are predicted in one call, so that the device computes while the host restores detections."""
MAX_THREADS = 4
"""Threads that draw."""


def predict_video(
    predictor: Predictor,
    video: VideoInput,
    output: Path,
    *,
    draw: DrawFrameFn | None = None,
    score: float = 0.5,
    category_ids: Collection[int] | None = None,
    track: TrackSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes NAME.mp4 (with `draw`), NAME.jsonl and NAME.json to the folder `output`, all of them or none.

    NAME is that of the video. NAME.jsonl has a line for each frame (`PredictedFrame.row`) with the detections with a
    score of at least `score`, and those in a track. NAME.json is the summary, which is returned. With `track`, only
    detections in a track are drawn.

    Raises StorageError if a file cannot be written, and NumericalError if the network computes NaN or infinity.
    """
    name = output_name(video.path)
    targets = [output / f"{name}{suffix}" for suffix in (*[".mp4"] * (draw is not None), ".jsonl", ".json")]
    table, notes = TrackTable(), list[str]()
    count, seconds = 0, 0.0
    with _written_together(targets) as unfinished:
        with contextlib.ExitStack() as stack:
            lines = stack.enter_context(unfinished[-2].open("w"))
            write_frame = stack.enter_context(create_video(unfinished[0], video, notes)) if draw is not None else None
            held = BATCHES_HELD * predictor.test_config.batch_size
            frames = stack.enter_context(contextlib.closing(read_ahead(video.frames, 2 * held)))
            lowest = score if track is None else min(score, track.low_score)
            predicted = _predict_frames(predictor, video, frames, held, lowest, category_ids)
            found: Iterator[PredictedFrame] = stack.enter_context(contextlib.closing(read_ahead(predicted, held)))
            if track is not None:
                found = _track_frames(found, track, score)
            # Closed first, so that no thread writes to a file that is closed.
            done = stack.enter_context(contextlib.closing(_write_frames(found, draw, write_frame, lines)))
            for each in done:
                count, seconds = each.index + 1, float((each.frame.pts + each.frame.duration) * video.time_base)
                if track is not None:
                    table.add(each)
                if progress is not None and video.num_frames:
                    progress(min(count, video.num_frames), video.num_frames)
        summary = _describe(video, count, seconds, notes)
        if draw is not None:
            height, width = padded_hw(video.image_hw)
            drawn = {"file_name": targets[0].name, "height": height, "width": width, "encoder": find_encoder()}
            summary["drawn"] = drawn
        if track is not None:
            summary["tracks"] = table.rows({category.id: category.name for category in predictor.categories})
        unfinished[-1].write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def output_name(path: Path) -> str:
    """Returns the name of the outputs without their suffixes: that of the file without its suffix, or of the folder."""
    return path.resolve().name if path.is_dir() else path.stem


def _predict_frames(
    predictor: Predictor,
    video: VideoInput,
    frames: Iterator[Frame],
    held: int,
    score: float,
    category_ids: Collection[int] | None,
) -> Iterator[PredictedFrame]:
    """Yields the frames with their detections of at least this score and of these categories; `held` in a call."""
    start = 0
    while group := [frame for _, frame in zip(range(held), frames, strict=False)]:
        names = [f"{video.path}, frame {start + place}" for place in range(len(group))]
        all_found = predictor([frame.image for frame in group], names=names)
        for index, (frame, found) in enumerate(zip(group, all_found, strict=True), start):
            keep = found.scores >= score
            if category_ids is not None:
                keep &= np.isin(found.labels, sorted(category_ids))
            found = found.select(keep)
            crops = [found.crop_or_box(place) for place in range(len(found))]
            yield PredictedFrame(index, float(frame.pts * video.time_base), frame, found, crops)
        start += len(group)


def _track_frames(frames: Iterable[PredictedFrame], track: TrackSettings, score: float) -> Iterator[PredictedFrame]:
    """Yields the frames with track numbers, without detections of a lower score that are in no track."""
    for each, numbers in follow(((each, each.objects) for each in frames), track):
        yield replace(each, numbers=numbers).select((each.found.scores >= score) | (numbers > 0))


def _write_frames(
    frames: Iterable[PredictedFrame], draw: DrawFrameFn | None, write_frame: WriteFrame | None, lines: TextIO
) -> Generator[PredictedFrame]:
    """Yields the frames; draws them in threads and writes them in order in another one."""

    def render(each: PredictedFrame) -> tuple[np.ndarray | None, str]:
        shown = each if each.numbers is None else each.select(each.numbers > 0)
        return draw(shown) if draw is not None else None, json.dumps(each.row()) + "\n"

    def write(rendered: "Future[tuple[np.ndarray | None, str]]", frame: Frame) -> None:
        picture, line = rendered.result()
        lines.write(line)
        if write_frame is not None and picture is not None:
            write_frame(picture, frame.pts, frame.duration)

    num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    written: deque[Future[None]] = deque()
    with _cancelled(ThreadPoolExecutor(num_threads)) as painters, _cancelled(ThreadPoolExecutor(1)) as writer:
        for each in frames:
            written.append(writer.submit(write, painters.submit(render, each), each.frame))
            while len(written) > 2 * num_threads:
                written.popleft().result()
            yield each
        for future in written:
            future.result()


@contextlib.contextmanager
def _cancelled(executor: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """Ends the executor when the context does, without the calls that have not started."""
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _written_together(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Yields hidden paths beside the targets, which are renamed to them at the end, and removed after an error."""
    unfinished = [target.with_name(f".{target.name}.new") for target in targets]
    try:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(targets[0].parent, error) from error
    try:
        yield unfinished
        for path, target in zip(unfinished, targets, strict=True):
            path.replace(target)
    except OSError as error:
        raise _not_written(targets[0].parent, error) from error
    finally:
        for path in unfinished:
            path.unlink(missing_ok=True)


def _not_written(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"{folder} could not be written to: {error.strerror}. Free space or choose another folder.")


def _describe(video: VideoInput, count: int, seconds: float, notes: Sequence[str]) -> dict[str, Any]:
    height, width = video.image_hw
    findings = [f"{number} frames {text}." for text, number in video.findings.items() if number]
    return {
        "file_name": video.path.name,
        "height": height,
        "width": width,
        "num_frames": count,
        "rate": round(float(video.rate), 6),
        "seconds": round(seconds, 6),
        "notes": [*findings, *notes],
    }
