"""Features in and out by the command line; trained on, and no backbone pretended."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from toptune.store import FeatureStore, InputError
from toptune.workflows import Classifier, import_files

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    values = rng.standard_normal((120, 5)) + 5 * np.eye(5)[labels]
    np.savez(tmp_path / "features.npz", last=values.astype(np.float32), y=np.array(["a", "b", "c"])[labels])
    torch.save({"tap": torch.from_numpy(values).to(torch.bfloat16)}, tmp_path / "features.pt")
    lines = [f"{row},{'abc'[row % 3]},{'test' if row % 4 == 0 else 'train'}" for row in range(120)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,label,split", *lines]))
    return tmp_path


def test_import_train_export_copy(run_cli: Run, folder: Path) -> None:
    store = folder / "store"
    command = ["store", "import", folder / "features.npz", "--store", store]
    code, out, _ = run_cli(*command, "--dataset", "made", "--model", "dino", "--labels", "y")
    assert code == 0, out
    names = ("--dataset", "made", "--model", "dino")
    code, out, _ = run_cli(
        "train",
        "--store",
        store,
        *names,
        "--layers",
        "all",
        "--head",
        "ridge",
        "--out",
        folder / "run",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["metrics"]["accuracy"] > 0.9
    with pytest.raises(InputError, match="trained on imported features: there is no backbone"):
        Classifier.load(folder / "run")
    code, out, _ = run_cli("predict", folder / "run", folder)
    assert code == 2
    assert run_cli("evaluate", folder / "run")[0] == 0
    code, out, _ = run_cli(
        "store", "export", "--store", store, *names, "--layers", "all", "-o", folder / "out"
    )
    assert code == 0
    values = np.load(folder / "features.npz")["last"]
    np.testing.assert_array_equal(np.load(folder / "out/last.imported.npy"), values)
    code, out, _ = run_cli("store", "copy", store, folder / "copy", "--format", "hdf5", "--json")
    assert json.loads(out)["units_copied"] > 0
    assert run_cli("store", "verify", "--deep", "--store", folder / "copy")[0] == 0


def test_tensors_and_tables(folder: Path) -> None:
    cache = import_files(
        [folder / "features.pt"],
        folder / "store",
        dataset="made",
        model="dino",
        table=str(folder / "rows.csv"),
    )
    assert cache.manifest.ids[:2] == ["0", "1"]
    assert cache.manifest.splits[:2] == ["test", "train"]
    assert cache.manifest.labels[5] == "c"
    assert [spec.name for spec in cache.arrays()] == ["tap.imported"]


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_refusals(folder: Path) -> None:
    def attempt(*files: str, **options: object) -> None:
        import_files(
            [folder / name for name in files],
            folder / "store",
            dataset="made",
            model="dino",
            **options,  # type: ignore[arg-type]
        )

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(folder / "executed"),))

    torch.save({"x": Evil()}, folder / "evil.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save({"x": torch.zeros(1).expand(10**7, 2**11)}, folder / "bomb.pt")
    torch.save({"x": torch.eye(3).to_sparse()}, folder / "sparse.pt")
    np.savez(folder / "keys.npz", **{"a/b": np.ones((4, 2)), "a.b": np.zeros((4, 2))})  # type: ignore[arg-type]
    np.savez(folder / "climbs.npz", **{"../../x": np.ones((4, 2))})  # type: ignore[arg-type]
    np.savez(folder / "splits.npz", x=np.ones((2, 2)), split=np.array(["train", "dev"]))
    np.savez(folder / "flat.npz", x=np.ones(5))
    for files, options, message in (
        (["bomb.pt"], {}, "x unpacks to 81920000000 bytes"),
        (["sparse.pt"], {}, "no dense tensor"),
        (["keys.npz"], {}, "need different names; give them with --layers"),
        (["climbs.npz"], {}, "begins with a dot"),
        (["splits.npz"], {}, "split 'dev' is none of train, val, test"),
        (["flat.npz"], {}, r"no array of rows x features .* x \(5,\)"),
        (["features.npz"], {"layers": ["a", "b"]}, "2 names of layers for the matrices last"),
        (["features.npz"], {"labels": "last"}, "a list of names is needed"),
        (["evil.pt"], {}, "without running code"),
        (["list.pt"], {}, "holds a list"),
        (["gone.pt"], {}, "no file"),
        (["features.npz", "features.npz"], {}, "two arrays are called"),
        (["features.npz"], {"arrays": ["x"]}, "no matrix is called 'x'; choose one of last"),
        (["features.npz"], {"labels": "z.txt"}, "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            attempt(*files, **options)
    assert not (folder / "executed").exists()
    (folder / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="has columns a, b; id, label or split are needed"):
        attempt("features.npz", table=str(folder / "odd.csv"))


def test_npz_files_count_together_against_the_memory_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(folder / "a.npz", a=np.ones((1000, 100)))
    np.savez_compressed(folder / "b.npz", b=np.ones((1000, 100)))
    files = [folder / "a.npz", folder / "b.npz"]
    monkeypatch.setattr("toptune.machine.memory.memory_limit_bytes", lambda: 1_000_000)
    with pytest.raises(InputError, match=r"loading .*b\.npz beside the \.npz files before it needs about"):
        import_files(files, folder / "store", dataset="made", model="m")
    for file in files:
        import_files([file], folder / "store", dataset="made", model=file.stem)


def test_every_array_has_its_name(folder: Path) -> None:
    names = {"a/b": np.ones((4, 2)), "c": np.zeros((4, 3))}
    np.savez(folder / "keys.npz", **names)  # type: ignore[arg-type]
    cache = import_files([folder / "keys.npz"], folder / "store", dataset="made", model="m")
    assert [(spec.name, spec.dim) for spec in cache.arrays()] == [("a.b.imported", 2), ("c.imported", 3)]
    cache = import_files(
        [folder / "keys.npz"], folder / "store", dataset="made", model="m2", arrays=["c"], layers=["last"]
    )
    assert [(spec.name, spec.dim) for spec in cache.arrays()] == [("last.imported", 3)]


def test_tensors_as_training_leaves_them(folder: Path) -> None:
    values = torch.arange(8.0).reshape(4, 2).requires_grad_()
    torch.save({"last": values, "id": ["007", "b", "c", "d"], "label": torch.tensor([1, 0, 1, 0])},
               folder / "x.pt")  # fmt: skip
    torch.save(values, folder / "old.pt", _use_new_zipfile_serialization=False)
    for name, layer in (("x", "last"), ("old", "old")):
        cache = import_files([folder / f"{name}.pt"], folder / "store", dataset=name, model="m")
        np.testing.assert_array_equal(
            cache.blocks([f"{layer}.imported"]).take([0, 1, 2, 3]), values.detach().numpy()
        )
    manifest = FeatureStore.open(folder / "store").manifest("x")
    assert (manifest.ids, manifest.labels) == (["007", "b", "c", "d"], ["1", "0", "1", "0"])


def test_a_table_is_taken_as_it_is_written(folder: Path) -> None:
    np.save(folder / "x.npy", np.ones((3, 2), np.float32))
    (folder / "odd.csv").write_text("id,label,split\n007,NA,training\n1e5,null,Test\nx,,\n")
    cache = import_files(
        [folder / "x.npy"], folder / "store", dataset="d", model="m", table=str(folder / "odd.csv")
    )
    assert cache.manifest.ids == ["007", "1e5", "x"]
    assert cache.manifest.labels == ["NA", "null", None]
    assert cache.manifest.splits == ["train", "test", None]


def test_what_is_given_and_not_used_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.ones((3, 2), np.float32)
    np.savez(folder / "x.npz", last=values, more=values, y=np.arange(3), id=np.array(["a", "b", "c"]))
    (folder / "t.csv").write_text("id,label,patient\nb,bee,p\na,ant,q\nz,owl,r\n")
    cache = import_files(
        [folder / "x.npz"], folder / "s", dataset="d", model="m", arrays=["last"], table=str(folder / "t.csv")
    )
    # The rows of the table stand in another order than the features: ids decide.
    assert cache.manifest.ids == ["a", "b", "c"]
    assert cache.manifest.labels == ["ant", "bee", None]
    said = "\n".join(record.getMessage() for record in caplog.records)
    for remark in (
        f"1 column of {folder / 't.csv'}, none of id, label, split (patient)",
        f"1 row of {folder / 't.csv'} with ids that no features have (z)",
        f"1 id of the features without a row in {folder / 't.csv'} (c)",
        "left out: 2 arrays neither features nor named by an option (",
    ):
        assert remark in said
    caplog.clear()
    import_files([folder / "x.npz"], folder / "s", dataset="d2", model="m", labels="y")
    assert FeatureStore.open(folder / "s").manifest("d2").ids == ["a", "b", "c"]
    assert not caplog.records


def test_tables_whose_ids_do_not_fit_are_refused(folder: Path) -> None:
    np.savez(folder / "x.npz", last=np.ones((2, 2)), id=np.array(["a", "b"]))
    for text, message in (
        ("id,label\na,x\na,y\n", "an id twice"),
        ("id,label\n1,x\n2,y\n", "none of the 2 ids"),
    ):
        (folder / "t.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            import_files(
                [folder / "x.npz"], folder / "s", dataset="d", model="m", table=str(folder / "t.csv")
            )


def test_columns_and_values_of_other_kinds_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {
        "last": [[1.0, 2.0], [3.0, 4.0]],
        "label": [7, None],
        "score": [0.5, 0.5],
        "when": [True, False],
    }
    pq.write_table(pa.table(content), folder / "t.parquet")
    cache = import_files([folder / "t.parquet"], folder / "s", dataset="d", model="m")
    assert cache.manifest.labels == ["7", None]
    assert "1 column of t.parquet, neither lists of numbers nor text (score)" in caplog.text
    torch.save({"last": torch.ones(2, 2), "epoch": 3}, folder / "t.pt")
    import_files([folder / "t.pt"], folder / "s", dataset="d2", model="m")
    assert "1 value of t.pt, no tensor and no list of names (epoch: int)" in caplog.text


def test_text_of_other_programs_is_one_class_and_one_id(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    table = tmp_path / "t.csv"
    table.write_bytes("\ufeffID;Label\ncafe\u0301;a \nb; a\nc;\n".encode())
    cache = import_files([tmp_path / "x.npy"], tmp_path / "s", dataset="d", model="m", table=str(table))
    assert cache.manifest.ids == ["café", "b", "c"]
    assert cache.manifest.labels == ["a", "a", None]
    table.write_text("id\ncafe\u0301\ncafé\nc\n")
    with pytest.raises(InputError, match="are both 'café' once their Unicode form is unified"):
        import_files([tmp_path / "x.npy"], tmp_path / "s", dataset="e", model="m", table=str(table))
