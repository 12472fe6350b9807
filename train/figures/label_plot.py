"""The curves of precision over recall, a line for each label and one over all labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.store.files.writing import write_made

Values = npt.NDArray[np.float64]

# So many labels have a curve of their own, those that most rows have; more would be a tangle.
SHOWN_LABELS = 12
# A curve is drawn through at most so many points.
_POINTS = 400


def precision_recall(truth: Values, scores: Values) -> tuple[Values, Values]:
    """Return recall and precision (m,) at the distinct scores (n,) of rows, the highest score first."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return hits[last] / max(hits[-1], 1), hits[last] / (last + 1)


def label_curves(
    truth: Values, probabilities: Values, names: Sequence[str]
) -> list[tuple[str, Values, Values]]:
    """Return name, recall and precision of curves: over all labels, and of those that most rows have."""
    known = ~np.isnan(truth)
    support = (truth == 1).sum(axis=0)
    if not support.any():
        return []
    curves = [("all labels", *precision_recall(truth[known], probabilities[known]))]
    for at in np.argsort(-support, kind="stable")[:SHOWN_LABELS].tolist():
        if support[at]:
            mine = known[:, at]
            curves.append((names[at], *precision_recall(truth[mine, at], probabilities[mine, at])))
    return [(name, *_thinned(recall, precision)) for name, recall, precision in curves]


def _thinned(recall: Values, precision: Values) -> tuple[Values, Values]:
    kept = np.unique(np.linspace(0, len(recall) - 1, min(len(recall), _POINTS)).astype(np.int64))
    return recall[kept], precision[kept]


def save_precision_recall(
    path: Path,
    truth: Values,
    probabilities: Values,
    names: Sequence[str],
    thresholds: Values,
    *,
    title: str,
) -> None:
    """Draw the curves into a PNG file; nothing where no tested row has a label.

    Parameters
    ----------
    path : Path
    truth, probabilities : ndarray of float64, shape (n, n_labels)
        1, 0 or NaN (unknown), and the probabilities.
    names : sequence of str
    thresholds : ndarray of float64, shape (n_labels,)
        The point of each label's threshold is marked.
    title : str
    """
    curves = label_curves(truth, probabilities, names)
    if not curves:
        return
    # Without pyplot, no window system is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, recall, precision in curves:
        is_whole = name == curves[0][0]
        (line,) = axes.plot(recall, precision, color="black" if is_whole else None, lw=2 if is_whole else 1)
        line.set_label(name)
        if not is_whole:
            at = list(names).index(name)
            mine = ~np.isnan(truth[:, at])
            guesses = probabilities[mine, at] >= thresholds[at]
            hits = (guesses & (truth[mine, at] == 1)).sum()
            if guesses.any():
                axes.plot(
                    hits / (truth[mine, at] == 1).sum(), hits / guesses.sum(), "o", color=line.get_color()
                )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02), title=title)
    axes.legend(fontsize="x-small", loc="lower left")
    write_made(path, lambda place: figure.savefig(place, format="png", dpi=110))
