"""What several sections share: canvases, and how a value is refused."""

Canvas = tuple[int, int]
"""(height, width) in pixels of a padded network input; both multiples of 32."""

SIZE_DIVISOR = 32
"""Sides of canvases are multiples of this, the stride of the coarsest body stage."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


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
