"""XML without document types, so that no entity can expand and no other file can be included."""

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault

_MAX_DEPTH = 50
_HEAD = 10_000  # bytes in which the root starts


def parse_xml(data: bytes) -> Element:
    """Returns the root of a document. Raises FileFault if it is malformed, or declares a document type."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise FileFault("XML file is nested too deeply")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise FileFault("XML file declares a document type")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError):
        raise FileFault("file is not valid XML") from None


def root_tag(files: DatasetFiles, name: str) -> str:
    """Returns the name of the document's root; nothing if it cannot be read."""
    try:
        found = re.search(
            rb"<([A-Za-z_][\w.-]*)", re.sub(rb"<!--.*?-->", b"", files.read(name)[:_HEAD], flags=re.DOTALL)
        )
    except FileFault:
        return ""
    return found[1].decode() if found else ""


def roots(files: DatasetFiles) -> Iterator[tuple[str, Element | None, str]]:
    """Yields the name of each XML file with its root, or None and why it cannot be read."""
    for name in files.with_suffix(".xml"):
        try:
            yield name, parse_xml(files.read(name)), ""
        except FileFault as fault:
            yield name, None, fault.reason


def text_of(element: Element | None, path: str) -> str:
    """Returns the text of a descendant without spaces around it; nothing if there is none."""
    return ((element.findtext(path) if element is not None else "") or "").strip()
