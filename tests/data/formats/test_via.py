"""VIA: every shape, attributes of every kind, and the choice of the one with the class."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.data.formats.format_data import FormatOptions
from mrcnn_jax.errors import ConfigError, DataError
from tests.data.formats.helpers import dump, findings, objects, photo, read

RECT = {"name": "rect", "x": 10, "y": 10, "width": 20, "height": 10}


def region(shape: Any, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def files_of(*regions: dict[str, Any], **changes: Any) -> dict[str, bytes]:
    entry = {"filename": "a.png", "size": 1, "regions": list(regions)} | changes
    return {"via.json": dump({"a.png1": entry}), "a.png": photo()}


def test_every_shape(tmp_path: Path) -> None:
    shapes = [
        RECT,
        {"name": "circle", "cx": 30, "cy": 20, "r": 5},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 4, "theta": np.pi / 2},
        {"name": "polygon", "all_points_x": [2, 12, 2], "all_points_y": [2, 2, 12]},
    ]
    (source,) = read(files_of(*(region(shape, label="fig") for shape in shapes)), tmp_path).sources.values()
    rect, circle, ellipse, polygon = objects(source)
    assert rect["bbox"] == [10, 10, 20, 10] and "segmentation" not in rect
    assert circle["bbox"] == [25, 15, 10, 10]
    assert ellipse["bbox"] == pytest.approx([26, 10, 8, 20])
    assert polygon["segmentation"] == [[2, 2, 12, 2, 2, 12]]


def test_the_class_is_the_only_the_usual_or_the_named_attribute(tmp_path: Path) -> None:
    def classes(name: str, *regions: dict[str, Any], **options: Any) -> list[str]:
        (tmp_path / name).mkdir()
        (source,) = read(files_of(*regions), tmp_path / name, options=FormatOptions(**options)).sources.values()
        return [item["class"] for item in objects(source)]

    assert classes("none", region(RECT)) == ["object"]
    assert classes("own", region(RECT), class_name="balloon") == ["balloon"]
    assert classes("only", region(RECT, fruit="fig")) == ["fig"]
    assert classes("usual", region(RECT, Class="fig", quality="good")) == ["fig"]
    assert classes("named", region(RECT, Class="fig", quality="good"), class_attribute="quality") == ["good"]
    assert classes("boxes", region(RECT, fruit={"fig": True, "nut": False})) == ["fig"]
    with pytest.raises(ConfigError, match="attributes fruit, quality: name the one"):
        classes("several", region(RECT, fruit="fig", quality="good"))
    with pytest.raises(ConfigError, match="no region has it; the attributes are fruit"):
        classes("wrong", region(RECT, fruit="fig"), class_attribute="kind")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    regions = [
        region(RECT, label="fig"),
        region(RECT, label=""),
        region({"name": "point", "cx": 1, "cy": 1}, label="fig"),
        region({"name": "cube"}, label="fig"),
        region({"name": "circle", "cx": 1}, label="fig"),
        region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1]}, label="fig"),
    ]
    files = files_of(*regions) | {"b.png": photo()}
    (source,) = read(files, tmp_path).sources.values()
    lines = "\n".join(findings(source, tmp_path))
    for reason in (
        "1 x region has no class (region 2",
        "1 x region has no area (region 3",
        "1 x region is of an unknown kind (region 4",
        "2 x region has no usable points (region 5",
        "1 images have no annotation and are left out ('b.png')",
        "The class of a region is its attribute 'label'.",
    ):
        assert reason in lines, reason


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"new.json is a project of VIA 3: export it as COCO"):
        read({"new.json": dump({"project": {}, "file": {}, "metadata": {}}), "a.png": photo()}, tmp_path, "via")
