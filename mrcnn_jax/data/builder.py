"""Writing prepared splits as TensorFlow Datasets folders (ArrayRecord; TensorFlow is not needed).

`tfds.builder_from_directory(DIR/SPLIT)` reads a split without this package. Images keep their encoded bytes, and each
object keeps its exact COCO annotation as JSON text beside the usual TFDS columns. The TFDS metadata contains the
categories, the ids and sizes of the images, the numbers of objects with and without a mask (crowds are not counted),
and the fingerprint of the source.
"""

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import clip_bbox, has_mask
from mrcnn_jax.data.source import Source, SourceImage
from mrcnn_jax.errors import StorageError

FORMAT = 2
"""Version of the format. In version 1, images without the annotated size when upright were read as stored."""

READABLE_FORMATS = (1, FORMAT)
"""Versions that can be read; others are refused."""

ANNOTATION_FIELDS = ("bbox", "area", "segmentation", "keypoints")
"""Fields of an object's JSON text."""


def _features() -> Any:
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(doc="Encoded bytes of the source file."),
            "image/id": np.int64,
            "image/filename": tfds.features.Text(),
            "image/height": np.int32,
            "image/width": np.int32,
            "image/void": tfds.features.Text(doc="Pixels that are not evaluated, as an RLE in JSON; or empty."),
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "label": tfds.features.Scalar(np.int32, doc="1..C, position among the categories by id."),
                    "bbox": tfds.features.BBoxFeature(doc="Clipped to the image, for browsing."),
                    "is_crowd": np.bool_,
                    "annotation": tfds.features.Text(doc="Exact bbox, area, segmentation, keypoints, as JSON."),
                }
            ),
        }
    )


def _encode(image: SourceImage, labels: dict[int, int]) -> dict[str, Any]:
    """Returns the image in the form that `_features` describes."""
    import tensorflow_datasets as tfds

    height, width = image.image_hw
    objects = []
    for annotation in image.annotations:
        x0, y0, x1, y1 = clip_bbox(annotation["bbox"], image.image_hw)
        exact = {name: annotation[name] for name in ANNOTATION_FIELDS if name in annotation}
        objects.append(
            {
                "id": annotation["id"],
                "label": labels[annotation["category_id"]],
                "bbox": tfds.features.BBox(ymin=y0 / height, xmin=x0 / width, ymax=y1 / height, xmax=x1 / width),
                "is_crowd": bool(annotation.get("iscrowd", 0)),
                "annotation": json.dumps(exact, separators=(",", ":")),
            }
        )
    return {
        "image": io.BytesIO(image.data),
        "image/id": image.image_id,
        "image/filename": image.file_name,
        "image/height": height,
        "image/width": width,
        "image/void": json.dumps(image.void, separators=(",", ":")) if image.void else "",
        "objects": objects,
    }


def _make_builder(folder: Path, source: Source, split: str, images: Iterator[SourceImage]) -> Any:
    """Returns a TFDS builder that writes these images as one split, in their order, somewhere below `folder`."""
    import tensorflow_datasets as tfds

    labels = {category.id: label for label, category in enumerate(source.categories, start=1)}
    metadata = tfds.core.MetadataDict(
        format=FORMAT,
        source=source.name,
        fingerprint=source.fingerprint,
        depth=source.depth,
        categories=[vars(category) for category in source.categories],
        image_ids=[],
        image_hw=[],
        num_objects=[],
        num_crowds=0,
        num_with_mask=0,
        num_without_mask=0,
    )

    class Instances(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """Images with instance masks, in the vocabulary of COCO."""

        VERSION = tfds.core.Version("1.0.0")
        url_infos = None  # otherwise TFDS looks for checksums of downloads beside this module

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Images with instance masks, made from {source.name}.",
                features=_features(),
                metadata=metadata,
                disable_shuffling=True,  # image_ids and image_hw have this order; the pipeline shuffles
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples()}

        def _log_download_bytes(self) -> None:
            """Does nothing; TFDS would print the temporary folder, which is of no use to the user."""

        _log_download_done = _log_download_bytes

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for index, image in enumerate(images):
                metadata["image_ids"].append(image.image_id)
                metadata["image_hw"].append(list(image.image_hw))
                objects = [annotation for annotation in image.annotations if not annotation.get("iscrowd")]
                num_with_mask = sum(map(has_mask, objects))
                metadata["num_objects"].append(len(objects))
                metadata["num_crowds"] += len(image.annotations) - len(objects)
                metadata["num_with_mask"] += num_with_mask
                metadata["num_without_mask"] += len(objects) - num_with_mask
                yield index, _encode(image, labels)

    return Instances(data_dir=folder, file_format="array_record")


def write_split(path: Path, source: Source, images: Iterator[SourceImage], notes: Callable[[], dict[str, Any]]) -> None:
    """Writes the images as the TFDS folder `path`, replacing an existing one. Raises StorageError.

    Everything is written into a hidden folder beside it, which is renamed at the end. Until then `path` is unchanged,
    even if `images` or `notes` raise. `notes()` is called after the last image and written to `skipped.json`.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise StorageError(f"Cannot write to {path.parent}: {error.strerror}.") from None
    try:
        builder = _make_builder(temporary, source, path.name, images)
        builder.download_and_prepare()
        built = Path(builder.data_path)
        (built / "skipped.json").write_text(json.dumps(notes(), indent=2) + "\n")
        if path.exists():
            path.rename(temporary / "replaced")
        built.rename(path)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
