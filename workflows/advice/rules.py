"""Rules decide whether to stay frozen or to fine-tune, from measured figures alone.

A rule looks at the evidence, and decides or leaves the decision to the next rule, in the order of `RULES`.
The constants below are all that the rules know from earlier studies. A `Share` is the part of the error of
the best frozen head that fine-tuning took away, below 0 where fine-tuning did worse: the least, the usual and
the largest part in the studied cells.

The constants were written from 17 cells of ``docs/studies/top-tuning.yaml`` and ``when-and-how.yaml``, all of
deit_tiny on five data sets of about a thousand images, 5 to 136 of a class. Of tasks near the pretraining
with many images of a class there was no cell: that figure is the authors' expectation after "When & How to
Transfer with Transfer Learning" (Tormos et al. 2022, arXiv 2211.04347: the more images, the better
fine-tuning does). ``benchmarks/advice.py`` says how often the rules are right.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from toptune.workflows.advice.evidence import Evidence


@dataclass(frozen=True)
class Share:
    """Part of the error of the best frozen head that fine-tuning takes away: least, usual and most."""

    least: float
    usual: float
    most: float


# Rule `few_images` decides if the median class has fewer training images than this.
FEW_IMAGES = 25
SHARE_OF_FEW = Share(-0.65, -0.2, 0.2)
SHARE_OF_FAR = Share(-0.45, -0.15, 0.0)
SHARE_OF_NEAR = Share(-0.2, 0.2, 0.5)
# How often the rules are right, with each data set left out, and how often "stay frozen" alone is.
N_CASES, N_RIGHT, N_FROZEN_RIGHT = 17, 14, 14

Recommendation = Literal["stay-frozen", "fine-tune"]
Certainty = Literal["high", "moderate", "low"]
CERTAINTIES: dict[Certainty, str] = {
    "high": "it stays the same if fine-tuning does as badly or as well as it ever did in our study, and if "
    "the measured error is two standard errors off",
    "moderate": "it stays the same if the measured error is one standard error off and fine-tuning does what "
    "it usually did in our study",
    "low": "the figures lie at the border; an error that is one standard error off would turn it",
}
FROZEN: Recommendation = "stay-frozen"
TUNE: Recommendation = "fine-tune"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A recommendation with its reasons.

    Attributes
    ----------
    recommendation : {"stay-frozen", "fine-tune"}
        What to do.
    rule : str
        Name of the rule that decided.
    certainty : {"high", "moderate", "low"} or None
        How far the measured error may be off without changing the recommendation; see `CERTAINTIES`. None
        where no figure has part in it.
    gain : tuple of float or None
        Accuracy that fine-tuning is expected to add: least, usual, most. None where the rule needs no such
        expectation.
    reasons : tuple of str
        Sentences for people.
    """

    recommendation: Recommendation
    rule: str
    certainty: Certainty | None
    gain: tuple[float, float, float] | None
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the advice as JSON values."""
        return vars(self) | {
            "gain": None if self.gain is None else list(self.gain),
            "reasons": list(self.reasons),
        }


def headroom(evidence: Evidence) -> Advice | None:
    """Stay frozen if the error is at most the margin and one standard error: nothing is left to gain."""
    error, spread, margin = evidence.error, evidence.standard_error, evidence.margin
    if error > margin + spread:
        return None
    certainty: Certainty = "high" if error + 2 * spread <= margin else "moderate"
    reason = (
        f"the best frozen head is wrong on {_points(error)} (+- {_figure(spread)}) of left-out images; "
        f"fine-tuning could hardly gain more than the margin of {_figure(margin)}"
    )
    caution = (
        "that holds for images like the training images, if those are not copies of one another: where "
        "several show one object or scene, give --group-by"
    )
    return Advice(
        recommendation=FROZEN, rule="headroom", certainty=certainty, gain=None, reasons=(reason, caution)
    )


def few_images(evidence: Evidence) -> Advice | None:
    """Stay frozen below `FEW_IMAGES` images of a class: fine-tuning has too little to learn from."""
    if evidence.pictures_per_class >= FEW_IMAGES:
        return None
    reason = (
        f"a class has {evidence.pictures_per_class:g} training images (the median), below {FEW_IMAGES}: "
        "so few rarely teach a whole network more than they teach a head"
    )
    return Advice(
        recommendation=FROZEN,
        rule="few images",
        certainty=_certainty(evidence, SHARE_OF_FEW, FROZEN),
        gain=_gain(evidence, SHARE_OF_FEW),
        reasons=(reason,),
    )


def cost(evidence: Evidence) -> Advice | None:
    """Stay frozen if fine-tuning takes longer than its limit, even when it stops as early as possible."""
    limit, seconds = evidence.finetune_limit, evidence.finetune_seconds
    if limit is None or seconds is None or seconds[0] <= limit:
        return None
    reason = f"fine-tuning takes at least {duration(seconds[0])}, above the limit of {duration(limit)} for it"
    gain = _gain(evidence, SHARE_OF_FAR if evidence.is_far else SHARE_OF_NEAR)
    return Advice(recommendation=FROZEN, rule="cost", certainty="high", gain=gain, reasons=(reason,))


def remaining_error(evidence: Evidence) -> Advice | None:
    """Fine-tune if the part of the error that fine-tuning usually takes away is above the margin.

    If layers before the last one know more of the classes, the last layer was made for another task
    ("Head2Toe", Evci et al. 2022, arXiv 2201.03529). There, fine-tuning takes away another share of the
    error, because a head on inner layers has taken away a part of it already.
    """
    share, where = SHARE_OF_NEAR, ""
    if evidence.is_far:
        share = SHARE_OF_FAR
        where = (
            f"inner layers add {_points(evidence.inner_gain or 0.0)} to the last one: the task is far from "
            "the pretraining, and a head on inner layers has part of what fine-tuning would find; "
        )
    gain = _gain(evidence, share)
    recommendation = TUNE if gain[1] > evidence.margin else FROZEN
    return Advice(
        recommendation=recommendation,
        rule="remaining error",
        certainty=_certainty(evidence, share, recommendation),
        gain=gain,
        reasons=(where + _expected(evidence, gain),),
    )


# The first rule that decides gives the advice; the last rule always decides.
RULES: tuple[Callable[[Evidence], Advice | None], ...] = (
    headroom, few_images, cost, remaining_error,
)  # fmt: skip


def advise_on(evidence: Evidence) -> Advice:
    """Return the advice of the first rule that decides, with remarks on figures that no rule uses."""
    found = next(advice for rule in RULES if (advice := rule(evidence)) is not None)
    return replace(found, reasons=(*found.reasons, *_remarks(evidence)))


def advise_on_task(task: str) -> Advice:
    """Return the advice for another task than classification, of which no evidence has part."""
    return Advice(
        recommendation=FROZEN,
        rule="task",
        certainty=None,
        gain=None,
        reasons=(
            f"fine-tuning learns one class an image and does not know --task {task}: there is no choice",
            "the rules that weigh frozen features against fine-tuning rest on studies of classification "
            "alone; the heads below were measured on left-out images all the same",
        ),
    )


def _gain(evidence: Evidence, share: Share) -> tuple[float, float, float]:
    """Return the accuracy that fine-tuning is expected to add: least, usual, most."""
    return (share.least * evidence.error, share.usual * evidence.error, share.most * evidence.error)


def _certainty(evidence: Evidence, share: Share, recommendation: Recommendation) -> Certainty:
    """Return how far shares and error may be off before the recommendation changes; see `CERTAINTIES`."""

    def agrees(part: float, standard_errors: float) -> bool:
        error = min(1.0, max(0.0, evidence.error + standard_errors * evidence.standard_error))
        return (part * error > evidence.margin) == (recommendation == TUNE)

    if all(agrees(part, off) for part in (share.least, share.most) for off in (-2, 2)):
        return "high"
    return "moderate" if all(agrees(share.usual, off) for off in (-1, 1)) else "low"


def _expected(evidence: Evidence, gain: tuple[float, float, float]) -> str:
    """Say which part of the error fine-tuning usually takes away, and whether that is above the margin."""
    relation = "more" if gain[1] > evidence.margin else "not more"
    return (
        f"the best frozen head is wrong on {_points(evidence.error)} (+- {_figure(evidence.standard_error)}) "
        f"of left-out images; by our study, fine-tuning would usually {_change(gain[1])} "
        f"({_change(gain[0])} at worst, {_change(gain[2])} at best), {relation} than the margin of "
        f"{_figure(evidence.margin)}"
    )


def _change(gain: float) -> str:
    """Write a change of accuracy in words, because a gain with a minus sign is misread.

    Examples
    --------
    >>> _change(-0.028), _change(0.012), _change(0.0)
    ('lose 2.8 points', 'gain 1.2 points', 'change nothing')
    """
    if abs(gain) < 0.0005:
        return "change nothing"
    return f"{'gain' if gain > 0 else 'lose'} {_points(abs(gain))}"


def _remarks(evidence: Evidence) -> Iterator[str]:
    """Yield remarks on figures that no rule uses."""
    if evidence.inner_accuracy is None:
        yield "no head on inner layers was tried, which could be better, or show that the task is far"
    seconds = evidence.finetune_seconds
    if seconds is None:
        yield "fine-tuning was not timed"
        return
    text = f"fine-tuning would take {duration(seconds[0])} to {duration(seconds[1])}"
    if evidence.frozen_seconds:
        least, most = (each / evidence.frozen_seconds for each in seconds)
        text += (
            f", {least:.3g} to {most:.3g} times the {duration(evidence.frozen_seconds)} of extraction and "
            "the best head"
        )
    yield text
    limit = evidence.finetune_limit
    if limit is not None and seconds[0] <= limit < seconds[1]:
        yield f"that may be more than the limit of {duration(limit)}: a run that was stopped goes on later"
    yield (
        f"that is what it takes to find out: in {N_CASES} studied cases the rules were right {N_RIGHT} "
        f"times, and staying frozen {N_FROZEN_RIGHT} times"
    )


def duration(seconds: float) -> str:
    """Write seconds for people: ``0.8 s``, ``35 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _points(share: float) -> str:
    return f"{_figure(share)} points"


def _figure(share: float) -> str:
    """Write a share in percentage points."""
    return f"{100 * share:.1f}"
