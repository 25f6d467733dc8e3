"""COCO's categories, which are not stored in published weights. Their ids have gaps (cocodataset.org)."""

from collections.abc import Sequence

from mrcnn_jax.categories import Category

_NAMES = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat, 10 traffic light,
11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow,
22 elephant, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase, 34 frisbee,
35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, 41 skateboard, 42 surfboard,
43 tennis racket, 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl, 52 banana, 53 apple,
54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake, 62 chair, 63 couch,
64 potted plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard,
77 cell phone, 78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 84 book, 85 clock, 86 vase, 87 scissors,
88 teddy bear, 89 hair drier, 90 toothbrush
"""

COCO = tuple(
    Category(int(number), name)
    for number, name in (entry.strip().split(" ", 1) for entry in _NAMES.replace("\n", " ").split(","))
)
"""The 80 categories, by id."""

UNUSED = "N/A"
"""Name for ids that COCO does not use; torchvision's models have outputs for them."""

COCO_WITH_GAPS = tuple({category.id: category for category in COCO}.get(i, Category(i, UNUSED)) for i in range(1, 91))
"""Categories with ids 1 to 90, including the unused ones."""

PERSON = Category(
    1,
    "person",
    keypoints=(
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
        *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee"),
        *("right_knee", "left_ankle", "right_ankle"),
    ),
    skeleton=(
        *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9)),
        *((8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
    ),
)
"""COCO's person with 17 keypoints; the skeleton counts from 1."""


def default_categories(num_classes: int, num_keypoints: int, names: Sequence[str] = ()) -> tuple[Category, ...]:
    """Returns categories with these names; without, COCO's if the numbers match COCO's, else numbered categories.

    Names that are COCO's, in its order, have COCO's ids; others count from 1.
    """
    if names and tuple(names) != tuple(category.name for category in COCO):
        return tuple(Category(id_, name) for id_, name in enumerate(names, start=1))
    if (num_classes, num_keypoints) == (1, len(PERSON.keypoints)):
        return (PERSON,)
    known = {len(COCO): COCO, len(COCO_WITH_GAPS): COCO_WITH_GAPS}
    return known.get(num_classes) or tuple(Category(i, f"class {i}") for i in range(1, num_classes + 1))
