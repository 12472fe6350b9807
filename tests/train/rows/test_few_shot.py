from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toptune.store import FeatureCache, InputError, Manifest
from toptune.train import split_manifest, train, update_run
from toptune.train.rows.few_shot import draw_training_rows
from toptune.train.runs.run import Run

Build = Callable[..., FeatureCache]
LABELS = ["common"] * 100 + ["middling"] * 40 + ["rare"] * 10
IDS = [f"g{i // 5}_{i}.png" for i in range(150)]


def manifest(**changes: Any) -> Manifest:
    columns: dict[str, Any] = {"ids": IDS, "labels": LABELS, "splits": [None] * 150, "sizes": [1] * 150}
    return Manifest.from_columns(**{**columns, **changes})


def counts(rows: Any) -> Counter[str]:
    return Counter(LABELS[row] for row in rows)


def test_shots_of_each_class_are_nested_and_leave_test_rows_alone() -> None:
    whole = split_manifest(manifest())
    samples = [draw_training_rows(whole, manifest(), shots=k, seed=4) for k in (1, 3, 8)]
    for shots, sample in zip((1, 3, 8), samples, strict=True):
        assert counts(sample.train) == dict.fromkeys(("common", "middling", "rare"), shots)
        assert (sample.test == whole.test).all()
        assert sample.n_not_drawn == len(whole.train) - 3 * shots
        assert set(sample.train) <= set(whole.train)
        assert f"{shots} of each class" in sample.rule
        assert (np.diff(sample.train) > 0).all()
    assert set(samples[0].train) < set(samples[1].train) < set(samples[2].train)
    again = draw_training_rows(whole, manifest(), shots=3, seed=4)
    assert (again.train == samples[1].train).all()
    assert set(draw_training_rows(whole, manifest(), shots=3, seed=5).train) != set(again.train)


def test_a_size_is_shared_out_in_proportion() -> None:
    whole = split_manifest(manifest())
    # 80, 32 and 8 training rows: shares of 30 are 20, 8 and 2.
    assert counts(draw_training_rows(whole, manifest(), train_size=30).train) == {
        "common": 20, "middling": 8, "rare": 2,
    }  # fmt: skip
    for size in range(3, 121):
        drawn = draw_training_rows(whole, manifest(), train_size=size)
        assert len(drawn.train) == size
        shares = {"common": size * 80 / 120, "middling": size * 32 / 120, "rare": size * 8 / 120}
        for label, count in counts(drawn.train).items():
            assert max(1, int(shares[label]) - 1) <= count <= shares[label] + 1


def test_groups_stay_on_their_side() -> None:
    whole = split_manifest(manifest(), group_by="^(g[0-9]+)_")
    sample = draw_training_rows(whole, manifest(), shots=2)
    sides = [{IDS[row].split("_")[0] for row in rows} for rows in (sample.train, sample.test)]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 9}, r"1 of 3 classes have fewer than 9 training rows: 'rare' \(8\); ask for at most 8"),
        ({"shots": 0}, "shots is 0"),
        ({"train_size": 2}, "train_size is 2; it must be from 3"),
        ({"train_size": 121}, "to 120"),
        ({"train_size": 10, "shots": 1}, "give one of them"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_training_rows(split_manifest(manifest()), manifest(), **options)


def test_a_run_says_what_it_was_trained_on(build: Build, tmp_path: Path) -> None:
    cache = build()
    options: dict[str, Any] = {
        "dataset": "pets",
        "model": "tiny.demo",
        "layers": "last",
        "head": "ridge",
        "cv": 3,
    }
    run = train(cache.root, shots=6, out=tmp_path / "run", **options)
    whole = train(cache.root, out=tmp_path / "whole", **options)
    assert run.config["classes"] == {f"class {i}": 6 for i in range(3)}
    assert (run.config["split"]["n_not_drawn"], run.config["options"]["shots"]) == (54, 6)
    assert (run.test_rows == whole.test_rows).all()
    assert set(run.train_rows) < set(whole.train_rows)
    assert "macro f1" in str(Run.load(tmp_path / "run"))
    with pytest.raises(InputError, match="trained on a sample"):
        update_run(run, out=tmp_path / "updated")


def test_layers_chosen_by_the_run_itself(build: Build, tmp_path: Path) -> None:
    cache = build()
    run = train(
        cache.root, dataset="pets", model="tiny.demo", head="ridge", layers="auto", cv=3, out=tmp_path / "run"
    )
    found = run.config["layer_search"]
    assert tuple(array.name for array in run.arrays) == tuple(found["chosen"]["arrays"])
    lines = (tmp_path / "run" / "layer_search.csv").read_text().splitlines()
    assert lines[0].startswith("path,arrays,")
    assert sum(line.startswith("alone,") for line in lines) == 3
    assert any(line.startswith("alone,last.mean,") for line in lines)
    assert Run.load(tmp_path / "run").arrays == run.arrays
    kernel = train(
        cache.root, dataset="pets", model="tiny.demo", layers="auto", cv=3, n_centers=30, out=tmp_path / "k"
    )
    found = kernel.config["layer_search"]
    assert found["decided_by"] == "falkon"
    # The fit that decided is the run's own.
    assert found["chosen"]["head_accuracy"] == pytest.approx(kernel.config["report"]["accuracy"])
