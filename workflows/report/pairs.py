"""Settings compared: heads beside fine-tuning, and the best of a data set beside all others."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from toptune.train.reports.statistics import corrected_paired_test, holm
from toptune.train.rows.splits import NAMED
from toptune.workflows.report.runs import ReportedRun
from toptune.workflows.report.settings import Setting
from toptune.workflows.report.statistics import MIN_SEEDS

# A difference that is this improbable by chance alone tells two settings apart.
_LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """A method compared with a fine-tuning, over n pairs of runs.

    Attributes
    ----------
    method, finetuning : str
    speedups : ndarray of float64, shape (n,)
        Seconds of fine-tuning over seconds of training the head.
    speedups_with_extraction : ndarray of float64
        Speed-ups that count the extraction of the head's features too, where it was measured.
    differences : ndarray of float64
        Accuracy of the head minus accuracy of the fine-tuning, for pairs with test rows.
    """

    method: str
    finetuning: str
    speedups: npt.NDArray[np.float64]
    speedups_with_extraction: npt.NDArray[np.float64]
    differences: npt.NDArray[np.float64]


def compare_with_finetuning(settings: Sequence[Setting]) -> list[Comparison]:
    """Pair every frozen run with every fine-tuning of the same data set, backbone, size and seed."""
    # Runs are paired by seed, because one seed draws the same split and sample for both; the difference
    # then has less noise.
    tuned: dict[tuple[object, ...], list[tuple[str, ReportedRun]]] = defaultdict(list)
    for setting in settings:
        for run in setting.runs if setting.is_finetuned else ():
            tuned[_key(run)].append((setting.method, run))
    pairs: dict[tuple[str, str], list[tuple[ReportedRun, ReportedRun]]] = defaultdict(list)
    for setting in settings:
        for run in () if setting.is_finetuned else setting.runs:
            for finetuning, other in tuned[_key(run)]:
                pairs[setting.method, finetuning].append((run, other))
    return [
        Comparison(
            method=method,
            finetuning=finetuning,
            speedups=np.array([other.seconds / run.seconds for run, other in found]),
            speedups_with_extraction=np.array(
                [
                    other.seconds / (run.seconds + extraction)
                    for run, other in found
                    if (extraction := run.cost("extract_seconds")) is not None
                ]
            ),
            differences=np.array(
                [
                    run.accuracy - other.accuracy
                    for run, other in found
                    if run.accuracy is not None and other.accuracy is not None
                ]
            ),
        )
        for (method, finetuning), found in sorted(pairs.items())
    ]


def _key(run: ReportedRun) -> tuple[object, ...]:
    sizes = (run.options.get(name) for name in ("train_size", "shots"))
    # The size counts, because fine-tuning on few images is another problem than on many.
    return (run.dataset, run.model, run.seed, *sizes)


@dataclass(frozen=True, eq=False)
class Answer:
    """The best setting on a data set.

    Attributes
    ----------
    best : Setting
        The setting with the highest mean accuracy; of equals, the cheapest.
    alike : tuple of Setting
        Settings that cannot be told apart from the best, by falling accuracy.
    apart : int
        Number of the settings that can.
    cheapest : Setting
        Of the best and those alike, the one that costs the fewest seconds.
    has_extraction : bool
        Whether these seconds count the extraction of features, which the runs on features then all know.
    """

    best: Setting
    alike: tuple[Setting, ...]
    apart: int
    cheapest: Setting
    has_extraction: bool

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.best.dataset

    @property
    def equals(self) -> tuple[Setting, ...]:
        """The best setting and those alike."""
        return (self.best, *self.alike)

    def seconds(self, setting: Setting) -> float:
        """Return what a setting costs in seconds, with the extraction where `has_extraction`."""
        return setting.seconds + (setting.cost("extract_seconds") or 0.0 if self.has_extraction else 0.0)


def find_answers(settings: Iterable[Setting]) -> list[Answer]:
    """Find the best setting of each data set, and what cannot be told apart from it.

    Two settings with three or more seeds in common that drew their test images are compared by the corrected
    resampled t-test of Nadeau & Bengio (2003); others by McNemar's exact test (1947) on the test images that
    both answered, with one seed; where predictions are not kept, by Fisher's exact test. P-values have Holm's
    correction over all settings of the data set.

    Parameters
    ----------
    settings : iterable of Setting
        Those without test images are passed over.

    Returns
    -------
    list of Answer
        In the order of the names of the data sets.
    """
    tested: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        if setting.accuracy is not None:
            tested[setting.dataset].append(setting)
    return [_answer(tested[name]) for name in sorted(tested)]


def by_accuracy(setting: Setting) -> tuple[float, float]:
    """Order settings by falling accuracy, then by seconds; settings without accuracy come last."""
    return (np.inf if setting.accuracy is None else -setting.accuracy.mean, setting.seconds)


def _answer(settings: Sequence[Setting]) -> Answer:
    best, *others = sorted(settings, key=by_accuracy)
    adjusted = holm([_chance(best, other) for other in others])
    alike = [other for other, p in zip(others, adjusted, strict=True) if p is None or p >= _LEVEL]
    frozen = [each for each in (best, *alike) if not each.is_finetuned]
    has_extraction = bool(frozen) and all(each.cost("extract_seconds") is not None for each in frozen)
    found = Answer(best, tuple(alike), len(others) - len(alike), best, has_extraction)
    return Answer(best, tuple(alike), found.apart, min(found.equals, key=found.seconds), has_extraction)


def _chance(best: Setting, other: Setting) -> float | None:
    """Return how probable a difference as large is, if two settings are equally good."""
    pairs = _same_seeds(best, other)
    if len(pairs) >= MIN_SEEDS and not _is_named(pairs[0][0]):
        accuracies = [[run.accuracy for run in side] for side in zip(*pairs, strict=True)]
        n_test, n_train = (np.mean([getattr(run.metrics, name) for run, _ in pairs])
                           for name in ("n_test", "n_train"))  # fmt: skip
        not_drawn = np.mean([run.record.split.n_not_drawn or 0 for run, _ in pairs])
        found = corrected_paired_test(*accuracies, ratio=float(n_test / (n_train + not_drawn)))
        if found.p is not None:
            return found.p
    first, second = pairs[0] if pairs else (best.tested[0], other.tested[0])
    paired = _mcnemar(first, second)
    return _fisher(first, second) if paired is None else paired


def _same_seeds(best: Setting, other: Setting) -> list[tuple[ReportedRun, ReportedRun]]:
    theirs = {run.seed: run for run in other.tested}
    return [(run, theirs[run.seed]) for run in best.tested if run.seed in theirs]


def _is_named(run: ReportedRun) -> bool:
    """Whether the data set names the test images, so that seeds share them."""
    return run.record.split.rule.startswith(NAMED)


def _mcnemar(first: ReportedRun, second: ReportedRun) -> float | None:
    """Return the p-value of McNemar's exact test; None where the runs did not answer the same images."""
    one, two = first.predictions(), second.predictions()
    if one is None or two is None or not len(one.ids):
        return None
    theirs = {
        identity: (label, is_right)
        for identity, label, is_right in zip(two.ids, two.labels, two.is_right, strict=True)
    }
    if {*one.ids} != theirs.keys() or any(
        theirs[each][0] != one.labels[at] for at, each in enumerate(one.ids)
    ):
        return None
    both = [(bool(right), bool(theirs[each][1])) for each, right in zip(one.ids, one.is_right, strict=True)]
    gained, lost = both.count((True, False)), both.count((False, True))
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _fisher(first: ReportedRun, second: ReportedRun) -> float:
    """Return the p-value of Fisher's exact test on the numbers of right and wrong answers."""
    table = []
    for run in (first, second):
        right = round((run.accuracy or 0.0) * run.metrics.n_test)
        table.append([right, run.metrics.n_test - right])
    return float(stats.fisher_exact(table).pvalue)
