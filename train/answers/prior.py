"""Probabilities of images whose classes are as frequent as elsewhere: a prior of the classes is replaced.

If images of a class look alike in both places, and only the classes differ in frequency, probabilities are
multiplied by the ratio of the frequencies and divided by their sum (Saerens, Latinne & Decaestecker 2002,
"Adjusting the outputs of a classifier to new a priori probabilities", eq. 2.4).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.options import choices
from toptune.text import counted, named
from toptune.train.answers.pairs import read_pairs

Values = npt.NDArray[np.float64]
_FORM = 'give lines "class,frequency" for all classes, or a JSON object of numbers by class'
# No probability counts as less: a class that never was likely could not become so otherwise.
_LEAST = 1e-300


def read_prior(path: str | Path, classes: Sequence[str]) -> Values:
    """Read how frequent each class is where a classifier is used.

    Parameters
    ----------
    path : path
        A table of text with the class in the first column and its frequency in the second (a share or a
        count), with or without a line of names; or a JSON object of numbers by class.
    classes : sequence of str
        The classes of the run.

    Returns
    -------
    ndarray of float64, shape (n_classes,)
        In the order of `classes`, of sum 1.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a class, names one twice or one that the run does not know, or a
        frequency is no number, below 0, infinite, or all are 0.
    """
    pairs = read_pairs(path, what="the file of class frequencies", form=_FORM, option="prior")
    found: dict[str, float] = {}
    for number, (name, text) in enumerate(pairs):
        if number == 0 and name not in classes and _number(text) is None:
            continue  # A line of names.
        if name not in classes:
            raise _refusal(
                f"{path} names class {name!r}, which the run does not have; {choices(name, classes)}"
            )
        if name in found:
            raise _refusal(f"{path} names class {name!r} twice; leave one of the lines out")
        value = _number(text)
        if value is None or not 0 <= value < math.inf:
            raise _refusal(f"{path} gives class {name!r} the frequency {text!r}; give a number from 0 on")
        found[name] = value
    if missing := [name for name in classes if name not in found]:
        raise _refusal(
            f"{path} lacks {counted(len(missing), 'class')} of the {len(classes)} of the run: "
            f"{named(missing)}; give each a frequency, 0 for a class that does not occur"
        )
    frequencies = np.array([found[name] for name in classes])
    if not frequencies.sum():
        raise _refusal(f"{path} gives every class the frequency 0; give at least one class more")
    shares: Values = frequencies / frequencies.sum()
    return shares


def trained_prior(counts: Mapping[str, int], *, class_weight: object) -> Values:
    """Return how frequent each class was where the run was trained, of sum 1.

    Weights that balance the classes make all of them equally frequent.
    """
    values = np.array([max(count, 1) for count in counts.values()], dtype=np.float64)
    if class_weight is not None:
        values = np.ones(len(values))
    shares: Values = values / values.sum()
    return shares


def with_prior(probabilities: Values, *, trained: Values, given: Values) -> Values:
    """Return probabilities (n, n_classes) for other frequencies of the classes.

    Examples
    --------
    An image that says nothing is of the class that is frequent:

    >>> even = np.array([[0.5, 0.5]])
    >>> with_prior(even, trained=np.array([0.5, 0.5]), given=np.array([0.9, 0.1])).round(6).tolist()
    [[0.9, 0.1]]
    """
    changed = np.maximum(probabilities, _LEAST) * (given / trained)
    # The largest becomes 1 first, so that the sum of very small ones does not vanish.
    changed /= changed.max(axis=1, keepdims=True)
    changed /= changed.sum(axis=1, keepdims=True)
    return changed


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _refusal(message: str) -> InputError:
    return InputError(message, option="prior")
