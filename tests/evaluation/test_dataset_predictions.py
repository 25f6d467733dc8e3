"""Parts of a data set that several processes predict: together they are the whole, also where they do not divide."""

import pytest

from mrcnn_jax.evaluation.dataset_predictions import PartReader, Predicted, predict_part
from tests.evaluation.test_evaluate import CATEGORIES, TEST, Images, RectangleFinder


def predict(part: tuple[int, int], undecodable: tuple[int, ...] = ()) -> tuple[Predicted, int]:
    """What a part finds, and how often it was asked whether to go on."""
    asked = []
    reader = PartReader(
        Images(undecodable=undecodable), TEST, 2, 0.5, part=part, before_batch=lambda: asked.append(part)
    )
    return predict_part(reader, RectangleFinder(), CATEGORIES), len(asked)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("undecodable", [(), (0, 5)])
def test_parts_together_are_the_whole(count, undecodable):
    whole, _ = predict((0, 1), undecodable)
    parts, asked = zip(*[predict((index, count), undecodable) for index in range(count)], strict=True)
    merged = Predicted.merge([part.encode() for part in parts])
    assert merged.rows() == whole.rows() and merged.results.keys() == whole.results.keys()
    assert merged.skipped == whole.skipped == ({"image is truncated": 2} if undecodable else {})
    assert merged.iou_types == whole.iou_types == ["bbox", "segm"]
    assert sum(len(part.results) for part in parts) == 7 - len(undecodable)  # none twice
    assert len(set(asked)) == 1  # equally often, with or without a batch of their own


def test_an_error_before_a_batch_ends_the_part():
    def stop() -> None:
        raise KeyboardInterrupt

    reader = PartReader(Images(), TEST, 2, 0.5, before_batch=stop)
    with pytest.raises(KeyboardInterrupt):
        predict_part(reader, RectangleFinder(), CATEGORIES)
