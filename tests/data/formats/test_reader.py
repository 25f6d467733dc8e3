"""Recognition, archives, splits by hash, and the command."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mrcnn_jax.cli import prepare_data
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.formats.dataset_files import DatasetFiles
from mrcnn_jax.data.formats.format_data import FormatOptions
from mrcnn_jax.data.formats.reader import format_sources
from mrcnn_jax.data.formats.split_names import parse_shares, split_of_file, split_of_path
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.errors import ConfigError, DataError
from tests.data.formats import mask_writers, writers
from tests.data.formats.helpers import objects, photo, read
from tests.data.formats.writers import make_photos


def test_several_formats_are_refused_by_name(tmp_path: Path) -> None:
    photos = make_photos(2)
    files = writers.labelme(photos) | writers.yolo(photos)
    with pytest.raises(ConfigError, match=r"fits several formats \(labelme: 0.json has .*; yolo: labels/"):
        read(files, tmp_path)
    assert read(files, tmp_path, "yolo").sources["train"].num_images == 2


@pytest.mark.parametrize("make", ["missing", "empty", "text", "damaged.zip", "data.tar.gz"])
def test_what_cannot_be_read_is_named(make: str, tmp_path: Path) -> None:
    path = tmp_path / make
    if make == "empty":
        path.mkdir()
    elif make != "missing":
        path.write_bytes(b"no archive")
    with pytest.raises(DataError) as caught:
        format_sources(path)
    assert make in str(caught.value) and "\n" not in str(caught.value)


def test_members_that_lead_outside_are_counted_and_not_read(tmp_path: Path) -> None:
    files = writers.labelme(make_photos(2))
    path = writers.save(files | {"../../evil.json": b"{}", "/etc/evil.png": b""}, tmp_path / "data.zip")
    assert all("evil" not in name for name in DatasetFiles(path).names)
    (source,) = format_sources(path).sources.values()
    assert any("2 members of the archive lead outside" in note for note in source.findings.notes)


def test_members_that_expand_beyond_their_size_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrcnn_jax.data.archives.MAX_FILE_BYTES", 50_000)
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", json.dumps(writers.labelme_content(make_photos(1)[0])))
        archive.writestr("0.png", photo() + bytes(10**6))
        archive.writestr("b.json", b" " * 10**6)
    (source,) = format_sources(path, "labelme").sources.values()
    with pytest.raises(DataError, match=r"all 2 images are left out.*file cannot be read from the archive"):
        prepare(source, tmp_path / "to", "train")


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text(json.dumps(writers.labelme_content(make_photos(1)[0])))
    writers.save(writers.labelme(make_photos(2)), tmp_path / "data")
    (tmp_path / "data" / "link.json").symlink_to(tmp_path / "secret.json")
    (source,) = format_sources(tmp_path / "data").sources.values()
    assert source.findings.images == {"file cannot be opened": ["'link.json'"]}


def test_splits_by_hash_are_stable_and_keep_copies_together(tmp_path: Path) -> None:
    photos = [photo for seed in range(10) for photo in make_photos(4)[:1]]
    photos = [
        writers.Photo(f"{number:02d}.png", photo((20, 20), number % 20), (20, 20), given.items)
        for number, given in enumerate([*photos, *photos, *photos])
    ]

    def split(count: int) -> dict[str, set[str]]:
        path = writers.save(writers.labelme(photos[:count]), tmp_path / str(count))
        sources = format_sources(path, shares=(0.5, 0.3, 0.2)).sources
        assert list(sources) == ["train", "val", "test"]
        return {
            name: {source.load(index).file_name for index in range(source.num_images)}
            for name, source in sources.items()
        }

    all_30, first_20 = split(30), split(20)
    assert sum(map(len, all_30.values())) == 30
    where = {name: each for each, names in all_30.items() for name in names}
    assert all(where[name] == each for each, names in first_20.items() for name in names)
    assert all(where[f"{number:02d}.png"] == where[f"{number + 20:02d}.png"] for number in range(10))
    # of 20 different images, about 10, 6 and 4
    assert 5 <= len(first_20["train"]) <= 15


def test_splits_by_hash_hold_for_coco_files(tmp_path: Path) -> None:
    photos = make_photos(4)
    files = writers.cvat_coco(photos)
    sources = read(files, tmp_path, shares=(0.5, 0.5)).sources
    prepared = [prepare(source, tmp_path / "to", name) for name, source in sources.items()]
    assert sum(each.num_objects for each in prepared) == sum(len(photo.items) for photo in photos)
    summary = json.loads((tmp_path / "to" / "val" / "skipped.json").read_text())
    assert summary["num_images"] == summary["kept"]["images"] == prepared[1].num_images


def test_shares_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for text in ("0.8", "0.8,0.3", "1,0", "a,b", "0.4,0.3,0.2,0.1"):
        with pytest.raises(ValueError, match="two or three shares"):
            parse_shares(text)
    photos = make_photos(2)
    with pytest.raises(DataError, match="The split val gets none of 2 images"):
        read(writers.labelme(photos), tmp_path, shares=(0.999999, 0.000001))
    (tmp_path / "two").mkdir()
    both = {f"{split}/{name}": data for split in ("train", "val") for name, data in writers.labelme(photos).items()}
    with pytest.raises(ConfigError, match="has the splits train, val; leave out --split"):
        read(both, tmp_path / "two", shares=(0.5, 0.5))


def test_names_of_splits() -> None:
    assert split_of_path("stage1_train/a/images/a.png") == "train"
    assert split_of_path("images/Val2017/a.png") == split_of_path("valid/a.png") == "val"
    assert split_of_path("obj_train_data/a.png") == "train" and split_of_path("training_day.png") == ""
    assert split_of_file("annotations/instances_val2017.json") == "val"
    assert split_of_file("train/_annotations.coco.json") == "train" and split_of_file("instances_default.json") == ""


def test_coco_files_of_one_split_have_to_be_chosen(tmp_path: Path) -> None:
    content = json.dumps(writers.coco_content(make_photos(2))).encode()
    files = {"annotations/instances_train.json": content, "annotations/person_keypoints_train.json": content}
    with pytest.raises(ConfigError, match="are both for train: name one with prepare coco"):
        read(files | writers.with_images(make_photos(2), "train/"), tmp_path)


def test_images_of_a_coco_file_are_those_of_its_split(tmp_path: Path) -> None:
    photos = make_photos(2)
    swapped = [writers.Photo(a.name, b.data, b.image_hw, b.items) for a, b in zip(photos, photos[::-1], strict=True)]
    files = {}
    for split, given in (("train", photos), ("val", swapped)):
        files[f"annotations/instances_{split}2017.json"] = json.dumps(writers.coco_content(given)).encode()
        files |= writers.with_images(given, f"{split}2017/")
    sources = read(files, tmp_path).sources
    assert [sources[split].load(0).data for split in ("train", "val")] == [photos[0].data, photos[1].data]
    assert len(objects(sources["val"])) == len(photos[1].items)


def test_options_of_other_formats_are_refused(tmp_path: Path) -> None:
    files = writers.labelme(make_photos(1))
    for options, message in (
        (FormatOptions(class_attribute="a"), "--class-attribute is for VIA"),
        (FormatOptions(class_name="a"), "--class-name is for masks and VIA"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(files, tmp_path, options=options)


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
    prepare_data.main()


def test_the_command_prepares_all_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = writers.save(mask_writers.masks(make_photos(4)), tmp_path / "data.zip")
    to = tmp_path / "to"
    arguments = ["auto", "--from", str(path), "--to", str(to), "--split", "0.5,0.5", "--class-name", "nut"]
    run(arguments, monkeypatch)
    printed = capsys.readouterr()
    assert "Format: masks (masks/0.png has the name of images/0.png)." in printed.err
    assert f"--data.train {to}:train --data.val {to}:val" in printed.out.splitlines()[-1]
    assert open_dataset(f"{to}:val").categories[0].name == "nut"
    run(arguments, monkeypatch)
    assert capsys.readouterr().out.count("Reused") == 2
    with pytest.raises(ConfigError, match="was made from something else"):
        run([*arguments[:-1], "fig"], monkeypatch)
    with pytest.raises(ConfigError, match="two or three shares"):
        run(["auto", "--from", str(path), "--to", str(to), "--split", "train"], monkeypatch)


def test_the_command_ends_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mrcnn_jax", "prepare", "voc", "--from", str(tmp_path), "--to", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3 and done.stderr == f"error: {tmp_path} contains no file.\n"
