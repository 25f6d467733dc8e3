"""Images from files, folders, patterns, lists, stdin and archives: names, order, and archives that mean harm."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from mrcnn_jax.data import archives
from mrcnn_jax.errors import DataError
from mrcnn_jax.inference.image_sources import InputFile, find_images, picture_names


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def names_of(inputs: list[object], output: Path = Path("nowhere"), stdin: bytes = b"") -> list[str]:
    return [file.name for file in find_images([str(each) for each in inputs], output, lambda: stdin).files]


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_folders_are_searched_below_by_suffix_and_files_are_taken_as_they_are(tmp_path):
    touch(tmp_path / "in", "b.JPG", "a.png", "deep/er/c.tif", "deep/a.png", "deep/.hidden.png", "out/pictures/a.jpg")
    touch(tmp_path, "in/notes.txt", "in/README", "odd.name")
    inputs = [tmp_path / "odd.name", str(tmp_path / "in"), tmp_path / "in" / "a.png"]
    found = find_images(inputs, output=tmp_path / "in" / "out")
    assert [file.name for file in found.files] == ["odd.name", "a.png", "b.JPG", "deep/a.png", "deep/er/c.tif"]
    assert found.left_out == {"repeated": 1, ".txt": 1, "no suffix": 1}


def test_missing_inputs_and_folders_without_images_are_refused(tmp_path):
    touch(tmp_path, "empty/x.txt")
    for given, message in {
        "nowhere": "nowhere does not exist",
        "*.png": "no file matches",
        "empty": "No images in",
        "@list.txt": r"The list .*list\.txt cannot be read",
    }.items():
        text = f"@{tmp_path}/list.txt" if given.startswith("@") else str(tmp_path / given)
        with pytest.raises(DataError, match=message):
            find_images([text], output=tmp_path / "out")


def test_two_images_of_one_name_are_named_with_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a/0001.png", "b/0001.png", "b/0002.png")
    assert names_of(["a", "b"]) == ["a/0001.png", "b/0001.png", "b/0002.png"]
    assert names_of(["a/0001.png", "../" + tmp_path.name + "/b/0001.png"]) == [
        "a/0001.png",
        f"{tmp_path.name}/b/0001.png",
    ]
    assert names_of(["b"]) == ["0001.png", "0002.png"]


def test_patterns_match_in_order_unless_a_file_has_the_name(tmp_path):
    touch(tmp_path, "x2.png", "x10.png", "x3.txt", "deep/x1.png", "[a].png")
    assert names_of([tmp_path / "x*.*"]) == ["x10.png", "x2.png"]
    assert names_of([tmp_path / "**" / "x*.png"]) == ["x1.png", "x10.png", "x2.png"]
    assert names_of([tmp_path / "[a].png"]) == ["[a].png"]


def test_lists_and_stdin_name_files_folders_and_archives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a b.png", "folder/c.png")
    make_zip(tmp_path / "z.zip", {"d.png": b"d"})
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa b.png\r\n\nfolder\nz.zip\ngone.png\n")
    assert names_of(["@list.txt"]) == ["a b.png", "c.png", "z.zip/d.png", "gone.png"]
    assert names_of(["-"], stdin=b"a b.png\0folder/c.png\0") == ["a b.png", "c.png"]
    gone = find_images(["@list.txt"], tmp_path).files[-1]
    assert gone.stored_size() == -1
    with pytest.raises(DataError, match=r"gone\.png is missing"):
        gone.read_bytes()


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_archives_are_read_in_their_order(tmp_path, suffix):
    members = {"b/2.png": b"two", "1.png": b"one" * 5000, "._1.png": b"", "notes.txt": b"", "b/3.JPG": b"three"}
    path = tmp_path / f"in{suffix}"
    compression = {".tgz": "gz", ".tar": ""}.get(suffix, suffix.rpartition(".")[2])
    _ = make_zip(path, members) if suffix == ".zip" else make_tar(path, members, f"w:{compression}")
    found = find_images([path], tmp_path / "out")
    assert [file.name for file in found.files] == [f"in{suffix}/{name}" for name in ("b/2.png", "1.png", "b/3.JPG")]
    for file in reversed(found.files):  # in any order
        assert file.read_bytes() == members[file.name.removeprefix(f"in{suffix}/")]
        assert file.stored_size() == len(file.read_bytes())
    assert found.left_out == {".txt": 1}
    assert found.files[0].in_order == (suffix not in (".zip", ".tar"))
    assert list(tmp_path.iterdir()) == [path], "nothing is extracted"


def test_members_cannot_leave_a_folder_or_hide_each_other(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in {
            "../../up.png": "f",
            "/root.png": "f",
            "link.png": "l",
            "pipe.png": "p",
            "d.png": "d",
        }.items():
            info = tarfile.TarInfo(name)
            info.type = {"f": tarfile.REGTYPE, "l": tarfile.SYMTYPE, "p": tarfile.FIFOTYPE, "d": tarfile.DIRTYPE}[kind]
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("same.png"))
    names = names_of([path])
    assert [name.rpartition("/")[2] for name in names] == ["up.png", "root.png", "same.png", "same_2.png"]
    for name in [*names, *picture_names([InputFile(path, name) for name in names])]:
        assert (tmp_path / "out" / name).resolve().is_relative_to(tmp_path / "out")


def test_small_archives_that_expand_to_much_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    bomb = {"bomb.png": bytes(10**6), "ok.png": b"ok"}
    for path in (make_zip(tmp_path / "x.zip", bomb), make_tar(tmp_path / "x.tgz", bomb, "w:gz")):
        large, small = find_images([path], tmp_path / "out").files
        with pytest.raises(DataError, match=r"bomb\.png has 1000000 bytes"):
            large.read_bytes()
        assert small.read_bytes() == b"ok"
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    with pytest.raises(DataError, match=r"more than 1 files\. Split it"):
        find_images([path], tmp_path / "out")


def test_a_size_that_lies_is_found(tmp_path):
    content = bytes(range(256)) * 40
    path = make_zip(tmp_path / "x.zip", {"a.png": content})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 24  # the uncompressed size in the central directory
    data[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(bytes(data))
    (file,) = find_images([path], tmp_path / "out").files
    with pytest.raises(DataError, match=r"a\.png is damaged"):
        file.read_bytes()


def test_a_header_of_a_tar_that_would_fill_the_memory_is_refused(tmp_path):
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(DataError, match="no whole archive"):
        find_images([tmp_path / "x.tar"], tmp_path / "out")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.3])
def test_damaged_archives_are_refused(tmp_path, suffix, keep):
    members = {f"{k}.png": bytes(range(256)) * 8 for k in range(4)}
    path = tmp_path / f"x{suffix}"
    whole = make_zip(path, members) if suffix == ".zip" else make_tar(path, members, "w:gz" if "gz" in suffix else "w")
    path.write_bytes(whole.read_bytes()[: int(keep * path.stat().st_size)] or b"no archive")
    with pytest.raises(DataError, match=r"x\.(zip|tar|tar\.gz) is no whole archive"):
        find_images([path], tmp_path / "out")


def test_pictures_of_clashing_and_long_names_differ(tmp_path):
    names = ["a.png", "A.jpg", "a_2.png", f"{'ü' * 120}1.png", f"{'ü' * 120}2.png", "d/a.png"]
    found = list(picture_names([InputFile(tmp_path, name) for name in names]))
    assert found[:3] == ["a", "A_2", "a_2_2"] and found[5] == "d/a"
    assert len(set(found)) == 6 and all(len(name.encode()) <= 200 for name in found)
