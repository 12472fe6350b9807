"""How often is `toptune advise` right? Its rules are judged by results of studies, a data set left out.

    python benchmarks/advice.py RESULTS.csv... [--classes name=N,...] [--margin 0.01]

A case is a data set, backbone, size and seed with a fine-tuned row and frozen rows of one study. The
evidence is what the frozen rows report about left-out training rows; test rows serve only as the judge.
"fine-tune" was right where the fine-tuned network is above the frozen head that cross-validation chooses by
more than the margin, "stay frozen" was right elsewhere. Where two studies have a case, that of the later file
counts.

The rules are judged twice: with the shares that `advise` has, and with shares that are written anew from the
cases of all *other* data sets, so that nothing judges what it was written from. Beside them stand two
advisers who always say the same. The regret is the mean of what the better choice of each case has above the
advised one on the test rows; the seconds are processor seconds of what is advised, extraction included.
Nothing is trained.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
from scipy import stats

from toptune.store.arrays.stored_layers import LAST
from toptune.text import printed_table
from toptune.workflows.advice import rules
from toptune.workflows.advice.evidence import DEFAULT_MARGIN, Evidence
from toptune.workflows.advice.frozen_trials import FrozenTrial, best_of, evidence_of
from toptune.workflows.advice.rules import FROZEN, TUNE, Advice, Share, advise_on

COLUMNS = (
    "data set", "backbone", "size", "seed", "a class", "frozen cv", "frozen test", "tuned test", "gain",
    "of error", "left out", "shipped", "right",
)  # fmt: skip
# Results do not say how many classes a data set has.
CLASSES = {
    "clothing_small": 10, "grocery_store": 26, "trashnet": 6, "bccd_cells": 3, "omniglot_50": 50,
    "digits": 10,
}  # fmt: skip
SHARES = {"few": "SHARE_OF_FEW", "far": "SHARE_OF_FAR", "near": "SHARE_OF_NEAR"}
_ROUNDING = 1e-9
Row = dict[str, Any]
Place = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fine-tuned network beside the frozen head that would have been chosen instead."""

    place: Place
    evidence: Evidence
    frozen_test: float
    tuned_test: float
    frozen_seconds: float
    tuned_seconds: float
    # What the shipped rules say, and what rules say that were written from the other data sets.
    shipped: Advice
    left_out: Advice | None = None

    @property
    def gain(self) -> float:
        """Test accuracy of the fine-tuned network minus that of the frozen head."""
        return self.tuned_test - self.frozen_test

    @property
    def share(self) -> float:
        """Share of the frozen head's error, as cross-validation estimates it, that fine-tuning removed."""
        return self.gain / self.evidence.error if self.evidence.error else 0.0

    @property
    def truth(self) -> str:
        """The advice that the test rows prove right."""
        # Two images of 200 are exactly the margin of 0.01; rounding of the difference must not tip the
        # balance.
        return TUNE if self.gain > self.evidence.margin + _ROUNDING else FROZEN

    @property
    def regime(self) -> str:
        """The regime of the rules that the case falls into: few, far or near."""
        if self.evidence.pictures_per_class < rules.FEW_IMAGES:
            return "few"
        return "far" if self.evidence.is_far else "near"

    def regret(self, advice: str) -> float:
        """Return what the better choice has above the advised one on the test rows."""
        return max(0.0, -self.gain if advice == TUNE else self.gain)

    def seconds(self, advice: str) -> float:
        """Return the processor seconds of what is advised; heads are tried in either case."""
        return self.frozen_seconds + (self.tuned_seconds if advice == TUNE else 0.0)


def read_cases(paths: Sequence[Path], *, classes: dict[str, int], margin: float) -> list[Case]:
    """Read the results of some studies: a case for each fine-tuned row beside frozen rows."""
    cases: dict[Place, Case] = {}
    for path in paths:
        rows = pyarrow.csv.read_csv(path).to_pylist()
        for tuned in rows:
            if tuned["kind"] != "finetune":
                continue
            frozen = [row for row in rows if row["kind"] == "train" and place_of(row) == place_of(tuned)]
            if frozen := [row for row in frozen if row["left_out_accuracy"] is not None]:
                n_classes = classes[tuned["dataset"]]
                cases[place_of(tuned)] = _case(tuned, frozen, n_classes=n_classes, margin=margin)
    return list(cases.values())


def _case(tuned: Row, frozen: Sequence[Row], *, n_classes: int, margin: float) -> Case:
    trials = [trial_of(row) for row in frozen]
    chosen = frozen[trials.index(next(each for each in trials if each is best_of(trials)))]
    # The median class has the mean number of images in all of these data sets, which are near balance.
    a_class = max(1, round(tuned["n_train"] / n_classes))
    evidence = replace(evidence_of(trials, [a_class] * n_classes, margin=margin), n_train=tuned["n_train"])
    extraction = chosen["extract_cpu_seconds"] or chosen["extract_seconds"] or 0.0
    return Case(
        place=place_of(tuned),
        evidence=evidence,
        frozen_test=chosen["accuracy"],
        tuned_test=tuned["accuracy"],
        frozen_seconds=extraction + sum(row["cpu_seconds"] for row in frozen),
        tuned_seconds=tuned["cpu_seconds"],
        shipped=advise_on(evidence),
    )


def place_of(row: Row) -> Place:
    """Return what a fine-tuned row and its frozen rows have in common."""
    return (row["dataset"], row["model"], str(row["size"]), row["seed"])


def trial_of(row: Row) -> FrozenTrial:
    """Return what a frozen row reports about left-out training rows."""
    return FrozenTrial(
        head=row["method"],
        layers=LAST if row["layers"] == LAST else "inner",
        arrays=(),
        accuracy=row["left_out_accuracy"],
    )


def left_out(cases: Sequence[Case]) -> list[Case]:
    """Advise on each case by shares that are written from the cases of all other data sets."""
    found = []
    for case in cases:
        others = [each for each in cases if each.place[0] != case.place[0]]
        with written_from(others):
            found.append(replace(case, left_out=advise_on(case.evidence)))
    return found


@contextmanager
def written_from(cases: Sequence[Case]) -> Iterator[None]:
    """Let the rules have shares of some cases; of a regime without a case they keep what is shipped."""
    before = {name: getattr(rules, name) for name in SHARES.values()}
    try:
        for regime, name in SHARES.items():
            if share := share_of(cases, regime):
                setattr(rules, name, share)
        yield
    finally:
        for name, share in before.items():
            setattr(rules, name, share)


def share_of(cases: Sequence[Case], regime: str) -> Share | None:
    """Return the least, the median and the largest share of the error that fine-tuning took in a regime."""
    shares = [case.share for case in cases if case.regime == regime]
    return Share(min(shares), float(np.median(shares)), max(shares)) if shares else None


def told(cases: Sequence[Case], advices: Sequence[str]) -> tuple[str, ...]:
    """Say how often an adviser is right, what the regret is in points, and what the advised took."""
    right = sum(case.truth == advice for case, advice in zip(cases, advices, strict=True))
    interval = stats.binomtest(right, len(cases)).proportion_ci(0.95, method="wilson")
    regrets = [100 * case.regret(advice) for case, advice in zip(cases, advices, strict=True)]
    seconds = [case.seconds(advice) for case, advice in zip(cases, advices, strict=True)]
    return (
        f"{right} of {len(cases)}, {100 * right / len(cases):.0f} % "
        f"({100 * interval.low:.0f} to {100 * interval.high:.0f})",
        f"{np.mean(regrets):.2f}", f"{np.max(regrets):.1f}", f"{np.mean(seconds):.0f}",
    )  # fmt: skip


def advisers(cases: Sequence[Case]) -> dict[str, list[str]]:
    """Return what each adviser says of each case."""
    return {
        "rules, written from other data sets": [
            each.left_out.recommendation for each in cases if each.left_out
        ],
        "rules as shipped": [each.shipped.recommendation for each in cases],
        "always stay frozen": [FROZEN] * len(cases),
        "always fine-tune": [TUNE] * len(cases),
        "who knows the test rows": [each.truth for each in cases],
    }


def row_of(case: Case) -> tuple[str, ...]:
    """Format one case as a row of the table."""
    assert case.left_out is not None
    name, model, size, seed = case.place
    return (
        name, model, size, str(seed), f"{case.evidence.pictures_per_class:g}",
        *(f"{100 * each:.2f}" for each in (1 - case.evidence.error, case.frozen_test, case.tuned_test)),
        f"{100 * case.gain:+.2f}", f"{case.share:+.2f}", case.left_out.recommendation,
        f"{case.shipped.recommendation} ({case.shipped.rule})",
        "yes" if case.left_out.recommendation == case.truth else "NO",
    )  # fmt: skip


def main() -> None:
    """Read the options and print the cases, how often each adviser is right, and the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.csv")
    parser.add_argument(
        "--classes", default="", help="name=N,... of other data sets than the six of the studies"
    )
    parser.add_argument("--margin", type=float, default=DEFAULT_MARGIN, help="accuracy, 0.01 by default")
    options = parser.parse_args()
    named = dict(each.split("=") for each in options.classes.split(",") if each)
    classes = CLASSES | {name: int(n) for name, n in named.items()}
    cases = left_out(read_cases(options.results, classes=classes, margin=options.margin))
    n_sets = len({case.place[0] for case in cases})
    print(
        printed_table(f"{len(cases)} cases of {n_sets} data sets", COLUMNS, [row_of(each) for each in cases])
    )
    print()
    title = "the interval takes cases as independent, which those of one data set are not"
    columns = ("adviser", "right", "regret, points", "largest", "processor s")
    rows = [(name, *told(cases, advices)) for name, advices in advisers(cases).items()]
    print(printed_table(title, columns, rows))
    print()
    shares = {regime: share_of(cases, regime) for regime in SHARES}
    print(printed_table("part of the frozen error that fine-tuning took away, all cases",
                        ("images and domain", "least", "median", "most"),
                        [(regime, *(f"{each:.2f}" for each in vars(share).values()))
                         for regime, share in shares.items() if share]))  # fmt: skip


if __name__ == "__main__":
    main()
