"""Writes one small data set in every format, independently of the readers."""

import base64
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

Polygon = list[list[float]]


@dataclass(frozen=True)
class Item:
    """An object: its class and its outline [[x, y], ...] in pixels."""

    label: str
    polygon: Polygon

    @property
    def flat(self) -> list[float]:
        return [side for point in self.polygon for side in point]

    def mask(self, image_hw: tuple[int, int]) -> np.ndarray:
        """The rule of COCO: bool [H, W]."""
        (code,) = coco_mask.frPyObjects([self.flat], *image_hw)
        return coco_mask.decode(code).astype(bool)


@dataclass(frozen=True)
class Photo:
    """An image and its objects."""

    name: str
    data: bytes
    image_hw: tuple[int, int]
    items: tuple[Item, ...]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0]

    def numbers(self) -> np.ndarray:
        """The objects' numbers from 1 on, int [H, W]; later ones hide earlier ones."""
        drawn = np.zeros(self.image_hw, np.int32)
        for number, item in enumerate(self.items, start=1):
            drawn[item.mask(self.image_hw)] = number
        return drawn


def make_photos(count: int = 4, names: tuple[str, ...] = ("date", "fig", "hazelnut")) -> list[Photo]:
    """Images of noise with up to six polygons in cells of a grid, with corners of two decimals."""
    photos = []
    for index in range(count):
        rng = np.random.default_rng(index)
        height, width = 48 + 8 * index, 90
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        data = cv2.imencode(".png", pixels)[1].tobytes()
        items = []
        for cell in range(6 if index != 1 else 2):
            x, y = 15 + 30 * (cell % 3), 12 + 22 * (cell // 3)
            angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
            radii = rng.uniform(5, 9.5, 7)
            points = np.round(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1), 2)
            items.append(Item(names[cell % len(names)], points.tolist()))
        photos.append(Photo(f"{index}.png", data, (height, width), tuple(items)))
    return photos


def class_names(photos: list[Photo]) -> list[str]:
    return sorted({item.label for photo in photos for item in photo.items})


Files = dict[str, bytes]
"""Content by name."""


def save(files: Files, path: Path) -> Path:
    """Writes a folder or, if the path ends so, a zip file with a stray file of macOS."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
            archive.writestr("__MACOSX/._0.png", b"\0")
        return path
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def _dump(content: Any) -> bytes:
    return json.dumps(content).encode()


def png(values: np.ndarray, palette: bool = False) -> bytes:
    import io

    image = Image.fromarray(values.astype(np.uint8 if values.max(initial=0) < 256 else np.uint16))
    if palette:
        image = image.convert("L")
        image.putpalette([channel for index in range(256) for channel in (index, 255 - index, 7 * index % 256)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


Segment = Callable[[Photo, int], Any]


def as_polygon(photo: Photo, index: int) -> Any:
    return [photo.items[index].flat]


def as_own_mask(photo: Photo, index: int) -> Any:
    """The object's whole mask as run lengths."""
    return _encode(photo.items[index].mask(photo.image_hw))


def as_visible_mask(photo: Photo, index: int) -> Any:
    """The run lengths of what is not hidden by later objects."""
    return _encode(photo.numbers() == index + 1)


def _encode(mask: np.ndarray) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def coco_content(photos: list[Photo], segment: Segment = as_polygon, label: str = "") -> dict[str, Any]:
    """The reference: numbered from 1 in the order of names, without boxes and areas, which other formats lack."""
    names = [label] if label else class_names(photos)
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    for image_id, photo in enumerate(sorted(photos, key=lambda photo: photo.name), start=1):
        height, width = photo.image_hw
        content["images"].append({"id": image_id, "file_name": photo.name, "height": height, "width": width})
        for index, item in enumerate(photo.items):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": names.index(label or item.label) + 1,
                    "segmentation": segment(photo, index),
                    "iscrowd": 0,
                }
            )
    return content


def with_images(photos: list[Photo], folder: str) -> Files:
    return {f"{folder}{photo.name}": photo.data for photo in photos}


def roboflow_coco(photos: list[Photo]) -> Files:
    return {"train/_annotations.coco.json": _dump(coco_content(photos)), **with_images(photos, "train/")}


def cvat_coco(photos: list[Photo]) -> Files:
    return {
        "annotations/instances_default.json": _dump(coco_content(photos)),
        **with_images(photos, "images/default/"),
    }


def labelme_content(photo: Photo, *, embedded: bool = False) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {"label": item.label, "points": item.polygon, "group_id": None, "shape_type": "polygon", "flags": {}}
            for item in photo.items
        ],
        "imagePath": f"..\\pictures\\{photo.name}" if embedded else photo.name,
        "imageData": base64.b64encode(photo.data).decode() if embedded else None,
        "imageHeight": photo.image_hw[0],
        "imageWidth": photo.image_hw[1],
    }


def labelme(photos: list[Photo]) -> Files:
    return {f"{photo.stem}.json": _dump(labelme_content(photo)) for photo in photos} | with_images(photos, "")


def labelme_embedded(photos: list[Photo]) -> Files:
    return {f"a/{photo.stem}.json": _dump(labelme_content(photo, embedded=True)) for photo in photos}


def yolo_line(item: Item, names: list[str], image_hw: tuple[int, int]) -> str:
    height, width = image_hw
    shares = [repr(side / (height if index % 2 else width)) for index, side in enumerate(item.flat)]
    return " ".join([str(names.index(item.label)), *shares])


def yolo(photos: list[Photo], images: str = "images/train/", labels: str = "labels/train/") -> Files:
    names = class_names(photos)
    files = with_images(photos, images)
    for photo in photos:
        lines = [yolo_line(item, names, photo.image_hw) for item in photo.items]
        files[f"{labels}{photo.stem}.txt"] = "\n".join(lines).encode()
    listed = "".join(f"  {number}: {name}\n" for number, name in enumerate(names))
    files["data.yaml"] = f"path: ../datasets/mine\ntrain: {images}\nnames:\n{listed}".encode()
    return files


def roboflow_yolo(photos: list[Photo]) -> Files:
    files = yolo(photos, "train/images/", "train/labels/")
    names = class_names(photos)
    files["data.yaml"] = f"train: ../train/images\nval: ../valid/images\nnc: {len(names)}\nnames: {names}\n".encode()
    return files


def _via_regions(photo: Photo, as_dict: bool) -> Any:
    regions = [
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": [x for x, _ in item.polygon],
                "all_points_y": [y for _, y in item.polygon],
            },
            "region_attributes": {"fruit": item.label},
        }
        for item in photo.items
    ]
    return {str(number): region for number, region in enumerate(regions)} if as_dict else regions


def via1(photos: list[Photo]) -> Files:
    content = {
        f"{photo.name}{len(photo.data)}": {"filename": photo.name, "size": 1, "regions": _via_regions(photo, True)}
        for photo in photos
    }
    return {"via_region_data.json": _dump(content), **with_images(photos, "")}


def via2(photos: list[Photo]) -> Files:
    metadata = {
        f"{photo.name}-1": {"filename": photo.name, "regions": _via_regions(photo, False), "file_attributes": {}}
        for photo in photos
    }
    content = {"_via_settings": {}, "_via_img_metadata": metadata, "_via_attributes": {}}
    return {"project.json": _dump(content), **with_images(photos, "images/")}


def cvat_xml(photos: list[Photo], shape: Callable[[Photo, Item], str], extra: str = "") -> bytes:
    names = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in class_names(photos))
    images = "".join(
        f'<image id="{number}" name="{photo.name}" width="{photo.image_hw[1]}" height="{photo.image_hw[0]}">'
        + "".join(shape(photo, item) for item in photo.items)
        + "</image>"
        for number, photo in enumerate(photos)
    )
    meta = f"<meta><task><labels>{names}{extra}</labels></task></meta>"
    return f'<?xml version="1.0"?><annotations><version>1.1</version>{meta}{images}</annotations>'.encode()


def cvat(photos: list[Photo]) -> Files:
    def shape(photo: Photo, item: Item) -> str:
        points = ";".join(f"{x},{y}" for x, y in item.polygon)
        return f'<polygon label={quoteattr(item.label)} source="manual" occluded="0" points="{points}" z_order="0"/>'

    return {"annotations.xml": cvat_xml(photos, shape), **with_images(photos, "images/")}


POLYGON_FORMATS = {
    "roboflow_coco": (roboflow_coco, "coco"),
    "cvat_coco": (cvat_coco, "coco"),
    "labelme": (labelme, "labelme"),
    "labelme_embedded": (labelme_embedded, "labelme"),
    "yolo": (yolo, "yolo"),
    "roboflow_yolo": (roboflow_yolo, "yolo"),
    "via1": (via1, "via"),
    "via2": (via2, "via"),
    "cvat": (cvat, "cvat"),
}


def png_of_colours(values: np.ndarray) -> bytes:
    """RGB [H, W, 3] as PNG."""
    return cv2.imencode(".png", values[..., ::-1])[1].tobytes()
