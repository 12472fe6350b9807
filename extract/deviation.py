"""Faster arithmetic and faster resizing move features; the deviation from the plain model is measured here.

The plain model computes in float32 on images of the exact decode route.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from toptune.errors import NumericalError
from toptune.text import counted

# Relative error above which a precision is refused; the cosine is then about 0.995. Most networks move by
# 0.002 to 0.02 in bf16, and by 0.0002 to 0.002 in fp16.
MAX_RELATIVE_ERROR = 0.1
# Relative error on drawn images above which `--precision auto` takes fp32. Six real data sets moved features
# of MobileNetV2 and EfficientNet-Lite0, which are near the limit, by up to 1.4 times as much. The figure was
# chosen on these networks and on no others.
MAX_DRAWN_ERROR = MAX_RELATIVE_ERROR / 1.4
# Relative error above which a user is told: more than most networks move.
LARGE_RELATIVE_ERROR = 0.02


@dataclass(frozen=True)
class Deviation:
    """Deviation of the features of one array over a sample of images.

    Attributes
    ----------
    relative_error : float
        Norm of the difference, divided by the norm of the reference.
    cosine : float
        Least cosine between the features of an image and those of the reference.
    """

    relative_error: float
    cosine: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields to three digits; further digits say nothing about other images."""
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()} | {
            "cosine": round(self.cosine, 6)
        }


def measure_deviations(
    found: Mapping[str, npt.NDArray[np.float32]], reference: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, Deviation]:
    """Compare arrays (n, dim) of the same images with those of the reference, by name."""
    return {name: _deviation(found[name], reference[name]) for name in found}


def refuse_deviations(
    deviations: Mapping[str, Deviation], precision: str, route: str = "exact", *, model: str = "the model"
) -> None:
    """Refuse a precision and a decode route that move features too far.

    Raises
    ------
    NumericalError
        If the relative error of an array is above `MAX_RELATIVE_ERROR`, or not a number; the message names
        the worst array.
    """
    cause = _cause(precision, route)
    if reason := _excess(deviations, cause, of="a sample of images", limit=MAX_RELATIVE_ERROR):
        raise NumericalError(f"{model}: {reason}; use {_remedy(precision, route)}")


def find_drawn_excess(deviations: Mapping[str, Deviation], precision: str) -> str | None:
    """Say in words how far above their limit features of drawn images are moved; None if none is above."""
    return _excess(deviations, f"precision {precision}", of="drawn images", limit=MAX_DRAWN_ERROR)


def _excess(deviations: Mapping[str, Deviation], cause: str, *, of: str, limit: float) -> str | None:
    # The comparison is negated, because a relative error that is not a number must count as too large.
    wrong = {name: each for name, each in deviations.items() if not each.relative_error <= limit}
    if not wrong:
        return None
    name = max(wrong, key=lambda name: np.nan_to_num(wrong[name].relative_error, nan=np.inf))
    is_overflow = "fp16" in cause and not np.isfinite(wrong[name].relative_error)
    return (
        f"{cause} moves {name} by {wrong[name].relative_error:.2g} of its norm in {of} (least cosine "
        f"{wrong[name].cosine:.4f}), more than the limit of {limit:.2g}, and {len(wrong) - 1} other layers"
        + (", because fp16 ends at 65504" if is_overflow else "")
    )


def find_large(deviations: Mapping[str, Deviation], precision: str, route: str = "exact") -> str | None:
    """Say in words that features move further than those of most networks; None if they do not."""
    large = {name: each for name, each in deviations.items() if each.relative_error > LARGE_RELATIVE_ERROR}
    if not large:
        return None
    name = max(large, key=lambda name: large[name].relative_error)
    others = f", and {counted(len(large) - 1, 'other layer')} by more than 2 %" if len(large) > 1 else ""
    return (
        f"{_cause(precision, route)} moves {name} by {large[name].relative_error:.1%} of its norm in a "
        f"sample of images (least cosine {large[name].cosine:.4f}){others}; {_remedy(precision, route)} is "
        "exact, and slower"
    )


def is_plain(arithmetic: str) -> bool:
    """Return whether a recipe's arithmetic is the plain model's: float32, as the layers stand in the model.

    Folding counts as plain, because folding was tried on noise when the model was loaded.
    """
    return arithmetic.startswith("fp32") and "compiled" not in arithmetic


def _cause(precision: str, route: str) -> str:
    """Name what moves features, as the subject of a sentence."""
    decode = "" if route.startswith("exact") else f"decode {route}"
    if decode and is_plain(precision):
        return decode
    return f"precision {precision}" + (f" with {decode}" if decode else "")


def _remedy(precision: str, route: str) -> str:
    """Name the options that give exact features."""
    decode = [] if route.startswith("exact") else ["--decode exact"]
    return " with ".join(([] if decode and is_plain(precision) else ["--precision fp32"]) + decode)


def _deviation(found: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> Deviation:
    a, b = found.astype(np.float64), reference.astype(np.float64)
    of_a, of_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    error, norm = np.linalg.norm(a - b), np.linalg.norm(b)
    if norm == 0:
        return Deviation(0.0 if error == 0 else float("inf"), 1.0 if error == 0 else 0.0)
    products = of_a * of_b
    cosines = np.divide((a * b).sum(axis=1), products, out=np.ones_like(products), where=products > 0)
    return Deviation(float(error / norm), float(cosines.min()))
