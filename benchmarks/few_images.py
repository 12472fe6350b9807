"""What a classifier gains from views of its images where there are at most ten images of a class.

Usage::

    python benchmarks/few_images.py ASSETS --cache FOLDER [--draws 10] [--shots 1,2,5,10] [--datasets a,b]
        [--model NAME] [--out FILE.jsonl]

ASSETS holds ``weights/<model>`` and ``datasets/<name>``; scikit-learn's digits are built in. Of each set,
POOL images of a class (or half of them) may train, and at most TESTS others are the test images. Features
are those of `extract --layers upper`. A draw takes the same images for every method:

``plain``
    The images as they are, and all widths of a larger set to choose among.
``default``
    The images as they are, and what `FalkonClassifier` does by default: the widest kernel alone.
``flip``, ``crops``, ``views``
    Beside every image its mirror image, three random crops (area 0.5 to 1, as in Szegedy et al. 2015), or all
    four, as further rows of the image's fold.
``flip-test``, ``views-test``
    ``flip`` and ``views``, with the mean of an image's and its mirror image's features at test, too.
``squared``, ``one-se``
    ``plain`` with ``selection="squared-error"`` and ``selection="one-se"``.
``ridge``, ``ridge-squared``
    `StreamingRidgeClassifier` on the images as they are, with its default selection and with the least
    squared error.
``differences``, ``both``
    Beside every image four rows in feature space: the image's row plus the difference of two training images
    of another class (Schwartz et al. 2018, "Delta-encoder", in its simplest form), halved;
    ``both`` with ``selection="squared-error"``, too.

The head is `FalkonClassifier` on standardized features; with one image of a class, of which none can be left
out, with one width and penalty. Beside each log-loss stands the one that the best
temperature would have reached on the test images, which tells what a better temperature could gain. Results
are appended line by line, so that a stopped run resumes.
"""

import argparse
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from default_columns import BUILT_IN, Rows
from heads import DATASETS
from PIL import Image, ImageOps
from scipy.spatial.distance import pdist
from scipy.special import log_softmax

from toptune.extract import load_backbone, open_source
from toptune.extract.pipeline.features_of import features_of
from toptune.store.features.blocks import ArrayBlocks
from toptune.train import FalkonClassifier, StreamingRidgeClassifier, fit_preprocessing
from toptune.train.estimators.kernel_ridge import WIDTHS

POOL, TESTS, CROPS = 20, 300, 3
ONE_SHOT_PENALTY = 1e-3
# Temperatures that are tried on the test images, as multiples of the head's.
AROUND = 2.0 ** np.arange(-4, 4.1, 0.25)
VIEWS = ("plain", "flip", *(f"crop{number}" for number in range(CROPS)))
METHODS = (
    "plain",
    "default",
    "flip",
    "crops",
    "views",
    "flip-test",
    "views-test",
    "squared",
    "one-se",
    "differences",
    "both",
    "ridge",
    "ridge-squared",
)
Matrix = npt.NDArray[np.float32]


class Views:
    """One view of some images of a source, as files of pixels."""

    def __init__(self, source: Any, rows: list[int], view: str) -> None:
        self.source, self.rows, self.view = source, rows, view

    def read(self, row: int) -> bytes:
        """Return the view of an image."""
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(self.source.read(self.rows[row])))).convert(
            "RGB"
        )
        rng = np.random.default_rng([self.rows[row], VIEWS.index(self.view)])
        if self.view != "plain":
            image = crop(image, rng) if self.view.startswith("crop") else ImageOps.mirror(image)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()


def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut out a random part: 0.5 to 1 of the area, sides at 3:4 to 4:3 of the image's."""
    area, ratio = rng.uniform(0.5, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(1.0, np.sqrt(area * ratio)) * image.width
    height = min(1.0, np.sqrt(area / ratio)) * image.height
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (
        round(left),
        round(top),
        max(round(left) + 1, round(left + width)),
        max(round(top) + 1, round(top + height)),
    )
    return image.crop(box)


class Pool:
    """Features of every view of the images that may train, and of two views of the test images."""

    def __init__(self, options: argparse.Namespace, dataset: str) -> None:
        folder = options.assets / "datasets" / dataset
        data = (
            dataset if dataset == BUILT_IN else folder / "images" if (folder / "images").exists() else folder
        )
        source = open_source(data)
        labels = np.array([str(label) for label in source.manifest().labels])
        rng = np.random.default_rng(0)
        order = rng.permutation(len(labels))
        classes, self.codes = np.unique(labels, return_inverse=True)
        self.train: list[int] = []
        for code in range(len(classes)):
            mine = [int(row) for row in order if self.codes[row] == code]
            self.train += mine[: min(POOL, len(mine) // 2)]
        taken = set(self.train)
        self.test = [int(row) for row in order if int(row) not in taken][:TESTS]
        self.features = self._features(options, dataset, source)

    def _features(
        self, options: argparse.Namespace, dataset: str, source: Any
    ) -> dict[tuple[str, str], Matrix]:
        found: dict[tuple[str, str], Matrix] = {}
        backbone = None
        methods = options.methods.split(",")
        of_training = [view for view in VIEWS if any(view in views_of(method) for method in methods)]
        of_test = VIEWS[: 1 + any(method.endswith("-test") for method in methods)]
        for part, rows, views in (("train", self.train, of_training), ("test", self.test, of_test)):
            for view in views:
                kept = options.cache / f"{dataset}-{options.model}-{part}-{view}.npz"
                if not kept.exists():
                    backbone = backbone or load_backbone(
                        f"local-dir:{options.assets / 'weights' / options.model}"
                    )
                    arrays = backbone.resolve("upper")
                    batches = features_of(Views(source, rows, view), len(rows), [(backbone, arrays)])
                    parts = [[batch.values[0][array.name] for array in arrays] for batch in batches]
                    stacked = np.concatenate([np.concatenate(each, axis=1) for each in parts])
                    assert len(stacked) == len(rows)
                    np.savez(kept, stacked.astype(np.float32), dims=[array.dim for array in arrays])
                with np.load(kept) as file:
                    found[part, view], self.dims = file["arr_0"], file["dims"].tolist()
        return found


def differences(
    rows: Matrix, codes: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[Matrix, npt.NDArray[np.intp]]:
    """Return four rows for each, moved by half the difference of two images of another class, and whose."""
    owners = np.repeat(np.arange(len(rows)), 4)
    made = rows[owners].copy()
    for place, owner in enumerate(owners):
        other = rng.choice(np.unique(codes[codes != codes[owner]]))
        mates = np.flatnonzero(codes == other)
        if len(mates) > 1:
            first, second = rng.choice(mates, 2, replace=False)
            made[place] += (rows[first] - rows[second]) / 2
    return made, owners


def views_of(method: str) -> tuple[str, ...]:
    """Return the views of the training images that a method takes."""
    base = method.removesuffix("-test")
    return {"flip": VIEWS[:2], "crops": ("plain", *VIEWS[2:]), "views": VIEWS}.get(base, VIEWS[:1])


def measure(pool: Pool, shots: int, draw: int, method: str) -> dict[str, Any]:
    """Fit on a draw by one method, and score the test images."""
    rng = np.random.default_rng([draw, shots])
    places = [
        int(place) for code in np.unique(pool.codes[pool.train])
        for place in rng.permutation(np.flatnonzero(pool.codes[pool.train] == code))[:shots]
    ]  # fmt: skip
    codes = pool.codes[pool.train][places]
    views = views_of(method)
    rows = np.concatenate([pool.features["train", view][places] for view in views])
    owners = np.tile(np.arange(len(places)), len(views))
    if method in ("differences", "both"):
        made, whose = differences(rows, codes, rng)
        rows, owners = np.concatenate([rows, made]), np.concatenate([owners, whose])
    tests = [pool.features["test", view] for view in (VIEWS[:2] if method.endswith("-test") else VIEWS[:1])]
    steps, _ = fit_preprocessing("standardise", ArrayBlocks(rows), tuple(pool.dims))
    rows = steps.apply(rows)
    is_squared = method in ("squared", "both", "ridge-squared")
    selection = "squared-error" if is_squared else "one-se" if method == "one-se" else "accuracy"
    median = float(np.median(pdist(rows[: len(places)])))
    widths = None if method == "default" else [multiple * median for multiple in WIDTHS]
    head: Any = FalkonClassifier(random_state=draw, selection=selection, sigma=widths)
    if method.startswith("ridge"):
        head = StreamingRidgeClassifier(random_state=draw, selection=selection)
    elif shots == 1:
        # No image can be left out. The width is the median distance, and the penalty a usual one.
        head = FalkonClassifier(random_state=draw, cv=None, sigma=median, penalty=ONE_SHOT_PENALTY)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        head.fit(rows, codes[owners], groups=None if shots == 1 else [str(owner) for owner in owners])
    scores = head.decision_function(steps.apply(np.mean(tests, axis=0)))
    # With two classes, the difference of the two scores.
    scores = scores if scores.ndim == 2 else np.stack([-scores / 2, scores / 2], axis=1)
    columns = np.searchsorted(head.classes_, pool.codes[pool.test])
    return {
        "shots": shots, "draw": draw, "method": method, "n_test": len(columns),
        "accuracy": float((scores.argmax(axis=1) == columns).mean()),
        "log_loss": log_loss(scores, columns, head.temperature_),
        "best_log_loss": min(log_loss(scores, columns, head.temperature_ * each) for each in AROUND),
        "warnings": sorted({type(each.message).__name__ for each in told}),
    }  # fmt: skip


def log_loss(scores: npt.NDArray[np.float64], columns: npt.NDArray[np.intp], temperature: float) -> float:
    """Return the mean negative log-probability of the true class, in nats."""
    logs = log_softmax(scores / temperature, axis=1)
    return float(-logs[np.arange(len(columns)), columns].mean())


def print_tables(rows: Rows) -> None:
    """Print the mean of ``plain`` and each method's gain, by set and shots, with standard errors."""
    found = {(row["dataset"], row["shots"], row["draw"], row["method"]): row for row in rows}
    measured = [method for method in METHODS[1:] if any(row["method"] == method for row in rows)]
    for figure in ("accuracy", "log_loss"):
        print(f"| {figure}: gain over plain | shots | plain | {' | '.join(measured)} |")
        print("|---|---|---" + "|---" * len(measured) + "|")
        sets = [*dict.fromkeys(row["dataset"] for row in rows)]
        for shots in sorted({row["shots"] for row in rows}):
            gains: dict[str, list[float]] = {}
            for dataset in sets:
                keys = sorted({key[2] for key in found if key[:2] == (dataset, shots)})
                if not keys:
                    continue
                plain = np.array([found[dataset, shots, draw, "plain"][figure] for draw in keys])
                cells = []
                for method in measured:
                    own = np.array([found[dataset, shots, draw, method][figure] for draw in keys
                                    if (dataset, shots, draw, method) in found])  # fmt: skip
                    gain = own - plain[: len(own)]
                    gains.setdefault(method, []).append(float(gain.mean()))
                    cells.append(_with_error(gain, figure))
                print(f"| {dataset} | {shots} | {plain.mean():.3f} | {' | '.join(cells)} |")
            means = [_with_error(np.array(gains[method]), figure) for method in measured]
            print(f"| **mean of the sets** | {shots} | | {' | '.join(means)} |")
        print()
    for shots in sorted({row["shots"] for row in rows}):
        mine = [row for row in rows if row["shots"] == shots and row["method"] == "plain"]
        lost = np.array([row["log_loss"] - row["best_log_loss"] for row in mine])
        print(
            f"{shots} shots: plain loses {lost.mean():.3f} nats (at most {lost.max():.3f}) by its temperature"
        )


def _with_error(gains: npt.NDArray[np.float64], figure: str) -> str:
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else float("nan")
    scale = 100 if figure == "accuracy" else 1
    return f"{gains.mean() * scale:+.2f} ± {error * scale:.2f}"


def main() -> None:
    """Measure what is missing in the file of results, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the features of the views")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--shots", default="1,2,5,10")
    parser.add_argument("--datasets", default=",".join((*DATASETS, BUILT_IN)))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--model", default="tf_efficientnet_lite0.in1k")
    parser.add_argument("--out", type=Path, default=Path("few_images.jsonl"))
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["dataset"], row["shots"], row["draw"], row["method"]) for row in rows}
    for dataset in options.datasets.split(","):
        pool = Pool(options, dataset)
        least = min(np.bincount(pool.codes[pool.train]))
        for draw in range(options.draws):
            for shots in map(int, options.shots.split(",")):
                for method in options.methods.split(","):
                    if shots > least or (dataset, shots, draw, method) in done:
                        continue
                    row = {"dataset": dataset, "model": options.model} | measure(pool, shots, draw, method)
                    rows.append(row)
                    with options.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    print_tables(rows)


if __name__ == "__main__":
    main()
