"""How often is `toptune advise` right? Its rules are applied to the finished runs of studies.

    python benchmarks/advice.py STUDY.yaml... --written-from clothing_small,trashnet/deit_tiny

A case is a data set, backbone, size and seed with a fine-tuned run and frozen runs on the same rows. The
evidence is rebuilt from what the frozen runs report about left-out training rows; test rows serve only as the
judge. "fine-tune" was right where the fine-tuned network is above the frozen head that cross-validation
chooses by more than the margin, "stay frozen" was right elsewhere. For comparison, two constant advisers
always give the same advice. Nothing is trained.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from toptune.store.arrays.stored_layers import LAST
from toptune.text import printed_table
from toptune.workflows.advice.evidence import DEFAULT_MARGIN, Evidence
from toptune.workflows.advice.frozen_trials import FrozenTrial, best_of, evidence_of
from toptune.workflows.advice.rules import FEW_IMAGES, FROZEN, TUNE, Advice, advise_on
from toptune.workflows.study.cells import Cell, cells_of
from toptune.workflows.study.file import read_study

COLUMNS = (
    "data set", "backbone", "size", "seed", "a class", "frozen cv", "frozen test", "tuned test", "gain",
    "of error", "advice", "rule", "certainty", "right",
)  # fmt: skip
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fine-tuned run beside the frozen head that would have been chosen instead."""

    cell: Cell
    evidence: Evidence
    advice: Advice
    frozen_test: float
    tuned_test: float

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
    def is_right(self) -> bool:
        """Whether the rules gave the right advice."""
        return self.advice.recommendation == self.truth

    @property
    def regime(self) -> str:
        """The regime of the rules that the case falls into: few, far or near."""
        if self.evidence.pictures_per_class < FEW_IMAGES:
            return "few"
        return "far" if self.evidence.is_far else "near"

    def is_of(self, names: Sequence[str]) -> bool:
        """Tell whether the data set, or data set/backbone, of the case is among `names`."""
        return self.cell.dataset in names or f"{self.cell.dataset}/{self.cell.model}" in names


def read_cases(paths: Sequence[Path], *, margin: float = DEFAULT_MARGIN) -> tuple[list[Case], list[str]]:
    """Read the finished runs of some studies: the cases, and notes why other runs make no case."""
    cells = {str(cell.folder): cell for path in paths for cell in cells_of(read_study(path)) if cell.is_done}
    frozen: dict[tuple[Any, ...], list[tuple[FrozenTrial, Cell]]] = {}
    for cell in cells.values():
        if cell.kind == "train" and (trial := read_trial(cell)) is not None:
            frozen.setdefault(place_of(cell), []).append((trial, cell))
    cases, notes = [], []
    for cell in cells.values():
        if cell.kind != "finetune":
            continue
        config, metrics = read_run(cell)
        mine = frozen.get(place_of(cell), [])
        digest = config["split"]["rows_digest"]
        same = [each for each in mine if read_run(each[1])[0]["split"]["rows_digest"] == digest]
        if len(same) < len(mine):
            notes.append(f"{cell}: {len(mine) - len(same)} frozen runs are of other rows")
        if not same:
            notes.append(f"{cell}: no frozen run with left-out figures")
            continue
        best = best_of([trial for trial, _ in same])
        chosen = next(each for trial, each in same if trial is best)
        head_config, head_metrics = read_run(chosen)
        evidence = evidence_of(
            [trial for trial, _ in same], list(head_config["classes"].values()), margin=margin
        )
        cases.append(
            Case(
                cell=cell,
                evidence=evidence,
                advice=advise_on(evidence),
                frozen_test=head_metrics["accuracy"],
                tuned_test=metrics["accuracy"],
            )
        )
    return cases, notes


def place_of(cell: Cell) -> tuple[Any, ...]:
    """Return what a fine-tuned run and its frozen runs have in common."""
    return (cell.dataset, cell.model, cell.size, cell.seed)


def read_trial(cell: Cell) -> FrozenTrial | None:
    """Return what a frozen run reports about left-out training rows; None if its head reports nothing."""
    config, _ = read_run(cell)
    left_out = config["report"].get("left_out")
    if left_out is None or left_out["accuracy"] is None:
        return None
    arrays = tuple(each["name"] for each in config["arrays"])
    is_last = all(name.rpartition(".")[0] == LAST for name in arrays)
    return FrozenTrial(
        head=cell.method,
        layers=LAST if is_last else "inner",
        arrays=arrays,
        accuracy=left_out["accuracy"],
        log_loss=left_out["log_loss"],
    )


def read_run(cell: Cell) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the configuration and the metrics of a run."""
    return _read_folder(cell.folder)


@cache
def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the two files of a run folder once."""
    config, metrics = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("run.json", "metrics.json")
    )
    return config, metrics


def counted(right: Sequence[bool]) -> str:
    """Write how many answers are right, as a share with Wilson's 95 % interval."""
    if not right:
        return "none"
    n_right = sum(right)
    interval = stats.binomtest(n_right, len(right)).proportion_ci(0.95, method="wilson")
    return (
        f"{n_right} of {len(right)}, {100 * n_right / len(right):.0f} % "
        f"({100 * interval.low:.0f} to {100 * interval.high:.0f})"
    )


def summary_of(cases: Sequence[Case]) -> list[tuple[str, ...]]:
    """Return a row for the rules, for each certainty of theirs, and for each constant adviser."""
    rows: list[tuple[str, ...]] = [("the rules", counted([each.is_right for each in cases]))]
    for certainty in ("high", "moderate", "low"):
        sure = [each.is_right for each in cases if each.advice.certainty == certainty]
        rows.append((f"  certainty {certainty}", counted(sure)))
    rows += [
        (f"always {constant}", counted([each.truth == constant for each in cases]))
        for constant in (FROZEN, TUNE)
    ]
    return rows


def shares_of(cases: Sequence[Case]) -> list[tuple[str, ...]]:
    """Summarize by regime what share of the error fine-tuning removed; the rules' shares come from this."""
    rows: list[tuple[str, ...]] = []
    for regime in ("few", "far", "near"):
        shares = [each.share for each in cases if each.regime == regime]
        figures = (min(shares), float(np.median(shares)), max(shares)) if shares else ()
        rows.append((regime, str(len(shares)), *(f"{each:.2f}" for each in figures or (np.nan,) * 3)))
    return rows


def row_of(case: Case, *, is_written_from: bool) -> tuple[str, ...]:
    """Format one case as a row of the table."""
    cell, advice = case.cell, case.advice
    return (
        f"{cell.dataset}{' *' if is_written_from else ''}", cell.model, cell.size, str(cell.seed),
        f"{case.evidence.pictures_per_class:g}",
        *(f"{100 * each:.2f}" for each in (1 - case.evidence.error, case.frozen_test, case.tuned_test)),
        f"{100 * case.gain:+.2f}", f"{case.share:+.2f}", advice.recommendation, advice.rule,
        str(advice.certainty), "yes" if case.is_right else "NO",
    )  # fmt: skip


def main() -> None:
    """Read the options and print the cases, how often each adviser is right, and the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", type=Path, nargs="+", metavar="STUDY.yaml")
    parser.add_argument(
        "--written-from", default="", help="data sets, or data set/backbone, that the rules were written from"
    )
    parser.add_argument("--margin", type=float, default=DEFAULT_MARGIN, help="accuracy, 0.01 by default")
    options = parser.parse_args()
    names = [name for name in options.written_from.split(",") if name]
    cases, notes = read_cases(options.studies, margin=options.margin)
    written = [each for each in cases if each.is_of(names)]
    held_out = [each for each in cases if not each.is_of(names)]
    rows = [row_of(each, is_written_from=each.is_of(names)) for each in (*written, *held_out)]
    print(printed_table(f"{len(cases)} cases; * the rules were written from it", COLUMNS, rows))
    for title, found in (("written from", written), ("held out", held_out)):
        n_places = len({(each.cell.dataset, each.cell.model) for each in found})
        about = f"{title}: {len(found)} cases of {n_places} data sets and backbones"
        print()
        title = f"{about} (the intervals take cases as independent)"
        print(printed_table(title, ("adviser", "right"), summary_of(found)))
    print()
    title = "part of the frozen error that fine-tuning took away, cases written from"
    columns = ("images and domain", "cases", "least", "median", "most")
    print(printed_table(title, columns, shares_of(written)))
    for note in notes:
        print(f"note: {note}")


if __name__ == "__main__":
    main()
