"""What several sections share: canvases, and how a value is refused."""

from collections.abc import Callable

Canvas = tuple[int, int]
"""(height, width) in pixels of a padded network input; both multiples of 32."""

SIZE_DIVISOR = 32
"""Sides of canvases are multiples of this, the stride of the coarsest body stage."""


RANGES: dict[str, Callable[[float], bool]] = {
    "1 or more": lambda value: value >= 1,
    "0 or more": lambda value: value >= 0,
    "a positive value": lambda value: value > 0,
    "0 to 1": lambda value: 0 <= value <= 1,
    "a value in (0, 1]": lambda value: 0 < value <= 1,
    "a value in [0, 1)": lambda value: 0 <= value < 1,
}
"""Ranges of values, as they are named where one is refused."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_ranges(section: str, config: object, ranges: dict[str, tuple[str, ...]]) -> None:
    """Raises ValueError for a field of which a value lies outside of its range; `ranges` has the names by range."""
    for kind, names in ranges.items():
        is_inside = RANGES[kind]
        for name in names:
            value = getattr(config, name)
            values = value if isinstance(value, tuple) else (value,)
            require(all(map(is_inside, values)), f"{section}.{name}: expected {kind}, got {value}.")


def check_flip(name: str, flip: tuple[int, ...]) -> None:
    """Raises ValueError for a map of keypoints to their counterparts that is not its own inverse."""
    require(
        all(0 <= k < len(flip) and flip[k] == own for own, k in enumerate(flip)),
        f"{name}: expected indices from 0 that exchange keypoints in pairs or keep them, got {flip}.",
    )


def check_canvases(name: str, canvases: tuple[Canvas, ...]) -> None:
    """Raises ValueError for an empty list and for sides that are no multiples of SIZE_DIVISOR."""
    require(len(canvases) > 0, f"{name}: at least one canvas is needed.")
    for height, width in canvases:
        require(
            height > 0 and width > 0 and height % SIZE_DIVISOR == 0 and width % SIZE_DIVISOR == 0,
            f"{name}: expected sides that are multiples of {SIZE_DIVISOR}, got {height}x{width}.",
        )
