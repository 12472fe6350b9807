"""Properties of images that explain trouble: size, aspect, brightness, blur, blank images, odd modes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import laplace

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.source import ImageSource, read_bytes
from toptune.extract.images.view import View
from toptune.machine.ahead import ahead
from toptune.machine.cores import reading_threads
from toptune.workflows.inspection.findings import EXCLUDE, IMAGE, Finding
from toptune.workflows.inspection.pixels import EDGE

# Properties are measured at this size, so that blur of large and of small images can be compared.
_EDGE_PIXELS = 256
# Modified z-scores above this are labeled outliers by Iglewicz & Hoaglin 1993 ("How to detect and handle
# outliers", §3.3).
MOST_Z = 3.5
# The mean absolute deviation in place of a median one that is 0, with the factor of the same authors.
_OF_MEDIAN, _OF_MEAN = 1.4826, 1.253314
# What deviates by less than these factors from the median harms nothing, however alike the other images are.
_LEAST_PIXELS, _LEAST_ASPECT, _LEAST_SHARPNESS = np.log(4.0), np.log(1.5), np.log(4.0)
_LEAST_BRIGHTNESS = 25.0
# Gray values of a blank image deviate by less than this from their mean, of 255.
BLANK_DEVIATION = 2.0
# A mode is odd if so few images have it, while nearly all others share one.
ODD_SHARE, USUAL_SHARE = 0.05, 0.9


@dataclass(frozen=True, kw_only=True)
class ImageProperties:
    """What was measured of one image.

    Attributes
    ----------
    width, height : int
        Pixels, as the file says.
    mode : str
        Pillow's name of the pixels' kind, such as ``RGB``.
    brightness, deviation : float
        Mean and standard deviation of the gray values, of 255.
    sharpness : float
        Variance of the Laplacian of the gray values at a size of about 256 pixels (Pech-Pacheco et al. 2000);
        blurred images have a small one.
    tile : bytes
        Gray values of the image at EDGE x EDGE pixels, row by row, by which copies are told.
    """

    width: int
    height: int
    mode: str
    brightness: float
    deviation: float
    sharpness: float
    tile: bytes = field(default=bytes(EDGE * EDGE), repr=False)

    @classmethod
    def of(cls, data: bytes) -> "ImageProperties":
        """Measure the image in some bytes.

        Raises
        ------
        UnreadableImageError
            If the bytes cannot be decoded.
        """
        view = View.of(data, edge=_EDGE_PIXELS)
        decoded, (width, height), mode = view.image.convert("L"), view.size, view.mode
        share = _EDGE_PIXELS / min(decoded.size)
        if share < 1:
            size = [max(1, round(edge * share)) for edge in decoded.size]
            decoded = decoded.resize((size[0], size[1]), Image.Resampling.BOX)
        tile = decoded.resize((EDGE, EDGE), Image.Resampling.BOX)
        gray = np.asarray(decoded, dtype=np.float64)
        return cls(
            width=width,
            height=height,
            mode=mode,
            brightness=float(gray.mean()),
            deviation=float(gray.std()),
            sharpness=float(laplace(gray).var()),
            tile=tile.tobytes(),
        )


def measure_images(
    source: ImageSource, rows: Sequence[int], *, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[int, ImageProperties], dict[int, str]]:
    """Decode images, some at a time, and measure them.

    Parameters
    ----------
    source : ImageSource
    rows : sequence of int
        Rows of the source.
    progress : callable, optional
        Called with the images that are done, and the number of images.

    Returns
    -------
    dict of int to ImageProperties
        By row.
    dict of int to str
        Why an image could not be read, by row.
    """
    found, failed = {}, {}
    threads = reading_threads()

    def measured(row: int) -> ImageProperties | str:
        try:
            return ImageProperties.of(read_bytes(source, row))
        except UnreadableImageError as error:
            return str(error)

    with ThreadPoolExecutor(threads, thread_name_prefix="toptune-read") as pool:
        submitted = ahead(rows, lambda row: pool.submit(measured, row), 2 * threads)
        for done, (row, future) in enumerate(submitted, start=1):
            outcome = future.result()
            if isinstance(outcome, str):
                failed[row] = outcome
            else:
                found[row] = outcome
            if progress is not None:
                progress(done, len(rows))
    return found, failed


def rows_in(source: ImageSource, ids: Sequence[str], *, data: str) -> dict[int, int]:
    """Return the row of DATA for each row of the data set whose image is there.

    Raises
    ------
    InputError
        If none of the images is in DATA.
    """
    place = {image: row for row, image in enumerate(source.manifest().ids)}
    found = {row: place[image] for row, image in enumerate(ids) if image in place}
    if not found:
        raise InputError(
            f"data {data} has none of the {len(ids)} images of the data set, for instance {ids[0]!r}, but "
            f"{next(iter(place))!r}; give the images that were extracted",
            option="data",
        )
    return found


def image_findings(found: Mapping[int, ImageProperties], ids: Sequence[str]) -> list[Finding]:
    """Return a finding for each property in which an image is far from the other images.

    Parameters
    ----------
    found : mapping of int to ImageProperties
        By row.
    ids : sequence of str
        Id of each row.
    """
    rows = sorted(found)
    if not rows:
        return []
    each = [found[row] for row in rows]
    pixels = np.log([item.width * item.height for item in each])
    aspects = np.log([item.width / item.height for item in each])
    brightness = np.array([item.brightness for item in each])
    blank = np.array([item.deviation < BLANK_DEVIATION for item in each])
    # Logarithms, because sharpness spans orders of magnitude; a blank image has none.
    sharpness = np.log([max(item.sharpness, 1e-3) for item in each])
    scores = {
        "small": modified_z(-pixels, least=_LEAST_PIXELS),
        "large": modified_z(pixels, least=_LEAST_PIXELS),
        "elongated": np.maximum(
            modified_z(aspects, least=_LEAST_ASPECT), modified_z(-aspects, least=_LEAST_ASPECT)
        ),
        "dark": np.where(blank, 0.0, modified_z(-brightness, least=_LEAST_BRIGHTNESS)),
        "bright": np.where(blank, 0.0, modified_z(brightness, least=_LEAST_BRIGHTNESS)),
        "blurred": np.where(blank, 0.0, modified_z(-sharpness, least=_LEAST_SHARPNESS)),
    }
    findings = [
        Finding(id=ids[rows[at]], kind=IMAGE, score=float(values[at]), suggestion=name)
        for name, values in scores.items()
        for at in np.flatnonzero(values > MOST_Z).tolist()
    ]
    findings += [
        Finding(id=ids[rows[at]], kind=IMAGE, score=1.0, suggestion="blank")
        for at in np.flatnonzero(blank).tolist()
    ]
    modes = Counter(item.mode for item in each)
    (usual, n_usual), n = modes.most_common(1)[0], len(each)
    if n_usual >= USUAL_SHARE * n:
        findings += [
            Finding(id=ids[row], kind=IMAGE, score=1.0, suggestion=f"mode {found[row].mode}")
            for row in rows
            if found[row].mode != usual and modes[found[row].mode] <= ODD_SHARE * n
        ]
    return findings


def failure_findings(failed: Mapping[int, str], ids: Sequence[str]) -> list[Finding]:
    """Return a finding for each image that could not be read."""
    return [Finding(id=ids[row], kind=IMAGE, score=1.0, suggestion=EXCLUDE) for row in sorted(failed)]


def modified_z(values: npt.NDArray[np.float64], *, least: float) -> npt.NDArray[np.float64]:
    """Return how far each value (n,) is above the median, in robust deviations of the values above it.

    Only one side is measured, because sizes and brightness are seldom symmetric. Where at least half of the
    values on that side are the median itself, their mean deviation takes the place of the median one. Values
    that are less than `least` above the median get 0.
    """
    above = values - np.median(values)
    side = above[above >= 0]
    scale = _OF_MEDIAN * float(np.median(side)) or _OF_MEAN * float(side.mean())
    return np.where(above >= least, above / (scale or 1.0), 0.0)
