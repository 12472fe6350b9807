"""Panels of symmetric and triangular matrices, of which half need not be computed."""

# An eighth of the rows, within bounds: narrow panels compute little above the diagonal, wide ones run at the
# matrix product's full rate.
_COUNT = 8
_BOUNDS = (128, 640)


def panels(size: int) -> list[slice]:
    """Cut the rows of a square matrix into consecutive ones."""
    step = min(max(size // _COUNT, _BOUNDS[0]), _BOUNDS[1])
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
