"""A closer look at some settings: confusion matrix, reliability, the most confident mistakes."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from scipy.sparse import csr_array

from toptune.train.figures.confusion_plot import confusion_side, draw_confusion
from toptune.workflows.gallery.thumbnails import Thumbnails
from toptune.workflows.report.carriers import carriers_of
from toptune.workflows.report.drawing import ACCENT, INK, MUTED, drawable, drawing, to_svg
from toptune.workflows.report.pairs import by_accuracy
from toptune.workflows.report.run_tables import Predictions, join_predictions
from toptune.workflows.report.runs import ReportedRun
from toptune.workflows.report.settings import Setting
from toptune.workflows.report.statistics import Reliability, bin_confidences

MAX_DETAILED = 12
N_MISTAKES = 12
N_CONFUSIONS = 10


@dataclass(frozen=True)
class Confused:
    """Images of one class that were classified as another; `share` is their share of the true class."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Carrier:
    """A training image with its signed share of the score of a prediction; `image` is a data URI or None."""

    id: str
    label: str
    share: float
    image: str | None


@dataclass(frozen=True)
class Mistake:
    """An image with a wrong prediction, and the training images that carried the prediction, where known.

    `image` is a data URI, or `reason` says why the image is missing.
    """

    id: str
    label: str
    predicted: str
    confidence: float
    image: str | None
    reason: str | None
    carriers: tuple[Carrier, ...]


@dataclass(frozen=True)
class Detail:
    """The closer look at a setting: confusion matrix, reliability diagram and mistakes.

    `is_best` says that no other setting of the data set is more accurate.
    """

    setting: Setting
    is_best: bool
    n_pictures: int
    confusion: Markup
    confusions: list[Confused]
    reliability: Markup | None
    calibration_error: float | None
    mistakes: list[Mistake]
    n_mistakes: int
    no_carriers: str | None


def choose_detailed(settings: Sequence[Setting]) -> list[Setting]:
    """Choose at most `MAX_DETAILED` settings: the best of each data set, then the second best, and so on.

    They stand in this order, so that the best come first.
    """
    ranks: dict[str, int] = defaultdict(int)
    ranked = []
    tested = [setting for setting in settings if setting.accuracy is not None]
    for setting in sorted(tested, key=by_accuracy):
        ranked.append((ranks[setting.dataset], setting))
        ranks[setting.dataset] += 1
    ranked.sort(key=lambda each: (each[0], each[1].dataset))
    # Every data set gets its best setting before any gets its second best.
    return [setting for _, setting in ranked[:MAX_DETAILED]]


def look_closely(
    settings: Sequence[Setting],
    sources: Mapping[str, Thumbnails],
    *,
    progress: Callable[[int, int], None],
) -> list[Detail]:
    """Look closely at some settings.

    Parameters
    ----------
    settings : sequence of Setting
        As `choose_detailed` orders them.
    sources : mapping of data set to Thumbnails
        Images of the data sets.
    progress : callable
        Called with ``(done, total)``.
    """
    details = []
    for number, setting in enumerate(settings):
        is_first = all(each.dataset != setting.dataset for each in settings[:number])
        details.append(_look(setting, sources.get(setting.dataset), f"detail{number}", is_best=is_first))
        progress(number + 1, len(settings))
    return details


def _look(setting: Setting, source: Thumbnails | None, name: str, *, is_best: bool) -> Detail:
    # A repetition that drew rows of other classes has a confusion matrix of other rows and columns, which
    # cannot be added.
    classes = setting.tested[0].tables.classes
    runs = [run for run in setting.tested if run.tables.classes == classes]
    # Repetitions are added up, because the few mistakes of one run say little about pairs of classes.
    counts = sum((run.tables.confusion for run in runs[1:]), start=runs[0].tables.confusion)
    found = [(run, each) for run in runs if (each := run.predictions()) is not None]
    told = join_predictions([each for _, each in found]) if found else None
    mistakes, no_carriers = _confident_mistakes(found, source)
    calibration = None if told is None else bin_confidences(told.confidence, told.is_right)
    return Detail(
        setting=setting,
        is_best=is_best,
        n_pictures=int(counts.sum()),
        confusion=_draw_confusion(counts, classes, f"{name}confusion", str(setting.dataset)),
        confusions=_most_confused(counts, classes),
        reliability=None if calibration is None else _draw_reliability(calibration, f"{name}reliability"),
        calibration_error=None if calibration is None else calibration.expected_error,
        mistakes=mistakes,
        n_mistakes=0 if told is None else int((~told.is_right).sum()),
        no_carriers=no_carriers,
    )


def _most_confused(counts: csr_array, classes: Sequence[str]) -> list[Confused]:
    pairs, members = counts.tocoo(), counts.sum(axis=1)
    # Right predictions lie on the diagonal and are no confusion.
    off = np.flatnonzero((pairs.row != pairs.col) & (pairs.data > 0))
    order = off[np.lexsort((pairs.col[off], pairs.row[off], -pairs.data[off]))][:N_CONFUSIONS]
    found = zip(pairs.row[order].tolist(), pairs.col[order].tolist(), pairs.data[order].tolist(), strict=True)
    return [
        Confused(classes[true], classes[other], count, float(count / members[true]))
        for true, other, count in found
    ]


def _confident_mistakes(
    found: Sequence[tuple[ReportedRun, Predictions]], source: Thumbnails | None
) -> tuple[list[Mistake], str | None]:
    """Find the most confident mistakes, each image once however many repetitions are wrong about it.

    Returns
    -------
    list of Mistake
    str or None
        Why the training images behind predictions are not told, where the head has such.
    """
    wrong = [
        (-float(told.confidence[at]), number, at)
        for number, (_, told) in enumerate(found)
        for at in np.flatnonzero(~told.is_right).tolist()
    ]
    chosen: dict[str, tuple[int, int]] = {}
    for _, number, at in sorted(wrong):
        # The predictions are sorted, so that the first one of an image is the most confident.
        if len(chosen) < N_MISTAKES:
            chosen.setdefault(str(found[number][1].ids[at]), (number, at))
    carried = [
        carriers_of(run, [identity for identity, (own, _) in chosen.items() if own == number])
        for number, (run, _) in enumerate(found)
    ]

    def shown(identity: str) -> tuple[str | None, str | None]:
        return (None, None) if source is None else source.read(identity)

    mistakes = []
    for identity, (number, at) in chosen.items():
        told, evidence = found[number][1], carried[number].evidence.get(identity)
        image, reason = shown(identity)
        mistakes.append(
            Mistake(
                id=identity, label=str(told.labels[at]), predicted=str(told.predicted[at]),
                confidence=float(told.confidence[at]), image=image, reason=reason,
                carriers=tuple(
                    Carrier(each.id, each.label, each.share, shown(each.id)[0])
                    for each in (() if evidence is None else evidence.centers)
                ),
            )
        )  # fmt: skip
    return mistakes, next((each.reason for each in carried if each.reason is not None), None)


def _draw_confusion(counts: csr_array, classes: Sequence[str], name: str, dataset: str) -> Markup:
    side = confusion_side(len(classes))
    with drawing(side, side) as (figure, axes):
        image = draw_confusion(axes, counts, [drawable(each, 20) for each in classes], ink=INK)
        # The page holds one dot a class, which the browser enlarges.
        image.set_interpolation("none")
        return to_svg(figure, name=name, label=f"Confusion matrix on {dataset}, {len(classes)} classes")


def _draw_reliability(calibration: Reliability, name: str) -> Markup:
    n = len(calibration.counts)
    middles, width = (np.arange(n) + 0.5) / n, 0.9 / n
    shares = calibration.counts / calibration.counts.sum()
    with drawing(3.6, 3.6) as (figure, axes):
        axes.bar(
            middles, np.nan_to_num(calibration.accuracy), width, color=ACCENT, alpha=0.75, label="accuracy"
        )
        axes.bar(middles, shares, width / 2.5, color=INK, alpha=0.55, label="share of the images")
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle="--")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share")
        axes.legend(frameon=False, fontsize=7.5, loc="upper left")
        return to_svg(figure, name=name, label="Reliability diagram: share that is right by confidence")
