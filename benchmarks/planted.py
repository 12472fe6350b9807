"""How many planted faults `toptune inspect` finds: flipped labels, copies of images, images of another set.

    python benchmarks/planted.py STORE WORK --model NAME --set NAME=IMAGES --set NAME=IMAGES --seeds 5

STORE holds the features of each set by the model. Seed by seed, 5 % of the labels of each set are flipped; 20
images are re-encoded, resized, mirrored and brightened, and extracted into a store in WORK; and 10 images of
the next set are added. Labels are judged by average precision over all images, and by precision and recall of
what is told; copies by recall, and by pairs that neither were planted nor were there before: by features
alone, and with the pixels that inspect has with --data. Means over the seeds are printed with their standard
errors. With --keep FOLDER the same features, probabilities and plants are written there, for
benchmarks/planted_peers.py.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from planted_peers import over
from sklearn.metrics import average_precision_score

from toptune.extract import extract
from toptune.store import ArrayBlocks, FeatureStore
from toptune.train import FalkonClassifier, choose_arrays
from toptune.workflows.inspection.duplicates import Spacing, distances_of
from toptune.workflows.inspection.images import ImageProperties
from toptune.workflows.inspection.labels import confident_labels
from toptune.workflows.inspection.neighbors import Neighbors, nearest_neighbors, plan_neighbors
from toptune.workflows.inspection.pixels import EDGE, pixel_copies

_COPIES, _STRANGERS, _FLIPPED, _FALSE_ALARMS = 20, 10, 0.05, 0.001
_KINDS = ("jpeg", "resize", "mirror", "bright")


def main() -> None:
    """Plant faults in each set and print one JSON object a set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=IMAGES")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--layers", default="last", help="stored layers, named as for toptune inspect")
    parser.add_argument("--keep", type=Path, help="folder for what the peers are given")
    options = parser.parse_args()
    places = dict(each.split("=", 1) for each in options.sets)
    store = FeatureStore.open(options.store)
    names, seeds = list(places), range(options.seeds)
    rows = {name: features_of(store, options.model, name, options.layers) for name in names}
    for at, name in enumerate(names):
        values, ids, labels = rows[name]
        raw, _, _ = features_of(store, options.model, name, options.layers, is_unit=False)
        strangers = rows[names[(at + 1) % len(names)]][0]
        kept: dict[str, np.ndarray] = {"values": values, "labels": labels}
        plant(Path(places[name]), ids, options.work / "images" / name, seeds)
        found = {
            "dataset": name,
            "images": len(ids),
            "labels": over([flipped(raw, labels, seed, kept) for seed in seeds]),
            "strangers": over([strange(values, strangers, seed, kept) for seed in seeds]),
            "copies": copies(values, ids, Path(places[name]), options, kept),
        }
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            everything: dict[str, Any] = kept
            np.savez(options.keep / f"{name}.npz", **everything)
        print(json.dumps(found), flush=True)


def features_of(
    store: FeatureStore, model: str, name: str, layers: str, *, is_unit: bool = True
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return layers side by side (n, d), each of unit length if asked for, ids and labels of a data set."""
    features = store.features(model, name)
    rows = np.arange(features.n_rows)
    parts = [
        features.blocks([each.name]).take(rows).astype(np.float32)
        for each in choose_arrays(features.arrays(), layers, None)
    ]
    if is_unit:
        parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    values = np.concatenate(parts, axis=1)
    return values, features.manifest.ids, np.array(features.manifest.labels, dtype=str)


def flipped(
    values: np.ndarray, labels: np.ndarray, seed: int, kept: dict[str, np.ndarray]
) -> dict[str, float]:
    """Flip labels and return how well these are found."""
    rng = np.random.default_rng(seed)
    classes, codes = np.unique(labels, return_inverse=True)
    rows = rng.choice(len(codes), int(_FLIPPED * len(codes)), replace=False)
    given = codes.copy()
    given[rows] = (given[rows] + rng.integers(1, len(classes), len(rows))) % len(classes)
    is_flipped = given != codes
    scaled = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
    head = FalkonClassifier(random_state=seed).fit(scaled, given)
    probabilities = head.left_out_probabilities(scaled, given)
    found = confident_labels(probabilities, given)
    kept |= {f"probabilities{seed}": probabilities, f"given{seed}": given, "codes": codes}
    told = found.is_issue
    return {
        "average_precision": float(average_precision_score(is_flipped, 1 - found.self_confidence)),
        "precision": float(is_flipped[told].mean()),
        "recall": float(told[is_flipped].mean()),
        "suggestion_right": float((found.suggested == codes)[told & is_flipped].mean()),
    }


def strange(
    values: np.ndarray, others: np.ndarray, seed: int, kept: dict[str, np.ndarray]
) -> dict[str, float]:
    """Add images of another set and return how well these are found among the farthest 1 %."""
    added = others[np.random.default_rng(seed).choice(len(others), _STRANGERS, replace=False)]
    both = np.concatenate([values, added])
    kept[f"with_strangers{seed}"] = both
    farthest = distances_of(searched(both))[:, -1]
    is_strange = np.arange(len(farthest)) >= len(values)
    told = farthest > np.quantile(farthest, 0.99)
    return {
        "average_precision": float(average_precision_score(is_strange, farthest)),
        "precision": float(is_strange[told].mean()),
        "recall": float(told[is_strange].mean()),
    }


def plant(images: Path, ids: list[str], folder: Path, seeds: Sequence[int]) -> None:
    """Write the copies of some images for each seed, in a folder for each kind."""
    for seed in seeds:
        for row in np.random.default_rng(seed).choice(len(ids), _COPIES, replace=False).tolist():
            with Image.open(images / ids[row]) as opened:
                image = opened.convert("RGB")
            small = (image.width * 3 // 5, image.height * 3 // 5)
            made = {
                "jpeg": image,
                "resize": image.resize(small, Image.Resampling.LANCZOS),
                "mirror": ImageOps.mirror(image),
                "bright": ImageEnhance.Brightness(image).enhance(1.3),
            }
            for kind, copy in made.items():
                (folder / kind).mkdir(parents=True, exist_ok=True)
                quality = 60 if kind == "jpeg" else 85
                copy.save(folder / kind / f"{seed}-{row:06}.jpg", quality=quality)


def copies(
    values: np.ndarray,
    ids: list[str],
    images: Path,
    options: argparse.Namespace,
    kept: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Extract the copies and return how many of these are found, by features alone and with pixels."""
    folder, store = options.work / "images" / images_name(images, options), options.work / "store"
    name = f"{folder.name}-copies"
    extract(folder, model=options.model, store=store, dataset=name, layers="upper")
    added, added_ids, _ = features_of(FeatureStore.open(store), options.model, name, options.layers)
    tiles, more = tiles_of(images, ids), tiles_of(folder, added_ids)
    before = near(values, tiles)
    found: dict[str, Any] = {"there_before": {by: len(pairs) for by, pairs in before.items()}}
    for kind in _KINDS:
        seeds = []
        for seed in range(options.seeds):
            places = [at for at, image in enumerate(added_ids) if image.startswith(f"{kind}/{seed}-")]
            rows = [int(added_ids[at].split("-")[1][:6]) for at in places]
            kept[f"{kind}{seed}"], kept[f"planted{seed}"] = added[places], np.array(rows)
            planted = {(row, len(values) + place) for place, row in enumerate(rows)}
            after = near(np.concatenate([values, added[places]]), np.concatenate([tiles, more[places]]))
            figures = {}
            for by, pairs in after.items():
                new = pairs - before[by]
                figures[f"recall, {by}"] = len(new & planted) / len(planted)
                figures[f"others, {by}"] = len(new - planted)
                figures[f"precision, {by}"] = len(new & planted) / max(len(new), 1)
            seeds.append(figures)
        found[kind] = over(seeds)
    return found


def images_name(images: Path, options: argparse.Namespace) -> str:
    """Return the name of the set whose images are in a folder."""
    named: list[str] = options.sets
    return next(each.split("=", 1)[0] for each in named if each.split("=", 1)[1] == str(images))


def tiles_of(images: Path, ids: Sequence[str]) -> np.ndarray:
    """Return the small gray images (n, EDGE, EDGE) by which inspect compares pixels."""
    tiles = b"".join(ImageProperties.of((images / image).read_bytes()).tile for image in ids)
    return np.frombuffer(tiles, dtype=np.uint8).reshape(len(ids), EDGE, EDGE)


def near(values: np.ndarray, tiles: np.ndarray) -> dict[str, set[tuple[int, int]]]:
    """Return the pairs of rows that are told as near-duplicates."""
    found = searched(values)
    pairs = Spacing.of(found, false_alarms=_FALSE_ALARMS).near_pairs(found)
    known = np.ones(len(values), dtype=bool)
    by_pixels = pixel_copies(tiles, known, found, false_alarms=_FALSE_ALARMS)
    assert by_pixels is not None
    alone = {(int(left), int(right)) for left, right in pairs}
    return {"features": alone, "with pixels": alone | {(int(a), int(b)) for a, b in by_pixels.pairs}}


def searched(values: np.ndarray) -> Neighbors:
    """Return ten neighbors of each row."""
    plan = plan_neighbors(n=len(values), d=values.shape[1], k=10, limit_bytes=2**31)
    return nearest_neighbors(lambda some: ArrayBlocks(values[some]), plan)


if __name__ == "__main__":
    main()
