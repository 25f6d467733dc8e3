"""Checks for images that occur more than once, identical or nearly so, in one split and in two."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mrcnn_jax.inspection.catalogue import Example, InspectionFinding, of_total, severity_of_share
from mrcnn_jax.inspection.image_facts import ImageFacts
from mrcnn_jax.inspection.inspected_split import InspectedSplit
from mrcnn_jax.inspection.similar_images import MIN_CONTRAST, find_similar


class _Place(NamedTuple):
    split: int
    image: int


_Group = list[_Place]


def check_copies(splits: Sequence[InspectedSplit]) -> Iterator[InspectionFinding]:
    """Yields the findings in each split, and between each two splits."""
    places = [_Place(number, index) for number, split in enumerate(splits) for index in range(len(split.images))]
    images = [image for split in splits for image in split.images]
    identical = [[places[position] for position in group] for group in group_identical(images)]
    similar = [[places[position] for position in group] for group in find_similar(images)]
    for number in range(len(splits)):
        yield from _check_within(splits, number, identical, similar)
        for other in range(number + 1, len(splits)):
            yield from _check_between(splits, (number, other), identical, similar)


def group_identical(images: Iterable[ImageFacts]) -> list[list[int]]:
    """Returns the groups of two or more positions of images with identical pixels, without blank ones."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        if image.digest and image.contrast >= MIN_CONTRAST:
            groups[image.digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _check_within(
    splits: Sequence[InspectedSplit], number: int, identical: Sequence[_Group], similar: Sequence[_Group]
) -> Iterator[InspectionFinding]:
    split = splits[number]
    total = len(split.images)
    copies = []
    for group in identical:
        own = [place for place in group if place.split == number]
        copies += [_compare(splits, own[0], place) for place in own[1:]]
    if copies:
        text = f"{of_total(len(copies), total, 'images')} of {split.name} have the pixels of another one."
        yield InspectionFinding("copied-image", "warning", (split.name,), text, len(copies), tuple(copies))
    near = []
    for group in similar:
        different = {split.images[place.image].digest: place for place in reversed(group) if place.split == number}
        own = sorted(different.values())
        near += [_compare(splits, own[0], place) for place in own[1:]]
    if near:
        text = f"{of_total(len(near), total, 'images')} of {split.name} show nearly the same as another one."
        yield InspectionFinding(
            "similar-image", severity_of_share(len(near), total), (split.name,), text, len(near), tuple(near)
        )


def _check_between(
    splits: Sequence[InspectedSplit], pair: tuple[int, int], identical: Sequence[_Group], similar: Sequence[_Group]
) -> Iterator[InspectionFinding]:
    first, second = splits[pair[0]], splits[pair[1]]
    both, total = (first.name, second.name), len(second.images)
    copies = _pair_up(splits, identical, pair)
    if copies:
        text = f"{of_total(len(copies), total, 'images')} of {second.name} are in {first.name}, too."
        yield InspectionFinding("split-copies", "error", both, text, len(copies), tuple(copies))
    known = {example.image for example in copies}
    near = [example for example in _pair_up(splits, similar, pair) if example.image not in known]
    if near:
        text = (
            f"{of_total(len(near), total, 'images')} of {second.name} show nearly the same as an image of {first.name}."
        )
        yield InspectionFinding("split-similar", "warning", both, text, len(near), tuple(near))


def _pair_up(splits: Sequence[InspectedSplit], groups: Sequence[_Group], pair: tuple[int, int]) -> list[Example]:
    """Returns an example for each image of the second split that is in a group with images of the first one."""
    examples = []
    for group in groups:
        partners = [place for place in group if place.split == pair[0]]
        others = [place for place in group if place.split == pair[1]]
        examples += [_compare(splits, partners[0], place) for place in others if partners]
    return examples


def _compare(splits: Sequence[InspectedSplit], first: _Place, second: _Place) -> Example:
    """Returns the second image as an example that is compared with the first one."""
    examples = [
        Example(splits[place.split].name, place.image, text=_count_objects(splits[place.split].images[place.image]))
        for place in (first, second)
    ]
    return Example(examples[1].split, examples[1].image, text=examples[1].text, other=examples[0])


def _count_objects(image: ImageFacts) -> str:
    count = len(image.objects)
    return f"{count} object{'s' * (count != 1)}"
