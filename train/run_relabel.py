"""`train --relabel`: another labelling of the same pictures, from the Gram matrices of an earlier run."""

import csv
import os
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np

from toptune.store import FeatureStore, InputError, Manifest, provenance
from toptune.store.costs import CostMeter
from toptune.train.chosen_rows import note_untested, rows_digest
from toptune.train.fit_report import report_of
from toptune.train.folds import folds_of_keys, usable_folds
from toptune.train.head_files import json_ready
from toptune.train.inputs import device_of, grid_of
from toptune.train.memory import block_rows_for
from toptune.train.one_pass import solve
from toptune.train.passes import TrainingRows, accumulate_targets
from toptune.train.preprocessing import PreprocessedBlocks
from toptune.train.run import Run
from toptune.train.run_update import saved_head
from toptune.train.run_writing import check_out, new_run_folder, write_run
from toptune.train.saved_sums import SavedSums
from toptune.train.scoring import score
from toptune.train.splits import Split, group_keys
from toptune.train.updating import maps_of


def relabel_run(
    run: Run | str | os.PathLike[str],
    labels: Mapping[str, str] | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    store: str | os.PathLike[str] | FeatureStore | None = None,
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Run:
    """Train for other labels on the pictures of a run.

    Split, folds, centres, width, preprocessing and with them the Gram matrices are the run's; only the
    sums with the targets are taken anew, in one pass over kernel values without any product of M^2. The
    penalty and the temperature are chosen for the new labels, out of fold.

    Parameters
    ----------
    run : Run or path
        Of head falkon (solver direct) or ridge, cross-validated, without class weights.
    labels : mapping of str to str, or str or path
        Label of each picture by id; or a CSV file with columns ``id`` and ``label``; or the name of a
        column of the data set's manifest.
    out : path
        RUN folder to make.
    store, device, progress : optional
        As in `update_run`.

    Raises
    ------
    InputError
        If a picture of the run has no label, one class only is left, a class has fewer training pictures than
        folds, or the run keeps no sums.
    """
    start, meter = time.perf_counter(), CostMeter()
    notify = progress or (lambda _phase: None)
    path = check_out(out)
    old = run if isinstance(run, Run) else Run.load(run)
    head, saved = saved_head(old)
    options = old.config["options"]
    if options["cv"] is None:
        raise InputError(
            f"run {old.folder} was not cross-validated, so no penalty can be chosen; train again"
        )
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store or old.config["store"])
    cache = opened.features(
        old.config["cache"]["name"], old.config["dataset"], version=old.config.get("dataset_version", 1)
    )
    if cache.manifest.pictures_digest != old.config["manifest"]["pictures_digest"]:
        raise InputError(f"data set {cache.dataset!r} has other pictures than the run was trained on")
    cache.mark_used()
    by_row = _labels_of(old, cache.manifest, labels)
    of_train = [by_row[row] for row in old.train_rows.tolist()]
    classes, codes, counts = np.unique(of_train, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise InputError(
            f"the labels have one class only, {str(classes[0])!r}; a classifier needs at least 2"
        )
    members = dict(zip(map(str, classes), map(int, counts), strict=True))
    n_folds = usable_folds(members, len(saved.sums.gram), may_reduce=False)

    notify("fit")
    clock = time.perf_counter()
    maps, d = maps_of(head, saved, device=device)
    keys = (
        cache.manifest.ids if options["group_by"] is None else group_keys(cache.manifest, options["group_by"])
    )
    names = [array.name for array in old.arrays]
    rows = TrainingRows(
        blocks=PreprocessedBlocks(cache.blocks(names, old.train_rows), old.preprocessing),
        codes=codes.astype(np.int64),
        weights=np.ones(len(codes)),
        folds=folds_of_keys([keys[row] for row in old.train_rows], n_folds=n_folds),
        n_classes=len(classes),
        n_folds=n_folds,
    )
    place, block_rows = device_of(device), block_rows_for(d=d, rank=maps.ranks[0])
    sums = accumulate_targets(rows, maps, 0, saved.sums.gram.to(place), block_rows=block_rows, device=place)
    estimator = copy(head.estimator)
    solution = solve(
        rows, maps, [getattr(estimator, "sigma_", None)],
        penalties=grid_of(head.params.get("penalty"), "penalty"),
        block_rows=block_rows, device=place, selection=estimator.selection, given=sums,
    )  # fmt: skip
    estimator.sums_ = SavedSums.of(sums, saved.factor)
    coefficients = maps.on_basis(0, solution.beta[:-1]).cpu().numpy()
    if saved.factor is None:
        estimator.coef_ = coefficients.T.copy()
    else:
        estimator.dual_coef_ = coefficients
    estimator.intercept_, estimator.classes_ = solution.beta[-1].cpu().numpy(), classes
    estimator.penalty_, estimator.temperature_ = solution.chosen.penalty, solution.temperature
    report = report_of(
        replace(solution, n_passes=solution.n_passes + 1), rows, solver=head.report["solver"],
        n_centers=head.report["n_centers"], rank=maps.ranks[0], n_dropped=0,
        smallest_pivot=head.report["smallest_pivot"], precision=head.report["precision"],
        peak_bytes=head.report["peak_bytes"], setup_seconds=0.0,
    ).to_dict()  # fmt: skip
    relabelled = head.with_estimator(estimator, report)
    seconds = {"fit": time.perf_counter() - clock}
    is_known = np.array([by_row[row] in members for row in old.test_rows.tolist()], bool)
    test = old.test_rows[is_known]
    notes = note_untested(is_known)
    manifest = _manifest_of(cache.manifest, by_row)
    split = Split(train=old.train_rows, test=test, n_unlabelled=0, n_unused=0, rule="")
    config = old.config | {
        "classes": members,
        "split": old.config["split"] | {"n_test": len(test), "rows_digest": rows_digest(split, manifest)},
        "auto": None,
        "selected": {name: report[name] for name in ("sigma", "penalty", "temperature", "rank")},
        "warnings": [*notes, *report["warnings"]],
        "report": relabelled.report,
        "created": provenance(),
        "relabelled": {
            "run": str(old.folder),
            "labels": str(labels) if not isinstance(labels, Mapping) else None,
        },
    }
    new = Run(
        folder=path, config=json_ready(config), metrics={}, head=relabelled, preprocessing=old.preprocessing,
        train_rows=old.train_rows, test_rows=test,
    )  # fmt: skip
    notify("test")
    scored = score(new, cache, test, by_row)
    seconds["total"] = time.perf_counter() - start
    metrics = scored.metrics | {"n_train": len(codes), "n_test": len(test), "n_skipped": 0,
                                "seconds": seconds, "costs": meter.to_dict()}  # fmt: skip
    new = replace(new, metrics=json_ready(metrics))
    notify("write")
    with new_run_folder(path) as folder:
        write_run(new, folder, manifest, scored)
    return new


def _labels_of(
    run: Run, manifest: Manifest, labels: Mapping[str, str] | str | os.PathLike[str]
) -> dict[int, str]:
    """Label of every row of the run, or an error that names the first without."""
    if isinstance(labels, Mapping):
        by_id: Mapping[str, str | None] = labels
    elif str(labels) in manifest.extra_names:
        by_id = dict(zip(manifest.ids, manifest.column(str(labels)), strict=True))
    else:
        by_id = _read_csv(Path(labels), manifest)
    rows = [*run.train_rows.tolist(), *run.test_rows.tolist()]
    missing = [manifest.ids[row] for row in rows if not by_id.get(manifest.ids[row])]
    if missing:
        raise InputError(
            f"{len(missing)} pictures of the run have no label, the first is {missing[0]!r}; label them, or "
            "train again on those that have one"
        )
    return {row: str(by_id[manifest.ids[row]]) for row in rows}


def _read_csv(path: Path, manifest: Manifest) -> dict[str, str | None]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if not {"id", "label"} <= set(table.fieldnames or ()):
                found = ", ".join(table.fieldnames or ()) or "none"
                raise InputError(f"{path} has the columns {found}; it needs id and label")
            return {row["id"]: row["label"] for row in table}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        columns = ", ".join(manifest.extra_names) or "none"
        raise InputError(
            f"labels {str(path)!r} are no column of the manifest (it has {columns}) and no file that can be "
            f"read: {error}"
        ) from error


def _manifest_of(manifest: Manifest, labels: Mapping[int, str]) -> Manifest:
    """Give the rows their other labels, for the record of the run."""
    return Manifest.from_columns(
        ids=manifest.ids,
        labels=[labels.get(row) for row in range(manifest.n_rows)],
        splits=manifest.splits,
        sizes=manifest.sizes.tolist(),
    )
