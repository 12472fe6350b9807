"""Small images that tests make for themselves."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

MODEL = "resnet10t.toptune_glyphs"
SHAPES = ("disc", "square", "cross")


def draw_shape(shape: str, seed: int) -> Image.Image:
    """Draw one image of a shape: 48 x 48, with noise, place and color by seed."""
    rng = np.random.default_rng([SHAPES.index(shape), seed])
    image = Image.fromarray(rng.integers(0, 60, (48, 48, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    x, y = rng.integers(4, 20, 2).tolist()
    color = tuple(rng.integers(150, 256, 3).tolist())
    if shape == "disc":
        draw.ellipse((x, y, x + 22, y + 22), fill=color)
    elif shape == "square":
        draw.rectangle((x, y, x + 22, y + 22), fill=color)
    else:
        draw.line((x, y, x + 22, y + 22), fill=color, width=4)
        draw.line((x, y + 22, x + 22, y), fill=color, width=4)
    return image


@cache
def shape_file(shape: str, seed: int) -> bytes:
    """Return the PNG of `draw_shape`: many tests begin with the same images."""
    buffer = io.BytesIO()
    draw_shape(shape, seed).save(buffer, "PNG")
    return buffer.getvalue()


def save_shapes(folder: Path, per_class: int = 12) -> Path:
    """Write a folder of images, ``<shape>/<number>.png``."""
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for seed in range(per_class):
            (folder / shape / f"{seed:03}.png").write_bytes(shape_file(shape, seed))
    return folder
