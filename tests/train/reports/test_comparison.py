"""Repeated runs of several heads: what is trained, what is resumed, what the statistics say."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from toptune.store import FeatureCache, InputError
from toptune.train import Comparison, Run, compare_heads, train
from toptune.train.reports.statistics import corrected_paired_test, difference_of_means, holm, spread_of

Build = Callable[..., FeatureCache]
OPTIONS: dict[str, Any] = {
    "dataset": "pets", "model": "tiny.demo", "cv": 3, "heads": ["ridge", "knn"], "seeds": 3,
}  # fmt: skip


def test_the_corrected_test_by_hand() -> None:
    # Differences 0.02, 0.04, 0.00, 0.02: mean 0.02, variance 0.0008 / 3; 20 rows tested for 80 trained on.
    first, second = [0.92, 0.94, 0.90, 0.92], [0.90, 0.90, 0.90, 0.90]
    found = corrected_paired_test(first, second, ratio=20 / 80)
    t = 0.02 / np.sqrt((1 / 4 + 1 / 4) * 0.0008 / 3)
    assert t == pytest.approx(1.7320508)
    assert found.difference == pytest.approx(0.02)
    assert found.t == pytest.approx(t)
    # Its p from Student's density with 3 degrees of freedom, integrated.
    grid = np.linspace(0, t, 200_001)
    density = 2 / (np.pi * np.sqrt(3)) * (1 + grid**2 / 3) ** -2
    assert found.p == pytest.approx(1 - 2 * np.trapezoid(density, grid), abs=1e-8)
    plain = corrected_paired_test(first, second, ratio=0.0)
    expected = stats.ttest_rel(first, second)
    assert [plain.t, plain.p] == pytest.approx([expected.statistic, expected.pvalue])


def test_no_test_where_nothing_can_be_said() -> None:
    assert corrected_paired_test([0.5, 0.6], [0.4, 0.5], ratio=None).p is None
    assert corrected_paired_test([0.5], [0.4], ratio=0.2).p is None
    same = corrected_paired_test([0.5, 0.6, 0.7], [0.4, 0.5, 0.6], ratio=0.2)
    assert (same.t, same.p) == (None, None)
    assert same.difference == pytest.approx(0.1)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        None,
        pytest.approx(0.06),
    ]
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_intervals() -> None:
    values = [0.9, 0.8, 0.85, 0.95]
    found = spread_of(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high])
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert spread_of([0.5]).deviation is None
    first, second = [0.9, 0.92, 0.95], [0.8, 0.7, 0.75, 0.74]
    leak = difference_of_means(first, second)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert leak.mean == pytest.approx(np.mean(first) - np.mean(second))
    assert [leak.low, leak.high] == pytest.approx([expected.low, expected.high])
    assert difference_of_means([1.0, 1.0], [1.0, 1.0]).low == 0.0


def compare(cache: FeatureCache, out: Path, **options: Any) -> Comparison:
    return compare_heads(cache.root, out=out, **(OPTIONS | options))


def test_every_head_meets_the_same_rows_and_finished_runs_stay(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, out, counted = build(), tmp_path / "out", []
    found = compare(cache, out, seeds=2, progress=lambda done, total: counted.append((done, total)))
    assert counted == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    digests = {
        row.folder: json.loads((out / row.folder / "run.json").read_text())["split"]["rows_digest"]
        for row in found.rows
    }
    assert digests["runs/ridge-seed0"] == digests["runs/knn-seed0"] != digests["runs/knn-seed1"]

    # One more seed trains only its own runs; a run that was lost is made again.
    trained: list[str] = []

    def counting(*arguments: Any, **options: Any) -> Run:
        trained.append(options["out"].name)
        run = train(*arguments, **options)
        assert isinstance(run, Run)
        return run

    monkeypatch.setattr("toptune.train.reports.comparison.train", counting)
    shutil.rmtree(out / "runs" / "knn-seed1")
    more = compare(cache, out, seeds=3)
    assert trained == ["knn-seed1", "ridge-seed2", "knn-seed2"]
    again = {(row.head, row.seed): row.accuracy for row in more.rows}
    assert all(again[row.head, row.seed] == row.accuracy for row in found.rows)
    assert compare(cache, out, seeds=3).rows == more.rows
    assert len(trained) == 3

    with (out / "compare.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6
    assert float(table[0]["accuracy"]) == more.rows[0].accuracy
    report = json.loads((out / "compare.json").read_text())
    accuracies = {head: [row.accuracy for row in more.rows if row.head == head] for head in ("ridge", "knn")}
    assert report["heads"]["knn"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies["knn"]))
    (pair,) = (pair for pair in report["pairs"] if pair["metric"] == "accuracy")
    expected = corrected_paired_test(accuracies["ridge"], accuracies["knn"], ratio=18 / 72)
    assert (pair["difference"], pair["t"]) == (pytest.approx(expected.difference), pytest.approx(expected.t))
    assert "random splits" in report["variance"]
    assert "ridge - knn" in str(more)

    with pytest.raises(InputError, match="is a run with shots None, and 5 is asked for"):
        compare(cache, out, shots=5)
    other = build(root=tmp_path / "other", labels=[f"class {i % 2}" for i in range(90)])
    with pytest.raises(InputError, match="is a run with other labels"):
        compare(other, out)


def test_fixed_test_rows_say_what_varies(build: Build, tmp_path: Path) -> None:
    cache = build(splits=["test" if i % 5 == 0 else "train" for i in range(90)])
    fixed = compare(cache, tmp_path / "fixed", seeds=2)
    assert "random numbers only" in fixed.variance
    assert {pair["p"] for pair in fixed.pairs} == {None}
    sampled = compare(cache, tmp_path / "sampled", train_size=36, heads=["ridge", "knn", "forest"])
    assert "samples of the training rows, not over test images" in sampled.variance
    assert {row.n_train for row in sampled.rows} == {36}
    # Two samples of half the rows share half of them: r / (1 - r) is 1.
    rows = {head: [row.log_loss for row in sampled.rows if row.head == head] for head in ("ridge", "knn")}
    (pair,) = (
        pair
        for pair in sampled.pairs
        if (pair["metric"], pair["first"], pair["second"]) == ("log_loss", "ridge", "knn")
    )
    assert pair["p"] == pytest.approx(corrected_paired_test(rows["ridge"], rows["knn"], ratio=1.0).p)
    assert pair["p_holm"] >= pair["p"]


def test_the_leak_of_splits_that_part_groups(build: Build, tmp_path: Path) -> None:
    # Features tell an image's slide, and no more: classes are those of slides, which have nothing in common.
    rng = np.random.default_rng(0)
    slides = rng.normal(size=(30, 19)) * 3
    values = slides[np.arange(90) // 3] + rng.normal(size=(90, 19)) * 0.2
    parts = np.split(values, [6, 11], axis=1)
    names = ("block.mean", "block.cls", "last.mean")
    features = {
        name: part.astype(np.float16).astype(np.float32) for name, part in zip(names, parts, strict=True)
    }
    cache = build(labels=[f"class {i // 3 % 3}" for i in range(90)], features=features)
    found = compare(cache, tmp_path / "out", heads=["knn"], group_by="slide", leak=True, layers="all")
    assert {row.split for row in found.rows} == {"grouped", "ungrouped"}
    assert len(found.rows) == 6
    leak = found.leak["knn"]["accuracy"]
    assert leak.mean > 0.3
    assert (leak.low or 0) > 0
    assert found.heads["knn"]["accuracy"].n == 3
    assert "the leak" in str(found)
    with pytest.raises(InputError, match="give --group-by"):
        compare(cache, tmp_path / "b", leak=True)
    named = build(root=tmp_path / "named", splits=["test" if i < 30 else "train" for i in range(90)])
    with pytest.raises(InputError, match="--resplit"):
        compare(named, tmp_path / "b", leak=True, group_by="slide")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": []}, "heads are none"),
        ({"heads": ["knn", "knn"]}, "name each once"),
        ({"heads": ["oracle"]}, "head 'oracle' is unknown"),
        ({"seeds": 0}, "seeds is 0"),
        ({"params": {"forest": {}}}, "params are given for 'forest'"),
        ({"budget": 3.0}, "budget is that of head 'auto'"),
    ],
)
def test_bad_input(build: Build, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    cache = build()
    with pytest.raises(InputError, match=message):
        compare(cache, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        compare(cache, tmp_path / "full")


def test_head_auto_and_dotted_paths_are_heads_too(build: Build, tmp_path: Path) -> None:
    heads = ["auto", "sklearn:sklearn.naive_bayes.GaussianNB"]
    found = compare(build(), tmp_path / "out", heads=heads, seeds=1, budget=0.5)
    assert [row.head for row in found.rows] == heads
    assert found.heads["auto"]["accuracy"].deviation is None
    assert compare(build(root=tmp_path / "again"), tmp_path / "out", heads=heads, seeds=1, budget=0.5).rows
