"""Decisions about images count in every run: of one model, of several, compared, updated and scored again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from toptune.store import CorruptError, FeatureStore, InputError, Manifest, Recipe, grow
from toptune.store.features.feature_cache import CONTENT_ARRAY
from toptune.train import FusedRun, Run, compare_heads, evaluate_run, load_run, train, update_run

Command = Callable[..., tuple[int, str, str]]
N_ROWS = 60
MODELS = ("small", "large")


def ids_of(n: int) -> list[str]:
    return [f"picture {row}.png" for row in range(n)]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Two models over 60 images of three classes; images 0 and 30, and 1 and 31, have equal bytes."""
    made = FeatureStore.create(tmp_path / "store")
    made.register("pets", manifest_of(N_ROWS))
    for number, model in enumerate(MODELS):
        fill(made, model, "pets", N_ROWS, seed=number)
    return made


def manifest_of(n: int) -> Manifest:
    labels = [f"class {row % 3}" for row in range(n)]
    return Manifest.from_columns(ids=ids_of(n), labels=labels, sizes=[1] * n)


def fill(store: FeatureStore, model: str, part: str, n: int, *, seed: int, first: int = 0) -> None:
    recipe = Recipe(
        architecture=model, model_kwargs={}, weights=f"{seed}a" * 32, transform={"input_size": [3, 8, 8]},
        decode="pillow-1", precision="fp32",
    )  # fmt: skip
    cache = store.create_cache(model, part, recipe, unit_rows=N_ROWS, batch_size=8, backbone={"name": model})
    codes = np.arange(first, n) % 3
    values = np.random.default_rng(seed).normal(size=(n - first, 6)) + 3 * np.eye(3, 6)[codes]
    content = np.arange(1, n - first + 1, dtype=np.uint8)[:, None].repeat(32, axis=1)
    if first == 0:
        content[30:32] = content[:2]
    cache.ensure_array("last.mean", dim=6, dtype="float32")
    cache.ensure_array(CONTENT_ARRAY, dim=32, dtype="uint8")
    cache.commit_unit(0, {"last.mean": values.astype(np.float32), CONTENT_ARRAY: content})


@pytest.fixture
def decided(tmp_path: Path) -> Any:
    table = tmp_path / "decisions.csv"
    table.write_text(
        "id,decision,label\npicture 4.png,exclude,\npicture 5.png,exclude,\npicture 6.png,relabel,class 1\n"
        "picture 7.png,keep,\n"
    )
    groups = [[f"picture {row}.png", f"picture {row + 30}.png"] for row in (0, 1)]
    findings = tmp_path / "findings.json"
    findings.write_text(json.dumps({"groups": [{"kind": "duplicate", "ids": ids} for ids in groups]}))
    return {"exclude": str(table), "relabel_with": str(table), "keep_together": str(findings)}


def used(folder: Path) -> dict[str, tuple[str, str]]:
    table = pq.read_table(folder / "rows.parquet").to_pydict()
    return dict(zip(table["id"], zip(table["role"], table["label"], strict=True), strict=True))


@pytest.mark.parametrize("fusion", [None, "late", "join"])
def test_a_run_holds_its_decisions(
    fusion: str | None, store: FeatureStore, decided: Any, tmp_path: Path
) -> None:
    of_models: dict[str, Any] = {"models": MODELS, "fusion": fusion} if fusion else {"model": "small"}
    run: Any = train(store, dataset="pets", out=tmp_path / "run", head="ridge", cv=3, **of_models, **decided)
    rows = used(run.folder)
    assert len(rows) == N_ROWS - 2
    assert "picture 4.png" not in rows
    assert rows["picture 6.png"][1] == "class 1"
    assert all(rows[f"picture {row}.png"][0] == rows[f"picture {row + 30}.png"][0] for row in (0, 1))
    written = json.loads((run.folder / "run.json").read_text())
    assert {name: written["options"][name] for name in decided} == decided
    assert {name: file["n_images"] for name, file in written["decisions"].items()} == {
        "exclude": 2, "relabel_with": 1, "keep_together": 4,
    }  # fmt: skip
    assert len(written["decisions"]["exclude"]["sha256"]) == 64
    assert written["split"]["n_excluded"] == 2
    assert f"2 images excluded by {decided['exclude']}" in str(run)
    # The files may go; the run knows what they said.
    for path in set(decided.values()):
        Path(path).unlink()
    again: Any = load_run(run.folder)
    for each in again.members if isinstance(again, FusedRun) else [again]:
        assert each.decisions.excluded == {"picture 4.png", "picture 5.png"}
        assert each.decisions.labels == {"picture 6.png": "class 1"}
        assert len(each.decisions.groups) == 2
    assert evaluate_run(again)["accuracy"] == run.metrics["accuracy"]


@pytest.mark.parametrize("fusion", [None, "late"])
def test_an_update_decides_the_same(
    fusion: str | None, store: FeatureStore, decided: Any, tmp_path: Path
) -> None:
    of_models: dict[str, Any] = {"models": MODELS, "fusion": fusion} if fusion else {"model": "small"}
    run: Any = train(store, dataset="pets", out=tmp_path / "run", head="ridge", cv=3, **of_models, **decided)
    Path(decided["exclude"]).unlink()
    grown = grow(store, "pets", manifest_of(N_ROWS + 6))
    for number, model in enumerate(MODELS):
        fill(store, model, grown.after.parts[-1], N_ROWS + 6, seed=number, first=N_ROWS)
    new: Any = update_run(run.folder, out=tmp_path / "new")
    rows, before = used(new.folder), used(run.folder)
    assert len(rows) == len(before) + 6
    assert {image: rows[image] for image in before} == before
    assert "picture 4.png" not in rows
    assert (
        json.loads((new.folder / "run.json").read_text())["decisions"]
        == json.loads((run.folder / "run.json").read_text())["decisions"]
    )
    assert new.record.update.n_changed == 0
    told = "decided as in the run before: 2 images excluded, 1 relabeled"
    assert fusion or any(note.startswith(told) for note in new.record.warnings)
    members = load_run(new.folder)
    for each in members.members if isinstance(members, FusedRun) else [members]:
        assert each.decisions.labels == {"picture 6.png": "class 1"}


@pytest.mark.parametrize("models", [("small",), MODELS])
def test_copies_that_an_update_brings_are_told(
    models: tuple[str, ...], store: FeatureStore, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"models": models, "head": "ridge", "cv": 3}
    if len(models) > 1:
        options["fusion"] = "late"
    run = train(store, dataset="pets", out=tmp_path / "run", **options)
    part = grow(store, "pets", manifest_of(N_ROWS + 20)).after.parts[-1]
    for number, model in enumerate(models):
        # The new images are copies of the first 20.
        fill(store, model, part, N_ROWS + 20, seed=number, first=N_ROWS)
    new: Any = update_run(run.folder, out=tmp_path / "new")
    (told,) = [note for note in new.record.warnings if "the same bytes" in note]
    assert told.startswith("leak: ")
    assert told not in run.record.warnings


def test_decisions_that_were_damaged_in_a_run_are_told(
    store: FeatureStore, decided: Any, tmp_path: Path
) -> None:
    run = train(store, dataset="pets", model="small", out=tmp_path / "run", head="ncm", cv=3, **decided)
    (run.folder / "decisions.csv").write_text("id,decision\n")
    with pytest.raises(CorruptError, match=r"decisions.csv is not the file that was written"):
        Run.load(run.folder)


@pytest.mark.parametrize("models", [("small",), MODELS])
def test_copies_across_the_split_are_told_of_every_comparison(
    models: tuple[str, ...], store: FeatureStore, decided: Any, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"dataset": "pets", "models": models, "heads": ["ncm"], "cv": 3, "seeds": 1}
    if len(models) > 1:
        options |= {"heads": ["ridge"], "fusion": "late"}
    found = compare_heads(store, out=tmp_path / "compared", **options)
    assert "the same bytes as a training image" in str(found)
    # Copies that are kept together do not leak, and a comparison of other decisions is another one.
    parted = compare_heads(store, out=tmp_path / "together", **options, **decided)
    assert "the same bytes" not in str(parted)
    assert "2 images excluded by" in str(parted)
    if len(models) > 1:
        return
    compare_heads(store, out=tmp_path / "together", **options, **decided)
    Path(decided["exclude"]).write_text("id,decision,label\npicture 9.png,exclude,\n")
    with pytest.raises(InputError, match="decisions"):
        compare_heads(
            store, out=tmp_path / "together", **options,
            exclude=decided["exclude"], keep_together=decided["keep_together"],
        )  # fmt: skip


def test_the_command_takes_decisions(
    store: FeatureStore, decided: Any, tmp_path: Path, run_cli: Command
) -> None:
    flags = [word for name, path in decided.items() for word in (f"--{name.replace('_', '-')}", path)]
    common = ["train", "--store", store.root, "--dataset", "pets", "--model", "small", "--head", "ncm"]
    code, said, _ = run_cli(*common, "--cv", 3, *flags, "--out", tmp_path / "run")
    assert code == 0
    assert f"note: 1 image relabeled by {decided['relabel_with']}" in said
    Path(decided["exclude"]).write_text("nowhere.png\n")
    code, _, error = run_cli(*common, "--exclude", decided["exclude"], "--out", tmp_path / "other")
    assert code == 2
    assert "--exclude" in error
    assert "names 1 id that the data set of 60 images does not have" in error
    assert not (tmp_path / "other").exists()
    code, _, error = run_cli(
        "train",
        "--store",
        store.root,
        "--update",
        tmp_path / "run",
        "--exclude",
        "x",
        "--out",
        tmp_path / "u",
    )
    assert code == 2
    assert "--exclude has no meaning with --update: it stays as it is in the run" in error
