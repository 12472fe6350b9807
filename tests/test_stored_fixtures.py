"""Features and RUN folders of an older toptune stay readable, and give what they gave.

`tests/stored` was written once, by ``tests/stored/make.py`` with the code of commit db4d69f; ``answers.npz``
and ``answers.json`` hold what that code said of the stores and runs. A test that fails here says that stored
features or runs of users have become unreadable, or that their numbers have changed.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from shapes import MODEL

from toptune.extract import ExtractSummary, extract
from toptune.store import FeatureStore, verify
from toptune.train import Run, train, update_run
from toptune.train.rows.folds import Folds, folds_by_hash
from toptune.workflows import Classifier, FineTunedRun, evaluate

Cli = Callable[..., tuple[int, str, str]]
STORED = Path(__file__).parent / "stored"
TRAINED = (
    "falkon", "falkon-first-version", "ridge", "logistic", "falkon-logistic", "lda", "ncm", "knn", "head2toe",
    "sklearn",
)  # fmt: skip
# Store, data set and version of every manifest in the fixture.
VIEWS = (("zarr", "photos", 1), ("zarr", "photos", 2), ("hdf5", "others", 1))


@pytest.fixture(autouse=True)
def _in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of the fixture: the paths in its runs are relative."""
    for name in ("zarr", "hdf5", "runs", "photos"):
        shutil.copytree(STORED / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def answers() -> dict[str, npt.NDArray[Any]]:
    with np.load(STORED / "answers.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((STORED / "answers.json").read_text())
    return found


def probabilities_of(run: Run, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    stored = FeatureStore.open("zarr").features(MODEL, "photos", version=run.config["dataset_version"])
    return run.predict_blocks(stored.blocks([array.name for array in run.arrays], rows))[1]


def assert_same_figures(found: dict[str, Any], stored: dict[str, Any]) -> None:
    # A count that older code did not give is no other answer.
    assert set(found) - {"seconds", "costs", "n_unlabelled"} == set(stored) - {"n_unlabelled"}
    for name, value in stored.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
        else:
            assert json.dumps(found[name], sort_keys=True) == json.dumps(value, sort_keys=True), name


@pytest.mark.parametrize("store", ["zarr", "hdf5"])
def test_stores_are_whole(store: str, run_cli: Cli) -> None:
    report = verify(FeatureStore.open(store), deep=True)
    assert report.exit_code == 0, str(report)
    assert run_cli("store", "verify", "--store", store, "--deep")[0] == 0
    code, out, _ = run_cli("store", "ls", "--store", store)
    assert code == 0
    assert MODEL in out
    assert ("photos" if store == "zarr" else "others") in out


@pytest.mark.parametrize(("store", "dataset", "version"), VIEWS)
def test_features_are_what_they_were(
    store: str, dataset: str, version: int, answers: dict[str, Any], figures: dict[str, Any]
) -> None:
    stored = FeatureStore.open(store).features(MODEL, dataset, version=version)
    expected = figures[f"{store}/{version}"]
    assert list(stored.manifest.ids) == expected["ids"]
    assert list(stored.manifest.labels) == expected["labels"]
    assert [stored.manifest.ids[row] for row in stored.failed_rows()] == expected["failed"]
    assert expected["arrays"] == ["last.none", "layer1.mean", "layer2.mean"]
    for name in expected["arrays"]:
        found = stored.blocks([name]).take(np.arange(stored.n_rows))
        np.testing.assert_allclose(found, answers[f"{store}/{version}/{name}"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*TRAINED, "updated"])
def test_runs_say_what_they_said(name: str, answers: dict[str, Any], figures: dict[str, Any]) -> None:
    run = Run.load(Path("runs") / name)
    found = probabilities_of(run, answers[f"{name}/rows"])
    np.testing.assert_allclose(found, answers[f"{name}/probabilities"], rtol=0, atol=1e-6)
    assert_same_figures(evaluate(f"runs/{name}"), figures[name]["test"])
    assert_same_figures(evaluate(f"runs/{name}", store="hdf5", dataset="others"), figures[name]["others"])


@pytest.fixture
def _by_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deal rows out over folds by hash, as toptune did before folds knew labels."""

    def old_folds(codes: npt.NDArray[np.int64], _classes: object, **options: Any) -> Folds:
        cv, keys = options["cv"], [str(key) for key in options["groups"]]
        is_validated = np.ones(len(codes), dtype=np.bool_)
        return Folds(numbers=folds_by_hash(keys, n_folds=cv), count=cv, is_validated=is_validated)

    for module in ("rows.chosen_rows", "estimators.fit_inputs", "heads.sklearn_heads"):
        monkeypatch.setattr(f"toptune.train.{module}.draw_folds", old_folds)


@pytest.mark.usefixtures("_by_hash")
@pytest.mark.parametrize("name", TRAINED)
def test_training_on_old_features_gives_the_old_run(name: str, answers: dict[str, Any]) -> None:
    """By the folds of the old run, because the rule of folds is all that has changed since."""
    config = Run.load(Path("runs") / name).config
    # Where no layers were asked for, the old run took the last one, and a new run takes all that is stored.
    options = config["options"] | {"layers": config["options"]["layers"] or "last"}
    run = train(
        "zarr",
        dataset="photos",
        model=MODEL,
        dataset_version=config["dataset_version"],
        out="again",
        **options,
    )
    found = probabilities_of(run, answers[f"{name}/rows"])
    # Heads that iterate stop anywhere within their tolerance.
    atol = 1e-4 if "logistic" in name or name == "head2toe" else 1e-6
    np.testing.assert_allclose(found, answers[f"{name}/probabilities"], rtol=0, atol=atol)


def test_an_old_run_is_brought_up_to_date_by_its_sums(answers: dict[str, Any]) -> None:
    run = update_run("runs/falkon-first-version", out="again", forget=["disc/003.png"], allow_failed=True)
    assert isinstance(run, Run)
    before = Run.load("runs/updated").config
    assert run.config["update"] == before["update"]
    # The folds of an old run are hashes, and stay so; their figures do too.
    assert run.config["folds"] == {"rule": "hash", "count": 3}
    assert run.config["report"]["squared_error"] == pytest.approx(before["report"]["squared_error"], rel=1e-6)
    found = probabilities_of(run, answers["updated/rows"])
    np.testing.assert_allclose(found, answers["updated/probabilities"], rtol=0, atol=1e-6)


def test_an_updated_run_is_updated_again() -> None:
    run = update_run("runs/updated", out="again", forget=["square/003.png"], allow_failed=True)
    once_more = update_run(run, out="once-more", forget=["square/004.png"], allow_failed=True)
    assert once_more.config["folds"] == {"rule": "hash", "count": 3}
    assert run.config["update"]["n_forgotten"] == 1
    assert run.metrics["n_train"] == Run.load("runs/updated").metrics["n_train"] - 1


def files_of(folder: Path) -> dict[Path, bytes]:
    """Read all but what says when a cache was used, or which requests it answered."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "used.json")
    return {path: path.read_bytes() for path in files if path.parent.name != "requests"}


@pytest.mark.parametrize(("store", "dataset"), [("zarr", "photos"), ("hdf5", "others")])
def test_the_same_extraction_has_nothing_to_do(store: str, dataset: str) -> None:
    def again() -> ExtractSummary:
        return extract(
            "photos", model=MODEL, store=store, dataset=dataset, layers="layer1,layer2,last",
            precision="fp32", max_failures=1,
        )  # fmt: skip

    before = files_of(Path(store))
    summary = again()
    assert (summary.units_done, list(summary.failed)) == (0, ["cross/broken.png"])
    assert files_of(Path(store)) == before
    # The first call may have been asked where the package lies elsewhere; the second is recognized at once.
    assert again().nothing_to_do


def test_networks_answer_on_images_as_they_did(answers: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    images = sorted(Path("photos").glob("*/02*.png"))
    assert FineTunedRun.load("runs/finetuned").metrics["n_test"] == 15
    # Features go through float16 on their way to a head, where another processor may move the last bit.
    for name, atol in (("finetuned", 1e-5), ("falkon", 5e-3)):
        predictions = Classifier.load(f"runs/{name}").predict(images)
        found = np.array([[*each.probabilities.values()] for each in predictions])
        np.testing.assert_allclose(found, answers[f"{name}/images"], rtol=0, atol=atol)
