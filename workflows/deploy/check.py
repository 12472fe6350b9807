"""`compare` runs an exported file on sample images and compares it with `Classifier.predict`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.remarks import remarks_of, say_remarks
from toptune.extract.images.source import ImageSource, read_bytes
from toptune.extract.sources.builtin import open_builtin
from toptune.extract.sources.opening import open_source
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.names import CLASSIFICATION, REGRESSION
from toptune.workflows.deploy.formats import Runner
from toptune.workflows.deploy.network_inputs import NetworkInput
from toptune.workflows.predict.classifier import Classifier
from toptune.workflows.predict.images import find_images
from toptune.workflows.predict.windows import windows

N_IMAGES = 16
# Batches of 5, of what is left over, and of single images show that the batch size is free. A network traced
# for one size, or a pooling over the batch, fails on one of them.
BATCH_SIZE = 5
N_ALONE = 3
DEFAULT_CHECK = "digits"
# Where the probabilities vary or doubt less than this over all images, they would hardly move even if the
# logits were wrong, and the comparison shows little.
_VARIES = 1e-3
_DOUBTS = 1e-3
# What is compared of a head that gives numbers.
PREDICTIONS = "predictions"


@dataclass(frozen=True, kw_only=True)
class ExportCheck:
    """Result of the comparison of a file with its run.

    Attributes
    ----------
    data : str
        Where the images came from.
    n_pictures : int
        Number of images that were compared.
    batch_sizes : tuple of int
        Batch sizes that were tried.
    difference : float
        Largest difference of a probability from the run's own in float32.
    difference_from_predict : float
        Largest difference from what `Classifier.predict` gives; more than `difference` where the features
        were computed in another precision.
    n_other_labels : int
        Number of images whose label differs from the label that `Classifier.predict` gives; 0 of numbers.
    spread : float
        Largest standard deviation of a class's probability over the images.
    doubt : float
        Largest probability left to the classes that are not an image's label.
    what : str
        What was compared: probabilities, or predictions, whose differences are in standard deviations of the
        target.
    """

    data: str
    n_pictures: int
    batch_sizes: tuple[int, ...]
    difference: float
    difference_from_predict: float
    n_other_labels: int
    spread: float
    doubt: float
    what: str = "probabilities"

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self) | {"batch_sizes": list(self.batch_sizes)}

    @property
    def told_difference(self) -> str:
        """How far the file is from `Classifier.predict`, in words."""
        if self.what == PREDICTIONS:
            return (
                f"numbers differ by up to {self.difference_from_predict:.1e} standard deviations of their "
                "target from toptune predict's"
            )
        return f"probabilities differ by up to {self.difference_from_predict:.1e} from toptune predict's"

    @property
    def told_others(self) -> str:
        """How many labels differ, as the end of a sentence; empty text of numbers."""
        if self.what == PREDICTIONS:
            return ""
        return f", {self.n_other_labels} of {self.n_pictures} labels do"

    @property
    def warnings(self) -> list[str]:
        """Sentences about what the figures do not show."""
        what = (
            "says nearly the same of"
            if self.spread < _VARIES
            else "is all but certain of"
            if self.doubt < _DOUBTS
            else None
        )
        if what is None:
            return []
        return [
            f"the head {what} all {self.n_pictures} images of {self.data}, so the comparison shows little; "
            "give other images with --check [TT504]"
        ]


def sample_inputs(
    classifier: Classifier,
    wanted: Sequence[NetworkInput],
    data: str | Path | None,
    *,
    is_normalized: bool,
) -> tuple[list[bytes], list[npt.NDArray[np.float32]]]:
    """Take images evenly from DATA; return their encoded bytes, and the inputs of an exported network.

    Parameters
    ----------
    classifier : Classifier
    wanted : sequence of NetworkInput
        The inputs of the file.
    data : optional
        See `toptune.extract.open_source`; by default the built-in digits.
    is_normalized : bool
        Whether the inputs are normalized; otherwise they are RGB values from 0 to 1.

    Returns
    -------
    list of bytes
        The encoded images.
    list of ndarray of float32, shape (n, 3, h, w)
        The same images as the file takes them, for each input.

    Raises
    ------
    InputError
        If no image can be read.
    """
    files: list[bytes] = []
    reason = ""
    inputs: list[list[torch.Tensor]] = [[] for _ in wanted]
    # The built-in is not opened by name, because a folder called digits would take precedence.
    source = open_builtin(DEFAULT_CHECK) if data is None else open_source(data)
    say_remarks(remarks_of(source), source.name)
    for data_bytes in _files(source):
        try:
            found = [
                each.transform.pixels(classifier.backbones[each.places[0]].decode(data_bytes))
                for each in wanted
            ]
        except UnreadableImageError as error:
            reason = reason or str(error)
            continue
        files.append(data_bytes)
        for each, own, pixels in zip(wanted, inputs, found, strict=True):
            values = torch.from_numpy(pixels)[None]
            unit = values.permute(0, 3, 1, 2).to(torch.float32).div(255)
            own.append((each.transform.normalize(values) if is_normalized else unit).contiguous())
    if not files:
        raise InputError(
            f"no image of {source.name} can be read as the run reads images ({reason or 'there are none'}); "
            "give images of its kind with --check"
        )
    return files, [torch.cat(own).numpy() for own in inputs]


def compare(
    run: Runner,
    inputs: Sequence[npt.NDArray[np.float32]],
    *,
    expected: npt.NDArray[np.float64],
    predicted: npt.NDArray[np.float64],
    data: str,
    form: AnswerForm,
    scale: npt.NDArray[np.float64] | None = None,
) -> ExportCheck:
    """Run a file on images, in batches and a few one by one, and compare the outputs.

    Parameters
    ----------
    run : callable
        Function that computes probabilities (b, n_classes) of images (b, 3, h, w) by the file.
    inputs : sequence of ndarray of float32, shape (n, 3, h, w)
        Images as the file takes them, for each of its inputs.
    expected, predicted : ndarray of float64, shape (n, n_classes)
        Probabilities, or numbers, by the run in float32, and by `Classifier.predict`.
    data : str
        Where the images came from.
    form : AnswerForm
        How outputs become answers.
    scale : ndarray of float64, shape (n_targets,), optional
        What differences of numbers are divided by.
    """
    n = len(inputs[0])

    def answers(start: int, stop: int) -> npt.NDArray[np.float32]:
        return run([images[start:stop] for images in inputs])

    together = np.concatenate([answers(start, start + BATCH_SIZE) for start in range(0, n, BATCH_SIZE)])
    alone = np.concatenate([answers(row, row + 1) for row in range(min(n, N_ALONE))])
    unit = 1.0 if scale is None else scale
    is_measured = form.task == REGRESSION and not form.is_ordinal
    others = 0 if is_measured else _n_others(form.texts(together.astype(np.float64)), form.texts(predicted))
    is_class = form.task == CLASSIFICATION
    return ExportCheck(
        data=data,
        n_pictures=n,
        batch_sizes=(1, min(n, BATCH_SIZE)),
        difference=float(
            max(_largest((together - expected) / unit), _largest((alone - expected[: len(alone)]) / unit))
        ),
        difference_from_predict=_largest((together - predicted) / unit),
        n_other_labels=others,
        spread=float((expected.std(axis=0) / unit).max()),
        doubt=float(1 - expected.max(axis=1).min()) if is_class else 1.0,
        what=PREDICTIONS if form.task == REGRESSION else "probabilities",
    )


def _n_others(found: Sequence[str], expected: Sequence[str]) -> int:
    return sum(one != other for one, other in zip(found, expected, strict=True))


def probabilities_of(classifier: Classifier, files: list[bytes]) -> npt.NDArray[np.float64]:
    """Compute probabilities (n, n_classes) of images as `Classifier.predict` does, without things."""
    found = windows(classifier.network, find_images(files), batch_size=32, progress=None)
    return np.concatenate([answers.probabilities for answers, _, _ in found])


def _largest(differences: npt.NDArray[np.float64]) -> float:
    """Return the largest absolute difference; NaN, which no comparison would find, counts as infinite."""
    return float(np.nan_to_num(np.abs(differences), nan=np.inf).max())


def _files(source: ImageSource) -> Iterator[bytes]:
    """Yield up to `N_IMAGES` readable images, evenly spread: neighbors are often of one class."""
    n = source.manifest().n_rows
    for row in np.unique(np.linspace(0, n - 1, min(n, N_IMAGES)).astype(int)):
        try:
            yield read_bytes(source, int(row))
        except UnreadableImageError:
            continue
