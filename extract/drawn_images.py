"""Images that are drawn here, the same on every machine, decide what ``--precision auto`` means for a model.

The overlapping discs of the dead-leaves model have the edges, occlusions and power spectrum of photographs
(Lee, Mumford & Huang 2001, "Occlusion models for natural images"). Crowded scenes alone would flatter bf16:
rounding weighs more where most of an image is plain ground, or smooth because a small image was enlarged.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

IMAGES_OF_KIND = 6
_SEED = 0
# Discs of a crowded scene, and of a few objects on a plain, light ground.
_SCENE, _OBJECTS = 250, 6
_LIGHTEST, _GROUND_RANGE = 0.95, 0.15
# Side of the images that are enlarged.
_THUMBNAIL = 32
# Radii of discs as shares of an image's side; their density falls with the third power.
_LEAST_RADIUS, _LARGEST_RADIUS = 0.02, 0.5

Pixels = npt.NDArray[np.uint8]


def draw_images(size: tuple[int, int]) -> dict[str, Pixels]:
    """Draw a few images of each kind.

    Parameters
    ----------
    size : tuple of int
        Height and width in pixels.

    Returns
    -------
    dict of str to array (6, height, width, 3) of uint8
        ``scenes``, ``objects`` on a plain ground, and ``thumbnails`` of such objects, enlarged.
    """
    # Only `random` is drawn from: numpy promises least change for its stream.
    rng = np.random.default_rng(_SEED)
    times = range(IMAGES_OF_KIND)
    scenes = [_drawn(rng, size, _SCENE, rng.random(3)) for _ in times]
    objects = [_drawn(rng, size, _OBJECTS, _light(rng)) for _ in times]
    small = [_drawn(rng, (_THUMBNAIL, _THUMBNAIL), _OBJECTS, _light(rng)) for _ in times]
    height, width = size
    enlarged = [
        np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC)) for each in small
    ]
    return {"scenes": np.stack(scenes), "objects": np.stack(objects), "thumbnails": np.stack(enlarged)}


def _light(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return _LIGHTEST - _GROUND_RANGE * rng.random() - 0.1 * rng.random(3)


def _drawn(
    rng: np.random.Generator, size: tuple[int, int], n_discs: int, ground: npt.NDArray[np.float64]
) -> Pixels:
    """Draw shaded discs over each other, and a little noise over all; colors lie in [0, 1]."""
    height, width = size
    pixels = np.empty((height, width, 3))
    pixels[:] = ground
    for share, row, column, level, *rest in rng.random((n_discs, 9)):
        radius = min(size) / np.sqrt(share / _LEAST_RADIUS**2 + (1 - share) / _LARGEST_RADIUS**2)
        row, column = row * height, column * width
        top, left = max(0, int(row - radius)), max(0, int(column - radius))
        down, right = np.ogrid[
            top : min(height, int(row + radius) + 2), left : min(width, int(column + radius) + 2)
        ]
        is_inside = (down - row) ** 2 + (right - column) ** 2 < radius**2
        tint, slopes = np.array(rest[:3]) - 0.5, (np.array(rest[3:]) - 0.5) / min(size)
        shade = slopes[0] * (down - row) + slopes[1] * (right - column)
        part = pixels[top : top + len(down), left : left + right.shape[1]]
        part[is_inside] = level + 0.5 * tint + shade[is_inside][:, np.newaxis]
    pixels += 0.06 * (rng.random(pixels.shape) - 0.5)
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
