"""`demo` extracts, trains and predicts on images that need no download, and shows its commands."""

import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toptune.errors import InputError
from toptune.extract.extraction import extract
from toptune.extract.sources.opening import open_source
from toptune.store.files.names import check_folder_name
from toptune.train.best.training import train
from toptune.train.runs.run import Run
from toptune.workflows.predict.classifier import Classifier
from toptune.workflows.predict.predictions import write_predictions

MODEL = "resnet10t.toptune_glyphs"
TARGETS = {"digits": "handwritten digits (scans)", "greek": "rendered Greek letters"}
TEST_FRACTION = 0.3333
HEADER = "#!/bin/sh\n# What `toptune demo` ran, to be tried on your own images.\n"


@dataclass(frozen=True)
class Step:
    """One command of the demo: verb, data and options, as the command line spells them."""

    verb: str
    target: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        about = [self.target] if self.verb == "extract" else ["--dataset", self.target]
        words = ["toptune", self.verb, *about]
        words += [word for name, value in self.options.items() for word in (f"--{name}", value)]
        return shlex.join(words)


@dataclass(frozen=True)
class DemoReport:
    """Figures that the demo measured, with the pretrained and with the untrained backbone."""

    folder: str
    accuracy: dict[str, float]
    accuracy_untrained: dict[str, float]
    n_test: dict[str, int]
    seconds: dict[str, float]
    predictions: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{'test accuracy':<34}{'pretrained':>12}{'untrained':>12}{'images':>10}"]
        lines += [
            f"{TARGETS[name]:<34}{value:>12.4f}{self.accuracy_untrained[name]:>12.4f}{self.n_test[name]:>10}"
            for name, value in self.accuracy.items()
        ]
        right = sum(Path(path).name.startswith(label) for path, label in self.predictions.items())
        lines += [
            "",
            f"{right} of {len(self.predictions)} images in {self.folder}/pictures classified rightly",
            ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items()),
            f"store, runs, confusion matrices and commands.sh are in {self.folder}",
        ]
        return "\n".join(lines)


def plan_demo() -> list[Step]:
    """List the commands of the demo, with paths relative to the folder of the demo."""
    steps: list[Step] = []
    for target in TARGETS:
        for model, run in ((MODEL, target), (f"random:{MODEL}", f"{target}-untrained")):
            common = {"model": model, "store": "store"}
            steps.append(Step("extract", target, common))
            trained = {"test-fraction": str(TEST_FRACTION), "out": f"runs/{run}"}
            steps.append(Step("train", target, common | trained))
    return steps


def demo(out: str | Path = "toptune-demo", *, report: Callable[[str], None] | None = None) -> DemoReport:
    """Extract, train and predict with the embedded backbone on data that ships with toptune.

    Each target is also learned on the same backbone with untrained weights. The accuracy that the pretrained
    backbone adds is the transfer.

    Parameters
    ----------
    out : path
        Folder for the store, the runs, some images and ``commands.sh``; a folder of an earlier demo
        is used again.
    report : callable
        Called with each command of the two stages before the command runs.

    Returns
    -------
    DemoReport
        Accuracies, seconds and predictions.

    Raises
    ------
    InputError
        If `out` holds something else.
    """
    check_folder_name(out, option="out")
    folder = Path(out)
    prepare_folder(folder)
    steps = plan_demo()
    (folder / "commands.sh").write_text(HEADER + "".join(f"{step}\n" for step in steps) + predict_command())
    seconds = {"extract": 0.0, "train": 0.0}
    for step in steps:
        if report:
            report(str(step))
        start = time.perf_counter()
        run_step(step, folder)
        seconds[step.verb] += time.perf_counter() - start
    start = time.perf_counter()
    predictions = predict_images(folder)
    seconds["predict"] = time.perf_counter() - start
    runs = [folder / step.options["out"] for step in steps if step.verb == "train"]
    metrics = {run.name: Run.load(run).metrics for run in runs}
    return DemoReport(
        folder=str(folder),
        accuracy={name: metrics[name]["accuracy"] for name in TARGETS},
        accuracy_untrained={name: metrics[f"{name}-untrained"]["accuracy"] for name in TARGETS},
        n_test={name: metrics[name]["n_test"] for name in TARGETS},
        seconds=seconds,
        predictions=predictions,
    )


def prepare_folder(folder: Path) -> None:
    """Make the folder, or reuse the folder of an earlier demo without its runs."""
    # Features of an earlier demo are the same and are kept; a run is never overwritten, so that runs have to
    # go.
    commands = folder / "commands.sh"
    if folder.exists() and any(folder.iterdir()):
        if not (commands.exists() and commands.read_text().startswith(HEADER)):
            raise InputError(f"{folder} holds something that is not a demo; give another folder with --out")
        for step in plan_demo():
            if step.verb == "train":
                shutil.rmtree(folder / step.options["out"], ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def run_step(step: Step, folder: Path) -> None:
    """Run a command of the demo as a Python call."""
    options: dict[str, Any] = {name.replace("-", "_"): value for name, value in step.options.items()}
    options["store"] = folder / "store"
    if step.verb == "extract":
        extract(step.target, **options)
    else:
        options["test_fraction"] = float(options["test_fraction"])
        train(**options | {"dataset": step.target, "out": folder / options["out"]})


def predict_command() -> str:
    """Return the command that classifies the images of the demo's folder."""
    return "toptune predict runs/digits images\n"


def predict_images(folder: Path) -> dict[str, str]:
    """Write one held-out image of each class to files, and classify the files."""
    run = Run.load(folder / "runs" / "digits")
    source = open_source("digits")
    labels = source.manifest().labels
    # Reversed, so that the first test image of each class is the one that stays.
    chosen = {labels[row]: row for row in reversed(run.test_rows)}
    images = folder / "pictures"
    images.mkdir(exist_ok=True)
    files = [images / f"{label}-{row}.png" for label, row in sorted(chosen.items())]
    for file, row in zip(files, (row for _, row in sorted(chosen.items())), strict=True):
        file.write_bytes(source.read(row))
    predictions = Classifier.load(folder / "runs" / "digits").predict(files)
    with (folder / "predictions.csv").open("w") as stream:
        write_predictions(predictions, stream)
    return {each.path: str(each.label) for each in predictions}
