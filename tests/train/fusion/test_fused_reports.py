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


def test_a_comparison_of_auto_heads_goes_on(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    options: dict[str, Any] = {"dataset": "pets", "models": BOTH, "cv": 3, "heads": ["auto"], "seeds": 1}
    first = compare_heads(store, out=tmp_path / "out", budget=0.01, **options)
    assert compare_heads(store, out=tmp_path / "out", budget=0.01, **options).rows == first.rows
    with pytest.raises(InputError, match=r"a run with budget 0\.005"):
        compare_heads(store, out=tmp_path / "out", budget=20, **options)


def test_runs_of_other_models_are_told(two_models: Store, tmp_path: Path) -> None:
    two_models(root=tmp_path / "store")
    options: dict[str, Any] = {"dataset": "pets", "cv": 3, "heads": ["ncm"], "seeds": 1}
    compare_heads(tmp_path / "store", models=BOTH, out=tmp_path / "out", **options)
    with pytest.raises(InputError, match="is a run with models"):
        compare_heads(tmp_path / "store", models=BOTH[::-1], out=tmp_path / "out", **options)
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
