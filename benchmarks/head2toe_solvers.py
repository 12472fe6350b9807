"""Head2Toe's two solvers compared: seconds of the selection and of the whole fit, and accuracy.

Usage::

    python benchmarks/head2toe_solvers.py STORE [--datasets a,b] [--models a,b] [--seeds 20,21]

STORE holds all layers of the data sets, as ``benchmarks/all_layers.py`` leaves them. OMP_NUM_THREADS=1 and
``taskset -c 0`` before the command measure on one thread. The solvers take turns in one process: ``gram``
selects by the squared loss from Gram matrices and fits ridge regression on the columns kept, ``softmax``
selects by the cross-entropy and fits logistic regression. The selection is the pass over the rows and the
rankings without each fold and on all rows. The whole fit adds the cross-validation of what to keep, and the
final head with its own. CPU seconds are those of ``train`` as a whole; they are the better measure on a
machine that is shared.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from all_layers import METHODS, MODELS
from heads import DATASETS, GROUPS

from toptune.train import train

SOLVERS = ("head2toe, Gram", "head2toe, softmax")
FIGURES = ("selection", "fit", "cpu", "accuracy")


def measure(store: Path, name: str, model: str, seed: int, method: str) -> tuple[float, ...]:
    """Train once; return seconds of selection, fit and CPU, and the test accuracy in percent."""
    with tempfile.TemporaryDirectory() as scratch:
        start = time.process_time()
        run = train(
            store,
            dataset=name,
            model=model,
            out=Path(scratch) / "run",
            seed=seed,
            resplit=True,
            group_by=GROUPS.get(name),
            **METHODS[method],
        )
        cpu = time.process_time() - start
        seconds = run.config["report"]["seconds"]
        selection = seconds["pass"] + seconds["ranking"]
        return selection, seconds["total"], cpu, 100 * run.metrics["accuracy"]


def main() -> None:
    """Read the options, measure in turns, and print one line per setting and the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", default="20")
    options = parser.parse_args()
    names, models = options.datasets.split(","), options.models.split(",")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    measure(options.store, names[0], models[0], seeds[0], SOLVERS[0])  # What is only slow the first time.
    found = []
    print("| data set | backbone | seed | solver | selection s | fit s | CPU s | accuracy |")
    print("|" + "---|" * 8)
    for name, model, seed in ((name, model, seed) for seed in seeds for name in names for model in models):
        both = [measure(options.store, name, model, seed, method) for method in SOLVERS]
        found.append(both)
        for method, figures in zip(SOLVERS, both, strict=True):
            shown = " | ".join(f"{figure:.2f}" for figure in figures)
            print(f"| {name} | {model} | {seed} | {method} | {shown} |", flush=True)
    gram, softmax = np.array(found).transpose(1, 0, 2)
    for at, what in enumerate(FIGURES[:3]):
        ratios = gram[:, at] / softmax[:, at]
        medians = f"{np.median(gram[:, at]):.2f} against {np.median(softmax[:, at]):.2f} s"
        print(f"{what}: medians {medians}; ratio {np.median(ratios):.3f}, at most {ratios.max():.3f}")
    print(f"accuracy: {np.mean(gram[:, 3] - softmax[:, 3]):+.2f} points on average")


if __name__ == "__main__":
    main()
