"""Videos through the whole road with a predictor that reads colours: files, masks, tracks, memory and interruptions."""

import gc
import json
import time
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_jax.cli.annotate_video import draw_frame
from mrcnn_jax.data.moving_shapes import draw_moving_shapes
from mrcnn_jax.errors import NumericalError, StorageError
from mrcnn_jax.inference.predict_video import predict_video
from mrcnn_jax.inference.tracking import TrackSettings
from mrcnn_jax.inference.video_input import Frame, VideoInput, open_video
from mrcnn_jax.inference.video_results import PredictedFrame
from tests.colour_predictor import ColourPredictor, write_frames

COLOURS = np.array([[255, 30, 30], [30, 255, 30], [40, 40, 255]])
LABELS = (3, 3, 8)
HW = (64, 96)


def scene(frame: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its visible masks [3, H, W]: one object moves behind another, a third one leaves in frame 10."""
    masks = np.zeros((3, *HW), bool)
    masks[0, 8:28, 40:60] = True
    masks[1, 12:28, 4 + 3 * frame : 20 + 3 * frame] = True
    masks[1] &= ~masks[0]
    if frame < 10:
        masks[2, 40:58, 60:80] = True
    return sum(mask[..., None] * colour for mask, colour in zip(masks, COLOURS, strict=True)).astype(np.uint8), masks


@pytest.fixture(scope="module")
def video_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "scene.mp4"
    return write_frames(path, [scene(frame)[0] for frame in range(25)], pix_fmt="yuv444p")


def predict(path: Path, output: Path, predictor: ColourPredictor | None = None, **options) -> tuple[dict, list[dict]]:
    with open_video(path) as video:
        summary = predict_video(predictor or ColourPredictor(COLOURS, LABELS), video, output, **options)
    rows = [json.loads(line) for line in (output / f"{path.stem}.jsonl").read_text().splitlines()]
    assert json.loads((output / f"{path.stem}.json").read_text()) == summary
    return summary, rows


def test_every_frame_has_a_line_with_its_objects_and_tracks(video_path: Path, tmp_path: Path) -> None:
    predictor = ColourPredictor(COLOURS, LABELS, batch_size=4)
    calls: list[tuple[int, int]] = []
    summary, rows = predict(
        video_path,
        tmp_path / "out",
        predictor,
        draw=draw_frame,
        track=TrackSettings(memory=10),
        progress=lambda *call: calls.append(call),
    )
    assert predictor.calls == [8, 8, 8, 1] and calls[-1] == (25, 25)
    assert [row["frame"] for row in rows] == list(range(25))
    assert [row["time"] for row in rows] == [round(0.04 * frame, 6) for frame in range(25)]
    owners: dict[int, set[int]] = {}
    for frame, row in enumerate(rows):
        masks = scene(frame)[1]
        assert len(row["detections"]) == sum(mask.sum() >= 20 for mask in masks)
        for detection in row["detections"]:
            mask = coco_mask.decode(detection["segmentation"]).astype(bool)
            overlaps = [(mask & other).sum() / (mask | other).sum() for other in masks]
            index = int(np.argmax(overlaps))
            assert overlaps[index] > 0.8 and detection["category_id"] == LABELS[index]
            assert detection["category_name"] == f"kind {LABELS[index]}" and "image_id" not in detection
            x, y, width, height = detection["bbox"]
            assert mask[int(y) : int(y + height), int(x) : int(x + width)].sum() == mask.sum()
            owners.setdefault(detection["track_id"], set()).add(index)
    assert sorted(owners) == [1, 2, 3] and all(len(each) == 1 for each in owners.values())
    by_owner = {owners[track["id"]].pop(): track for track in summary["tracks"]}
    assert [by_owner[index]["num_frames"] for index in (0, 2)] == [25, 10]
    assert by_owner[2] == {
        "id": by_owner[2]["id"], "category_id": 8, "category_name": "kind 8", "first_frame": 0, "last_frame": 9,
        "first_time": 0.0, "last_time": 0.36, "num_frames": 10, "mean_score": 0.9,
    }  # fmt: skip
    assert by_owner[1]["last_frame"] == 24 and by_owner[1]["num_frames"] < 25  # hidden in between
    assert summary["num_frames"] == 25 and summary["seconds"] == 1.0 and summary["notes"] == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scene.json", "scene.jsonl", "scene.mp4"]


def test_the_drawn_video_has_the_same_size_rate_and_length_and_its_frames_in_order(
    video_path: Path, tmp_path: Path
) -> None:
    def draw(frame: PredictedFrame) -> np.ndarray:
        time.sleep(0.01 * (frame.index % 3))  # threads finish in another order
        picture = np.full_like(frame.frame.image, 4 * frame.index)
        assert frame.numbers is not None and frame.found.has_masks and (frame.numbers > 0).all()
        for number, (mask, (y0, y1, x0, x1)) in zip(frame.numbers, frame.crops, strict=True):
            picture[y0:y1, x0:x1][mask] = 120 + 40 * number
        return picture

    _, rows = predict(video_path, tmp_path, draw=draw, track=TrackSettings())
    with av.open(str(tmp_path / "scene.mp4")) as container:
        stream = container.streams.video[0]
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.width, stream.height, stream.average_rate) == (HW[1], HW[0], 25)
        assert stream.duration * stream.time_base == 1
    assert len(images) == 25
    for index, (image, row) in enumerate(zip(images, rows, strict=True)):
        assert abs(int(image[-4, 4, 0]) - 4 * index) <= 3
        for detection in row["detections"]:
            mask = coco_mask.decode(detection["segmentation"]).astype(bool)
            assert abs(np.median(image[mask]) - (120 + 40 * detection["track_id"])) <= 5


def test_categories_and_scores_are_selected_and_nothing_is_drawn_without_draw(video_path: Path, tmp_path: Path) -> None:
    summary, rows = predict(video_path, tmp_path, category_ids=[8])
    assert "drawn" not in summary and "tracks" not in summary
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene.json", "scene.jsonl"]
    kinds = [detection["category_id"] for row in rows for detection in row["detections"]]
    assert kinds == [8] * 10 and "track_id" not in rows[0]["detections"][0]
    _, rows = predict(video_path, tmp_path, score=0.95)
    assert all(row["detections"] == [] for row in rows) and len(rows) == 25
    settings = TrackSettings(score=0.95)
    summary, rows = predict(video_path, tmp_path, score=0.95, track=settings)  # low scores start no track
    assert summary["tracks"] == [] and all(row["detections"] == [] for row in rows)


def test_a_model_without_masks_tracks_boxes(video_path: Path, tmp_path: Path) -> None:
    predictor = ColourPredictor(COLOURS, LABELS, has_masks=False)
    summary, rows = predict(video_path, tmp_path, predictor, draw=draw_frame, track=TrackSettings())
    assert len(summary["tracks"]) == 3
    assert all("segmentation" not in detection for row in rows for detection in row["detections"])


def test_a_failure_or_an_interruption_leaves_nothing_and_earlier_files_alone(video_path: Path, tmp_path: Path) -> None:
    (tmp_path / "scene.mp4").write_text("earlier")

    def fail(error: BaseException) -> None:
        class Failing(ColourPredictor):
            def __call__(self, images: list, names: list[str]) -> list:
                if sum(self.calls) > 8:
                    raise error
                return super().__call__(images, names)

        with pytest.raises(type(error)):
            predict(video_path, tmp_path, Failing(COLOURS, LABELS), draw=draw_frame, track=TrackSettings())

    fail(NumericalError("the RPN"))
    fail(KeyboardInterrupt())

    def draw(frame: PredictedFrame) -> np.ndarray:
        raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        predict(video_path, tmp_path, draw=draw)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.mp4"]
    assert (tmp_path / "scene.mp4").read_text() == "earlier"


def test_an_output_that_is_a_file_is_a_storage_error(video_path: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(StorageError, match="another folder"):
        predict(video_path, tmp_path / "out", draw=draw_frame)


@pytest.mark.parametrize("track", [None, TrackSettings()])
def test_only_the_frames_on_their_way_are_in_memory(track: TrackSettings | None, tmp_path: Path) -> None:
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0

    def frames(count: int) -> Iterator[Frame]:
        nonlocal most
        for index in range(count):
            if index % 20 == 0:
                gc.collect()
            frame = Frame(scene(index % 20)[0], index, 1)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame

    for count in (40, 80):
        video = VideoInput(Path("a.mp4"), HW, Fraction(1, 25), Fraction(25), count, frames(count), is_file=False)
        predict_video(ColourPredictor(COLOURS, LABELS), video, tmp_path, draw=draw_frame, track=track)
    assert most < 40


def test_shapes_of_generated_videos_move_bounce_and_hide_each_other() -> None:
    scenes = list(draw_moving_shapes(40, 6, seed=1))
    again = list(draw_moving_shapes(40, 6, seed=1))
    for first, second in zip(scenes, again, strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        assert first.masks.sum(0).max() == 1
        for mask, colour in zip(first.masks, first.colours, strict=True):
            np.testing.assert_array_equal(mask, (first.image == colour).all(-1))
    areas = np.array([each.masks.sum((1, 2)) for each in scenes])
    assert (areas.min(0) < 0.7 * areas.max(0)).any(), "none is hidden at times"
    assert set(np.concatenate([each.labels for each in draw_moving_shapes(1, 6, seed=1, label=4)])) == {4}


@pytest.mark.slow
def test_a_hundred_frames_of_crossing_shapes_keep_their_length_and_numbers(tmp_path: Path) -> None:
    """Ten seconds: `pytest -m slow tests/inference/test_predict_video.py`."""
    scenes = list(draw_moving_shapes(100, 8, seed=3))
    path = write_frames(tmp_path / "shapes.mp4", [each.image for each in scenes], pix_fmt="yuv444p")
    predictor = ColourPredictor(scenes[0].colours, scenes[0].labels, batch_size=8)
    summary, rows = predict(path, tmp_path / "out", predictor, draw=draw_frame, track=TrackSettings())
    with av.open(str(tmp_path / "out" / "shapes.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate, stream.width, stream.height) == (100, 25, 256, 192)
        assert stream.duration * stream.time_base == 4
    switches, last = 0, {}
    for row, each in zip(rows, scenes, strict=True):
        for detection in row["detections"]:
            mask = coco_mask.decode(detection["segmentation"]).astype(bool)
            owner = int((each.masks & mask).sum((1, 2)).argmax())
            switches += last.get(owner, detection["track_id"]) != detection["track_id"]
            last[owner] = detection["track_id"]
    assert len(rows) == 100 and len(last) == 8
    print(
        {"switches": switches, "tracks": len(summary["tracks"]), "detections": sum(len(r["detections"]) for r in rows)}
    )
    assert switches <= 1 and len(summary["tracks"]) <= 9
