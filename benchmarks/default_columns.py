"""What the columns that `extract` and `train` take by default bring, against the last layer alone.

Usage::

    python benchmarks/default_columns.py ASSETS [--store ROOT] [--seeds 5] [--datasets a,b] [--models a,b]
        [--methods last upper all] [--out FILE.jsonl]

ASSETS holds ``weights/<model>`` (timm local-dir folders) and ``datasets/<name>``; scikit-learn's digits are
built in. For each seed a new stratified split of all rows is drawn, with a fifth of them to test (whole
slides for bccd_cells), the same for every method. ``last`` is what was extracted and trained on by default
before, ``upper`` what is now, and ``all`` takes every block. Seconds are those of the whole `train`, and of
the processor; bytes are those stored for an image.
Results are appended line by line, so that a stopped run resumes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from heads import DATASETS, GROUPS

from toptune.extract import extract, load_backbone
from toptune.train import train

MODELS = (
    "deit_tiny_patch16_224.in1k",
    "mobilenetv2_100.tf2_in1k",
    "mobilenetv2_100.inat_insect",
    "tf_efficientnet_lite0.in1k",
    "mobilenetv2_100.onnxzoo_in1k_nohead",
)
METHODS = ("last", "upper", "all")
BUILT_IN = "digits"
Rows = list[dict[str, Any]]


def extract_all(options: argparse.Namespace, root: Path) -> dict[tuple[str, str], list[str]]:
    """Fill a store for each set of layers; return the arrays of each model and each set."""
    arrays = {}
    for model in options.models.split(","):
        name = f"local-dir:{options.assets / 'weights' / model}"
        backbone = load_backbone(name)
        for layers in ("upper", "all") if "all" in options.methods else ("upper",):
            arrays[model, layers] = [array.name for array in backbone.resolve(layers)]
            for dataset in options.datasets.split(","):
                folder = options.assets / "datasets" / dataset
                data = folder / "images" if (folder / "images").exists() else folder
                extract(dataset if dataset == BUILT_IN else data, model=name, store=root, dataset=dataset,
                        layers=layers)  # fmt: skip
        arrays[model, "last"] = ["last.none"]
    return arrays


def fit(root: Path, setting: dict[str, Any], layers: Any, name: str, out: Path) -> dict[str, Any]:
    """Train the default head on some layers."""
    start, processor = time.perf_counter(), time.process_time()
    run = train(root, dataset=setting["dataset"], model=name, out=out, seed=setting["seed"], resplit=True,
                group_by=GROUPS.get(setting["dataset"]), layers=layers, keep_sums=False)  # fmt: skip
    return setting | {
        "accuracy": run.metrics["accuracy"],
        "n_train": run.metrics["n_train"],
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - processor,
        "columns": sum(array.dim for array in run.arrays),
        "bytes": sum(array.dim * array.dtype_bytes for array in run.arrays),
    }


def print_tables(rows: Rows, methods: list[str]) -> None:
    """Print means by data set and by backbone, and each method's gain over ``last`` with its error."""
    found = {(row["dataset"], row["model"], row["seed"], row["method"]): row for row in rows}
    keys = sorted({key[:3] for key in found if all((*key[:3], method) in found for method in methods)})
    for place, title in ((0, "data set"), (1, "backbone")):
        columns = " | ".join(f"{each} minus last" for each in methods[1:])
        print(
            f"| {title} | {' | '.join(methods)} | {columns} | runs |\n"
            + "|---" * (2 * len(methods) + 1)
            + "|"
        )
        for value in [*sorted({key[place] for key in keys}), "mean"]:
            mine = [key for key in keys if value in (key[place], "mean")]
            table = np.array([[100 * found[*key, method]["accuracy"] for method in methods] for key in mine])
            gains = table[:, 1:] - table[:, :1]
            # Splits of one data set and backbone overlap, and backbones see the same splits: the error is
            # that of the mean over seeds.
            seeds = sorted({key[2] for key in mine})
            by_seed = np.array(
                [gains[[at for at, key in enumerate(mine) if key[2] == seed]].mean(0) for seed in seeds]
            )
            error = by_seed.std(0, ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else by_seed[0] * np.nan
            print(
                f"| {value} | " + " | ".join(f"{each:.1f}" for each in table.mean(0)) + " | "
                + " | ".join(f"{gain:+.2f} ± {e:.2f}" for gain, e in zip(gains.mean(0), error, strict=True))
                + f" | {len(mine)} |"
            )  # fmt: skip
        print()
    print("| | " + " | ".join(methods) + " |\n" + "|---" * (len(methods) + 1) + "|")
    for what in ("processor_seconds", "seconds", "bytes", "columns"):
        medians = [np.median([found[*key, method][what] for key in keys]) for method in methods]
        print(f"| median {what} | " + " | ".join(f"{each:.4g}" for each in medians) + " |")


def main() -> None:
    """Read the options, extract, fit, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--datasets", default=",".join((*DATASETS, BUILT_IN)))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", nargs="+", default=["last", "upper"], choices=METHODS)
    parser.add_argument("--out", type=Path, default=Path("default_columns.jsonl"))
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["dataset"], row["model"], row["seed"], row["method"]) for row in rows}
    with tempfile.TemporaryDirectory() as scratch:
        root = options.store or Path(scratch) / "store"
        arrays = extract_all(options, root)
        for seed in range(options.seeds):
            for dataset in options.datasets.split(","):
                for model in options.models.split(","):
                    for method in options.methods:
                        if (dataset, model, seed, method) in done:
                            continue
                        setting = {"dataset": dataset, "model": model, "seed": seed, "method": method}
                        name = f"local-dir:{options.assets / 'weights' / model}"
                        out = Path(scratch) / f"{dataset}-{model}-{seed}-{method}"
                        rows.append(fit(root, setting, arrays[model, method], name, out))
                        with options.out.open("a") as stream:
                            stream.write(json.dumps(rows[-1]) + "\n")
    print_tables(rows, [method for method in METHODS if method in options.methods])


if __name__ == "__main__":
    main()
