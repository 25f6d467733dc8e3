"""Annotations of Pascal VOC: an XML file for each image, with a box and sometimes a polygon for each object."""

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from mrcnn_jax.data.formats.dataset_files import DatasetFiles, stem_of
from mrcnn_jax.data.formats.drawn_shapes import rectangle
from mrcnn_jax.data.formats.format_data import FormatData, FormatImage, FormatOptions
from mrcnn_jax.data.formats.split_names import split_of_path
from mrcnn_jax.data.formats.xml_files import roots, text_of
from mrcnn_jax.data.json_values import read_integer, read_number

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_boxes(files: DatasetFiles, options: FormatOptions) -> FormatData:
    """Returns the images of the XML files.

    The first pixel is 1 and the last belongs to the box, as in the official data, unless a box of the data set has a
    side at 0 or at a fraction: then sides lie between pixels, as other tools write them.
    """
    found = []
    images = []
    for name, root, fault in roots(files):
        if root is None:
            images.append(FormatImage(name, split_of_path(name), fault=fault))
        elif root.tag == "annotation":
            found.append((name, root))
    sides = [
        read_number(text_of(item, f"bndbox/{side}"))
        for _, root in found
        for item in root.iter("object")
        for side in _SIDES
    ]
    from_one = all(side is None or (side >= 1 and side == int(side)) for side in sides)
    notes = []
    if any(side is not None for side in sides):
        how = "count pixels from 1, the last included" if from_one else "lie between pixels: one is 0 or a fraction"
        notes.append(f"Sides of boxes {how}.")
    images += [_read_image(files, name, root, from_one, options) for name, root in found]
    return FormatData(images, notes=notes)


def _read_image(files: DatasetFiles, name: str, root: Element, from_one: bool, options: FormatOptions) -> FormatImage:
    folder = name.rpartition("/")[0]
    given = text_of(root, "filename") or stem_of(name)
    image = FormatImage(files.find_image(folder, given), split_of_path(name))
    if image.name not in files:
        same = files.images_by_stem.get(stem_of(name), ())
        image.name = same[0] if len(same) == 1 else image.name
    height, width = (read_integer(text_of(root, f"size/{side}")) for side in ("height", "width"))
    image.image_hw = (height, width) if height and width else None
    for number, item in enumerate(root.iter("object"), start=1):
        label = text_of(item, "name")
        corners = [read_number(text_of(item, f"bndbox/{side}")) for side in _SIDES]
        if not label:
            image.lost.append(("object has no name", f"object {number}"))
        elif polygon := _read_polygon(item):
            image.objects.append({"category": label, "segmentation": [polygon]})
        elif None in corners:
            image.lost.append(("object has neither a polygon nor a bndbox of four numbers", f"object {number}"))
        else:
            x0, y0, x1, y1 = (corner for corner in corners if corner is not None)
            shift = 1 if from_one else 0
            image.objects.append({"category": label} | rectangle(x0 - shift, y0 - shift, x1, y1, options.rectangles))
    return image


def _read_polygon(item: Element) -> list[float | None]:
    """Returns x, y, x, y, ... of an element with x1, y1, x2, y2, ..."""
    polygon = item.find("polygon")
    texts: Mapping[str, str] = {child.tag: child.text or "" for child in (polygon if polygon is not None else ())}
    points: list[float | None] = []
    while f"x{len(points) // 2 + 1}" in texts:
        number = len(points) // 2 + 1
        points += [read_number(texts[f"x{number}"]), read_number(texts.get(f"y{number}", ""))]
    return points
