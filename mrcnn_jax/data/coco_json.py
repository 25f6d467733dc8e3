"""Loading annotation files: JSON in UTF-8, UTF-16 or Windows-1252, with or without gzip."""

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrcnn_jax.errors import DataError

_KEYS = ("images", "annotations", "categories")
_MAX_UNPACKED = 2**32  # bytes; a small gzip file can unpack to any size


def load_coco_json(path: Path) -> tuple[bytes, dict[str, Any], str | None]:
    """Returns the file's bytes (unpacked), the JSON object in them, and what was unusual about the encoding.

    Raises DataError if the file cannot be read, or is not a JSON object.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the annotation file {path}: {error.strerror}.") from None
    return parse_coco_json(path, data)


def parse_coco_json(path: Path, data: bytes) -> tuple[bytes, dict[str, Any], str | None]:
    """Returns what `load_coco_json` does of a file with these bytes; `path` names it in messages. Raises DataError."""
    if data[:2] == b"\x1f\x8b":
        data = _unpack(path, data)
    note = None
    try:
        content = json.loads(data)
    except UnicodeDecodeError:
        try:
            content = json.loads(data.decode("cp1252"))
            note = "the file is not UTF-8 and was read as Windows-1252; save it as UTF-8 if names look wrong"
        except (ValueError, RecursionError) as error:
            raise _not_json(path, error, data) from None
    except (ValueError, RecursionError) as error:  # ValueError: JSON, numbers with thousands of digits
        raise _not_json(path, error, data) from None
    if isinstance(content, dict) and (key := _repeated_key(data)):
        raise DataError(f"{path} has {key!r} twice, of which only one can be read. Join the two lists.")
    if isinstance(content, list):
        raise DataError(f"{path} is {_describe_list(content)}; expected a COCO annotation file, a JSON object.")
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a COCO file: expected a JSON object with images, annotations and categories.")
    return data, content, note


def _unpack(path: Path, data: bytes) -> bytes:
    try:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        unpacked = unpacker.decompress(data, _MAX_UNPACKED)
        if unpacker.unconsumed_tail:
            raise DataError(f"{path} unpacks to more than {_MAX_UNPACKED // 2**30} GiB.")
        if not unpacker.eof:
            raise DataError(f"{path} is a gzip file that ends too early; copy it again.")
    except (zlib.error, gzip.BadGzipFile):
        raise DataError(f"{path} is a damaged gzip file; copy it again.") from None
    return unpacked


def _not_json(path: Path, error: Exception, data: bytes) -> DataError:
    start = data.lstrip()[:2]
    if not start:
        return DataError(f"{path} is empty.")
    if start in (b"BZ", b"\xfd7", b"7z"):
        return DataError(f"{path} is compressed. Unpack it, or compress it with gzip.")
    if isinstance(error, RecursionError):
        return DataError(f"{path} is not a COCO file: it is nested too deeply.")
    if start == b"PK":
        return DataError(
            f"{path} is a ZIP archive. Pass it to mrcnn prepare auto --from, or unpack it and name the annotation file."
        )
    if start == b"{'":
        return DataError(f"{path} is a Python dictionary, not JSON. Write it with json.dump.")
    if "Extra data" in str(error):
        return DataError(f"{path} contains several JSON values, such as JSON Lines; expected one JSON object.")
    if "integer string conversion" in str(error):
        return DataError(f"{path} is not valid JSON: it contains a number with thousands of digits.")
    return DataError(f"{path} is not valid JSON: {' '.join(str(error).split())[:200]}.")


def _repeated_key(data: bytes) -> str | None:
    """Returns a key that occurs twice in the outermost object, of which JSON readers keep the last value alone."""
    candidates = [key for key in _KEYS if data.count(f'"{key}"'.encode()) > 1]  # perhaps elsewhere, such as in names
    if not candidates:
        return None
    outermost: list[str] = []

    def keep_names(pairs: list[tuple[str, Any]]) -> None:
        outermost[:] = [name for name, _ in pairs]  # the outermost object is complete last

    json.loads(data, object_pairs_hook=keep_names)
    return next((key for key in candidates if outermost.count(key) > 1), None)


def describe_other_format(content: Mapping[str, Any]) -> str:
    """Returns a sentence that names the format of a JSON object without images, or "" if it is none that is known."""
    inner = [entry for entry in content.values() if isinstance(entry, dict)][:10]
    if "shapes" in content and ("imagePath" in content or "imageData" in content):
        return " It is LabelMe's JSON of one image: prepare the folder with mrcnn prepare labelme --from DIR."
    if "_via_img_metadata" in content or any("regions" in entry and "filename" in entry for entry in inner):
        return " It is VIA's own JSON: prepare its folder with mrcnn prepare via --from DIR."
    if "videos" in content:
        return " It lists videos, as YouTube-VIS does: images are expected, one for each frame."
    return ""


def _describe_list(content: list[Any]) -> str:
    if content and all(isinstance(entry, dict) and "score" in entry for entry in content[:10]):
        return "a list of detections"
    first = content[0] if content and isinstance(content[0], dict) else {}
    if "data" in first and ("annotations" in first or "completions" in first):
        return "Label Studio's own JSON, which it can export as COCO"
    if "annotations" in first and ("file_name" in first or "image_id" in first):
        return "a list of images with annotations inside, such as Detectron2's"
    return "a list of annotations without images"
