"""What late fusion of two backbones brings, against the better of the two alone.

Usage::

    python benchmarks/late_fusion.py ASSETS [--store ROOT] [--seeds 5] [--datasets a,b] [--models a,b]
        [--layers upper] [--out FILE.jsonl]

ASSETS holds ``weights/<model>`` (timm local-dir folders) and ``datasets/<name>``; scikit-learn's digits are
built in. For each seed a new stratified split of all rows is drawn, with a fifth of them to test (whole
slides for bccd_cells), the same for every pair. Every pair of models is one `train` with late fusion, on all
that is stored; the figures of the single backbones are those of its members. Results are appended line by
line, so that a stopped run resumes.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from default_columns import BUILT_IN, MODELS, Rows
from heads import DATASETS, GROUPS

from toptune.extract import extract_models
from toptune.train import train
from toptune.train.fusion.fused_run import FusedRun


def extract_all(options: argparse.Namespace, root: Path) -> None:
    """Fill the store; what is stored is not computed again."""
    models = [f"local-dir:{options.assets / 'weights' / model}" for model in options.models.split(",")]
    for dataset in options.datasets.split(","):
        folder = options.assets / "datasets" / dataset
        data = folder / "images" if (folder / "images").exists() else folder
        source = dataset if dataset == BUILT_IN else data
        extract_models(source, models=models, store=root, dataset=dataset, layers=options.layers)


def fuse(options: argparse.Namespace, root: Path, dataset: str, pair: tuple[str, str], seed: int) -> Rows:
    """Train one late fusion; return a row of the fused run and one of each backbone."""
    names = {f"local-dir:{options.assets / 'weights' / model}": model for model in pair}
    start, processor = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = train(root, dataset=dataset, models=list(names), out=Path(folder) / "run", seed=seed,
                    resplit=True, group_by=GROUPS.get(dataset))  # fmt: skip
    row = {"dataset": dataset, "seed": seed, "pair": " + ".join(pair), "n_train": run.metrics["n_train"]}
    spent = {
        "seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
    }
    assert isinstance(run, FusedRun)
    left_out, members = run.left_out, run.members
    weights = {names[each.model]: each.weight for each in run.fusion.members}
    rows = [
        row
        | {"method": "late", "accuracy": run.metrics["accuracy"], "left_out": left_out["accuracy"],
           "log_loss": run.metrics["log_loss"], "weights": weights}
        | spent
    ]  # fmt: skip
    alone = (
        {"method": names[each.record.model], "accuracy": each.metrics["accuracy"],
         "log_loss": each.metrics["log_loss"]}
        for each in members
    )  # fmt: skip
    rows.extend(row | figures for figures in alone)
    return rows


def tables(rows: Rows) -> str:
    """Write a table of each pair against its better member, and the mean of the sets below it."""
    singles: dict[tuple[str, int, str], float] = {}
    late: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in rows:
        if row["method"] == "late":
            late[row["dataset"], row["seed"], row["pair"]] = row
        else:
            singles[row["dataset"], row["seed"], row["method"]] = row["accuracy"]
    lines = [
        "| pair | late fusion | better on the mean of the sets | gain (points) | better on each set |"
        " gain (points) | standard error | left-out minus test accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pair in dict.fromkeys(key[2] for key in late):
        found = gains(pair, late, singles)
        lines.append(f"| {pair} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def gains(pair: str, late: dict[Any, dict[str, Any]], singles: dict[Any, float]) -> list[str]:
    """Compare one pair with its better backbone: the one on the mean of all sets, and that of each set."""
    fused, better, errors, bias = [], [], [], []
    alone: list[list[float]] = []
    datasets = list(dict.fromkeys(key[0] for key in late if key[2] == pair))
    for dataset in datasets:
        mine = [late[key] for key in late if key[0] == dataset and key[2] == pair]
        by_model = {
            model: np.array([singles.get((dataset, row["seed"], model), np.nan) for row in mine])
            for model in pair.split(" + ")
        }
        best = max(by_model.values(), key=np.nanmean)
        alone.append([float(np.nanmean(each)) for each in by_model.values()])
        accuracies = np.array([row["accuracy"] for row in mine])
        fused.append(accuracies.mean())
        better.append(np.nanmean(best))
        errors.append(np.nanstd(accuracies - best, ddof=1) / np.sqrt(len(mine)) if len(mine) > 1 else np.nan)
        bias.append(np.mean([row["left_out"] - row["accuracy"] for row in mine]))
    on_mean = np.mean(alone, axis=0).max()
    # The sets are independent of each other, and their number is fixed.
    error = 100 * np.sqrt(np.square(errors).sum()) / len(errors)
    return [
        f"{100 * np.mean(fused):.2f}",
        f"{100 * on_mean:.2f}", f"{100 * (np.mean(fused) - on_mean):+.2f}",
        f"{100 * np.mean(better):.2f}", f"{100 * (np.mean(fused) - np.mean(better)):+.2f}", f"{error:.2f}",
        f"{100 * np.mean(bias):+.2f}",
    ]  # fmt: skip


def main() -> None:
    """Extract, train every pair and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("assets", type=Path)
    parser.add_argument("--store", type=Path, help="keep the features here; by default in a temporary folder")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--datasets", default=",".join((*DATASETS, BUILT_IN)))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--layers", default="upper")
    parser.add_argument("--out", type=Path, default=Path("late-fusion.jsonl"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.store or Path(folder)
        extract_all(options, root)
        rows = read(options.out)
        done = {(row["dataset"], row["seed"], row["pair"]) for row in rows}
        pairs = list(itertools.combinations(options.models.split(","), 2))
        for seed, dataset in itertools.product(range(options.seeds), options.datasets.split(",")):
            for pair in pairs:
                if (dataset, seed, " + ".join(pair)) in done:
                    continue
                new = fuse(options, root, dataset, pair, seed)
                with options.out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
                rows += new
                print(f"{dataset} seed {seed}: {new[0]['pair']} {new[0]['accuracy']:.4f}", flush=True)
    print(tables(rows))


def read(path: Path) -> Rows:
    """Read what an earlier run left."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
