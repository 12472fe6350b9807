"""What `train --best` chooses, beside every fixed setting, and how honest its left-out accuracy is.

Usage::

    python benchmarks/best.py ASSETS --store ROOT [--seeds 5] [--datasets a,b] [--models a,b]
        [--heads falkon,lda,...] [--budget 600] [--out FILE.jsonl]

ASSETS holds ``weights/<model>`` and ``datasets/<name>``; ROOT is a store with features of each. For each seed
a new stratified split of all rows is drawn, with a fifth of them to test (whole slides for bccd_cells). Every
candidate that `train --best` tries is also scored on the test rows, which the choice does not see. The best
fixed setting is the one of highest mean test accuracy over all splits, in hindsight. Results are appended
line by line, so that a stopped run resumes.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from default_columns import BUILT_IN, MODELS, Rows
from heads import DATASETS, GROUPS

from toptune.costs.phases import Phases
from toptune.store import FeatureStore
from toptune.train.best import candidates as candidates_module
from toptune.train.best.candidates import Candidate, candidates
from toptune.train.best.choosing import choose_among, open_stored, shared_rows, try_within
from toptune.train.best.trials import Logs, TrialBench
from toptune.train.fusion.pool import logs_of
from toptune.train.fusion.weights import weigh
from toptune.train.heads.heads import Head
from toptune.train.heads.options import HeadOptions
from toptune.train.rows.options import RowOptions
from toptune.train.runs.options import LATE, TrainOptions


class TestedBench(TrialBench):
    """Trials that score each candidate on the test rows, too."""

    def prepare(self) -> "TestedBench":
        """Take the classes of the test rows."""
        labels = self.rows.manifest.labels
        self.truth = np.searchsorted(
            sorted(self.rows.classes), [str(labels[row]) for row in self.rows.split.test]
        )
        self.tests: dict[str, Logs] = {}
        self.left: dict[str, Logs] = {}
        return self

    def fit(self, candidate: Candidate) -> Head:
        """Fit a head, and keep what it says of the test rows."""
        head = super().fit(candidate)
        rows = self.blocks(candidate, self.rows.split.test)
        self.tests[str(candidate.record())] = logs_of(head.predict_proba(rows))
        return head

    def _logs(self, candidate: Candidate) -> Logs:
        found = super()._logs(candidate)
        self.left[str(candidate.record())] = found
        return found

    def test_accuracy(self, candidate: Candidate) -> float:
        """Return the share of the test rows that a candidate classifies correctly."""
        if candidate.fusion != LATE:
            scores = self.tests[str(candidate.record())]
        else:
            names = [str(each.record()) for each in candidate.alone()]
            assert self.left_out is not None
            rows = replace(self.left_out, logs=np.stack([self.left[name] for name in names]))
            scores = weigh(rows).pool.scores(np.stack([self.tests[name] for name in names]))
        return float((scores.argmax(axis=1) == self.truth).mean())


def measure(options: argparse.Namespace, dataset: str, seed: int) -> dict[str, Any]:
    """Try everything on one split, choose, and score everything on the test rows."""
    names = {f"local-dir:{options.assets / 'weights' / model}": model for model in options.models.split(",")}
    given = TrainOptions(
        rows=RowOptions(seed=seed, resplit=True, group_by=GROUPS.get(dataset)),
        head=HeadOptions(best=True, budget=options.budget),
    )
    clock, processor = time.perf_counter(), time.process_time()
    features, arrays = open_stored(FeatureStore.open(options.store), dataset, list(names), given)
    rows = shared_rows(features, arrays, given)
    given = replace(given, limits=given.limits.settled())
    bench = TestedBench(features=features, rows=rows, options=given, phases=Phases()).prepare()
    tried = try_within(options.budget, list(candidates(arrays, given)), bench)
    record, _ = choose_among(tried, bench, budget=options.budget, seconds=time.perf_counter() - clock)
    fitted = {
        at: bench.test_accuracy(each.candidate) for at, each in enumerate(tried) if each.answers is not None
    }
    told = [
        {"name": _plain(str(record.tried[at]), names), "test": test, "left_out": record.tried[at].accuracy,
         "log_loss": record.tried[at].log_loss}
        for at, test in fitted.items()
    ]  # fmt: skip
    return {
        "dataset": dataset, "seed": seed, "n_test": len(rows.split.test),
        "n_skipped": len(tried) - len(fitted),
        "chosen": _plain(str(record.tried[record.chosen]), names), "test": fitted[record.chosen],
        "left_out": record.tried[record.chosen].accuracy, "nested": record.accuracy, "tried": told,
        "seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - processor,
    }  # fmt: skip


def _plain(name: str, names: dict[str, str]) -> str:
    for long, short in names.items():
        name = name.replace(long, short)
    return name


def print_tables(rows: Rows) -> None:
    """Print what was chosen on each split, the best fixed settings, and the bias of both left-out figures."""
    print("| data set | splits | chosen | default | best fixed setting of this set, in hindsight |")
    print("|---|---|---|---|---|")
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset]
        fixed = _fixed(mine)
        best = max(fixed, key=lambda name: fixed[name])
        default = np.mean([row["tried"][0]["test"] for row in mine])
        chosen = np.mean([row["test"] for row in mine])
        print(f"| {dataset} | {len(mine)} | {100 * chosen:.1f} | {100 * default:.1f} | "
              f"{100 * fixed[best]:.1f} ({best}) |")  # fmt: skip
    fixed = _fixed(rows)
    print("\n| fixed setting | mean test accuracy |\n|---|---|")
    for name in sorted(fixed, key=lambda each: -fixed[each])[:6]:
        print(f"| {name} | {100 * fixed[name]:.2f} |")
    print(f"| train --best | {100 * np.mean([row['test'] for row in rows]):.2f} |\n")
    for name in ("left_out", "nested"):
        gaps = np.array([100 * (row[name] - row["test"]) for row in rows])
        error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
        print(f"{name} minus test accuracy of the chosen: {gaps.mean():+.2f} ± {error:.2f} points")
    print(f"median processor seconds {np.median([row['processor_seconds'] for row in rows]):.1f}")


def _fixed(rows: Rows) -> dict[str, float]:
    """Return the mean test accuracy of each setting that was tried on all splits."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for each in row["tried"]:
            found.setdefault(each["name"], []).append(each["test"])
    return {name: float(np.mean(values)) for name, values in found.items() if len(values) == len(rows)}


def main() -> None:
    """Read the options, measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--datasets", default=",".join((*DATASETS, BUILT_IN)))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--heads", default=",".join(candidates_module.HEADS))
    parser.add_argument("--budget", type=float, default=600.0)
    parser.add_argument("--out", type=Path, default=Path("best.jsonl"))
    options = parser.parse_args()
    candidates_module.HEADS = tuple(options.heads.split(","))
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["dataset"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for dataset in options.datasets.split(","):
            if (dataset, seed) in done:
                continue
            rows.append(measure(options, dataset, seed))
            with options.out.open("a") as stream:
                stream.write(json.dumps(rows[-1]) + "\n")
            print({name: value for name, value in rows[-1].items() if name != "tried"}, flush=True)
    print_tables(rows)


if __name__ == "__main__":
    main()
