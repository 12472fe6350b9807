"""`AnswerOptions`: what a run is asked to say besides a label, checked without loading torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from toptune.errors import InputError
from toptune.options import check_choice
from toptune.train.rows.options import ANSWERS_FROM

WAYS = ANSWERS_FROM


class AnswerArguments(TypedDict, total=False):
    """The keywords of `AnswerOptions`."""

    coverage: float | None
    novelty: bool
    abstain_above: float | None
    prior: str | Path | None
    class_tree: str | Path | None
    back_off: float | None
    answer_by: str | None
    answer_from: str | None


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What a run is asked to say besides a label.

    Attributes
    ----------
    coverage : float, optional
        Give a set of labels for each image that holds the true one with this probability; of several labels
        this share of those that apply, on average; of numbers an interval.
    novelty : bool
        Say how far each image is from those that trained, as a share of these that are nearer.
    abstain_above : float, optional
        Give no label to images of a novelty above this one.
    prior : path, optional
        File of class frequencies where the run is used; see `toptune.train.answers.prior.read_prior`.
    class_tree : path, optional
        File of the parent of each class; by default the tree that the run was trained with.
    back_off : float, optional
        Give the deepest class of the tree that is at least so probable.
    answer_by : str, optional
        Give one answer for the images of a thing: the column of a list of images, or a pattern on the path
        whose first group is the thing. By default that of the run.
    answer_from : {"log-probabilities", "features", "maximum", "numbers"}, optional
        How the images of a thing become one answer; by default that of the run, else the first, or of a
        regression the last.

    Raises
    ------
    InputError
        For a value out of range, or a prior with a coverage.
    """

    coverage: float | None = None
    novelty: bool = False
    abstain_above: float | None = None
    prior: str | Path | None = None
    class_tree: str | Path | None = None
    back_off: float | None = None
    answer_by: str | None = None
    answer_from: str | None = None

    def __post_init__(self) -> None:
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise InputError(
                f"coverage is {self.coverage:g}; it must lie above 0 and below 1, such as 0.95",
                option="coverage",
            )
        if self.abstain_above is not None and not 0 <= self.abstain_above < 1:
            raise InputError(
                f"abstain_above is {self.abstain_above:g}; it must lie from 0 to below 1; above 0.99 lies "
                "1 % of the images that are like those that trained",
                option="abstain_above",
            )
        if self.back_off is not None and not 0 < self.back_off <= 1:
            raise InputError(
                f"back_off is {self.back_off:g}; it must lie above 0 and be at most 1, such as 0.9",
                option="back_off",
            )
        if self.answer_from is not None:
            check_choice(self.answer_from, WAYS, option="answer_from")
        if self.prior is not None and self.coverage is not None:
            raise InputError(
                "prior and coverage are both given; sets of labels are calibrated for the class frequencies "
                "of the training images, so that their coverage would not hold for others: give one of them",
                option="prior",
            )

    @property
    def is_asked(self) -> bool:
        """Whether anything is asked."""
        return self != AnswerOptions()

    @property
    def wants_novelty(self) -> bool:
        """Whether the novelty of each image is needed."""
        return self.novelty or self.abstain_above is not None
