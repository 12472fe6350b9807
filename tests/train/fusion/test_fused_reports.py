"""Comparisons and layer reports of several models."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toptune.store import FeatureStore, InputError
from toptune.train import compare_heads, report_layers, train
from toptune.workflows import verify_run

Store = Callable[..., FeatureStore]
Run = Callable[..., tuple[int, str, str]]
BOTH = ["small", "large"]


@pytest.mark.parametrize("fusion", ["late", "join"])
def test_heads_are_compared_on_several_models(fusion: str, two_models: Store, tmp_path: Path) -> None:
    store, heads = two_models(), ["ridge", "ncm"]
    options: dict[str, Any] = {
        "dataset": "pets",
        "models": BOTH,
        "cv": 3,
        "layers": {"*": "last", "small": "all"},
    }
    found = compare_heads(store, heads=heads, seeds=2, out=tmp_path / "out", fusion=fusion, **options)
    assert found.config["model"] == "small + large"
    assert [(row.head, row.seed) for row in found.rows] == [(head, seed) for seed in (0, 1) for head in heads]
    one = train(store, out=tmp_path / "one", head="ncm", seed=1, fusion=fusion, **options)
    assert found.rows[3].log_loss == pytest.approx(one.metrics["log_loss"], rel=1e-9)
    assert found.rows[3].arrays == "small/block.mean small/last.mean large/last.mean"
    record = json.loads((tmp_path / "out" / found.rows[0].folder / "run.json").read_text())
    assert record["kind"] == fusion
    assert verify_run(tmp_path / "out" / found.rows[0].folder).exit_code == 0
    # What is there is taken as it is, and runs of another fusion or of other layers are not.
    again = compare_heads(store, heads=heads, seeds=2, out=tmp_path / "out", fusion=fusion, **options)
    assert again.rows == found.rows
    other = "join" if fusion == "late" else "late"
    with pytest.raises(InputError, match=f"a run with fusion '{fusion}', and '{other}' is asked for"):
        compare_heads(store, heads=heads, seeds=2, out=tmp_path / "out", fusion=other, **options)
    with pytest.raises(InputError, match="a run with layers"):
        compare_heads(store, heads=heads, out=tmp_path / "out", fusion=fusion, **options | {"layers": "all"})


def test_models_are_compared_as_they_are_typed(run_cli: Run, two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    models = ("compare", "--store", store.root, "--cv", "3", "--model", "small", "--model", "large")
    code, out, err = run_cli(*models, "--seeds", "2", "--out", tmp_path / "out")
    assert code == 0, err
    assert "small - large" in out
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [*report["heads"]] == BOTH
    assert report["config"]["heads"] == ["falkon"]
    assert report["config"]["model"] == "small, large"
    rows = [(row["model"], row["head"], row["seed"], row["folder"]) for row in report["rows"]]
    assert rows[:2] == [
        ("small", "falkon", 0, "runs/small-falkon-seed0"), ("large", "falkon", 0, "runs/large-falkon-seed0"),
    ]  # fmt: skip
    # Each run is of one model, and both meet the same rows.
    records = [json.loads((tmp_path / "out" / row[3] / "run.json").read_text()) for row in rows[:2]]
    assert [record["model"] for record in records] == BOTH
    assert records[0]["split"]["rows_digest"] == records[1]["split"]["rows_digest"]
    one = train(store, model="large", cv=3, seed=1, out=tmp_path / "one")
    assert report["rows"][3]["log_loss"] == pytest.approx(one.metrics["log_loss"], rel=1e-9)
    # More heads extend the comparison; models, heads and what they say then have both names.
    code, out, err = run_cli(*models, "--seeds", "2", "--heads", "falkon,ncm", "--out", tmp_path / "out")
    assert code == 0, err
    assert "small · ncm - large · falkon" in out
    assert len([*(tmp_path / "out" / "runs").iterdir()]) == 8


def test_a_comparison_needs_two_of_something(run_cli: Run, two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    code, _, err = run_cli("compare", "--store", store.root, "--model", "small", "--out", tmp_path / "out")
    assert code == 2
    assert "nothing to compare; give --heads with several names" in " ".join(err.split())
    # Models that do not share a run need no folds to be weighed by.
    options: dict[str, Any] = {"dataset": "pets", "heads": ["ridge"], "cv": None, "seeds": 1}
    options["params"] = {"ridge": {"penalty": 0.1}}
    found = compare_heads(store, models=BOTH, out=tmp_path / "out", **options)
    assert [row.model for row in found.rows] == BOTH
    with pytest.raises(InputError, match="model 'small' is given 2 times"):
        compare_heads(store, models=["small", "small"], out=tmp_path / "out", **options)


def test_a_comparison_of_auto_heads_goes_on(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    options: dict[str, Any] = {"dataset": "pets", "models": BOTH, "cv": 3, "heads": ["auto"], "seeds": 1}
    options["fusion"] = "late"
    first = compare_heads(store, out=tmp_path / "out", budget=0.01, **options)
    assert compare_heads(store, out=tmp_path / "out", budget=0.01, **options).rows == first.rows
    with pytest.raises(InputError, match=r"a run with budget 0\.005"):
        compare_heads(store, out=tmp_path / "out", budget=20, **options)


def test_runs_of_other_models_are_told(two_models: Store, tmp_path: Path) -> None:
    two_models(root=tmp_path / "store")
    options: dict[str, Any] = {"dataset": "pets", "cv": 3, "heads": ["ncm"], "seeds": 1}
    compare_heads(tmp_path / "store", models=BOTH, fusion="late", out=tmp_path / "out", **options)
    with pytest.raises(InputError, match="is a run with models"):
        compare_heads(tmp_path / "store", models=BOTH[::-1], fusion="late", out=tmp_path / "out", **options)
    with pytest.raises(InputError, match="fusion is 'late' with the one model 'small'"):
        compare_heads(tmp_path / "store", model="small", fusion="late", out=tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_layers_of_several_models_are_reported(run_cli: Run, two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    common = ("--store", store.root, "--cv", "3")
    code, out, err = run_cli(
        "layers-report", *common, "--model", "small", "--model", "large", "--short-list", "0",
        "--out", tmp_path / "layers",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads((tmp_path / "layers" / "layers.json").read_text())
    alone = [choice["arrays"] for choice in report["choices"] if choice["path"] == "alone"]
    assert alone == [[f"{model}/{tap}.mean"] for model in BOTH for tap in ("block", "last")]
    assert report["model"] == "small + large"
    assert "the last layer of each model" in out
    # What it suggests is what train takes.
    words = re.search(r"best by ridge: (.*) \(\d+ bytes", out)
    assert words is not None
    code, out, err = run_cli("train", *common, *shlex.split(words[1]), "--out", tmp_path / "r", "--json")
    assert code == 0, err
    chosen = report["chosen"]["arrays"]
    assert len({array.partition("/")[0] for array in chosen}) == 2
    assert sorted(json.loads(out)["arrays"]) == sorted(chosen)


def test_layers_by_model_are_what_is_reported(two_models: Store, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": "pets", "cv": 3, "short_list": 0}
    layers = {"small": "last", "*": "block"}
    report = report_layers(two_models(), models=BOTH, layers=layers, out=tmp_path / "layers", **options)
    assert {array for choice in report.search.choices for array in choice.arrays} == {
        "small/last.mean", "large/block.mean",
    }  # fmt: skip
    with pytest.raises(InputError, match="model 'large': layer 'lst' is not in the store"):
        report_layers(two_models(root=tmp_path / "other"), models=BOTH, layers={"large": "lst"},
                      out=tmp_path / "no", **options)  # fmt: skip
