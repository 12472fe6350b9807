"""Records, heads and tables that somebody changed end as errors of toptune's own, in bounded time and memory.

Every value of the records of the stored fixtures is replaced by values of other kinds, and sealed again where
the record has a seal, so that the change reaches the parser. `tests/stored` has runs without checksums, whose
files are parsed as they are.
"""

import contextlib
import copy
import csv
import hashlib
import io
import json
import os
import random
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toptune.cli import toptune
from toptune.errors import CorruptError, InputError, ToptuneError, WeightsError
from toptune.extract import open_source
from toptune.extract.backbone.backbone import load_backbone
from toptune.extract.backbone.model_name import EMBEDDED_FOLDER
from toptune.store.arrays.ledger import recorded_units
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.outside_tables import read_outside_table
from toptune.store.datasets.outside_text import read_outside_text
from toptune.store.datasets.parquet_tables import read_parquet
from toptune.store.exchange.text_columns import read_column
from toptune.store.features.hints import (
    REQUEST_KIND,
    USE_FILE,
    USE_KIND,
    last_use,
    read_request,
    request_path,
)
from toptune.store.files.json_values import canonical_json, parse_json
from toptune.store.files.reading import check_zip
from toptune.store.files.sealed import SEAL, seal
from toptune.train import Run
from toptune.train.heads.heads import make_head
from toptune.train.heads.skops_files import read_estimator
from toptune.train.reports.options import CompareOptions
from toptune.train.rows.grids import grid_of
from toptune.train.rows.options import MOST_SEEDS, RowOptions
from toptune.workflows import Classifier, Prediction, evaluate, save_predictions, verify_run
from toptune.workflows.finetuning.run import FineTunedRun
from toptune.workflows.report.run_tables import read_layer_search, read_predictions
from toptune.workflows.study.cells import cells_of
from toptune.workflows.study.file import read_study
from toptune.workflows.study.results import result_of, write_results

STORED = Path(__file__).parent / "stored"
HOSTILE: tuple[object, ...] = (
    None, [], {}, "x", "", -1, 0, 0.5, 10**12, 10**400, 1e308, "1e999", True, [1], {"x": {}}, "y" * 5000,
    "\ud800", "a\0b", "../../x",
)  # fmt: skip
_GONE = object()


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of every value in JSON; of long lists, of the first values."""
    yield at
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value[:2] if isinstance(value, list) else ())
    )
    for key, each in inner:
        yield from places(each, (*at, key))


def changed(value: Any, at: tuple[Any, ...], new: object) -> Any:
    """Return JSON with another value at a path, or without it."""
    if not at:
        return None if new is _GONE else new
    value = copy.deepcopy(value)
    holder = value
    for key in at[:-1]:
        holder = holder[key]
    if new is _GONE:
        del holder[at[-1]]
    else:
        holder[at[-1]] = new
    return value


def sealed(value: Any) -> bytes:
    """Render JSON, with its seal made anew where it has one."""
    if isinstance(value, dict) and SEAL in value:
        content = {name: each for name, each in value.items() if name != SEAL}
        with contextlib.suppress(UnicodeEncodeError):
            digest = hashlib.sha256(canonical_json(content).encode()).hexdigest()
            text = json.dumps({**content, SEAL: digest}, sort_keys=True, indent=1, ensure_ascii=False)
            return (text + "\n").encode()
    return json.dumps(value).encode()


def mutants(file: Path, rng: random.Random, n: int) -> Iterator[bytes]:
    """Give `n` changed forms of a JSON file, and some that are no JSON of a record at all."""
    value = json.loads(file.read_bytes())
    every = [(at, new) for at in places(value) for new in (*HOSTILE, _GONE)]
    for at, new in rng.sample(every, min(n, len(every))):
        yield sealed(changed(value, at, new))
    yield from (b"[" * 50_000, b'{"format": 1, ' + file.read_bytes()[1:], b"\xff", b"")


def attempt(*arguments: str, is_raised: bool = False) -> None:
    """Run a command in this process: anything but an error of toptune's own, or of usage, fails the test."""
    errors = (ToptuneError, click.ClickException, SystemExit)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(*(() if is_raised else errors)),
    ):
        toptune.main(list(arguments), prog_name="toptune", standalone_mode=False)


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_records_of_stores(kind: str, tmp_path: Path) -> None:
    store, rng = tmp_path / kind, random.Random(7)
    shutil.copytree(STORED / kind, store)
    names = ("dataset.json", "cache.json", "recipe.json", "array.json", "toptune.json", "used.json")
    for name in names:
        file = min(store.rglob(name))
        whole = file.read_bytes()
        for data in mutants(file, rng, 8):
            file.write_bytes(data)
            for command in ("ls", "verify", "du"):
                attempt("store", command, "--store", str(store))
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["ncm", "sklearn"])
def test_records_of_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(STORED / "runs" / name, tmp_path / name)
    monkeypatch.chdir(STORED)
    rng = random.Random(8)
    for file in (tmp_path / name / each for each in ("run.json", "head.json", "metrics.json")):
        whole = file.read_bytes()
        for data in mutants(file, rng, 12):
            file.write_bytes(data)
            with contextlib.suppress(ToptuneError):
                Run.load(tmp_path / name)
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["ncm", "finetuned"])
def test_a_pipe_in_the_place_of_a_file_of_a_run(name: str, tmp_path: Path) -> None:
    """Nothing waits for the writer of a pipe, or reads a device that never ends."""
    load = Run.load if name == "ncm" else FineTunedRun.load
    tables = partial(read_predictions, n_test=1)
    for kind in ("pipe", "device"):
        for path in (STORED / "runs" / name).iterdir():
            shutil.copytree(STORED / "runs" / name, tmp_path / "run")
            other = tmp_path / "run" / path.name
            other.unlink()
            if kind == "pipe":
                os.mkfifo(other)
            else:
                other.symlink_to("/dev/zero")
            for read in (load, tables, read_layer_search, verify_run):
                with contextlib.suppress(ToptuneError):
                    read(tmp_path / "run")
            shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("head.json", ("head",), 1e308),
        ("head.json", ("classes",), 20000),
        ("head.json", ("report",), -1),
        ("head.json", ("classes",), ["disc", "disc", "square"]),
        ("run.json", ("recipe", "model_kwargs"), {"stem_width": "\ud800"}),
    ],
)
def test_a_field_of_another_kind_is_named(
    file: str, path: tuple[str, ...], value: object, tmp_path: Path
) -> None:
    shutil.copytree(STORED / "runs/ncm", tmp_path / "run")
    record = tmp_path / "run" / file
    record.write_bytes(sealed(changed(json.loads(record.read_bytes()), path, value)))
    with pytest.raises(CorruptError, match=file.replace(".", r"\.")):
        Run.load(tmp_path / "run")


def test_arrays_that_do_not_fit_each_other(tmp_path: Path) -> None:
    shutil.copytree(STORED / "runs/ridge", tmp_path / "run")
    file = tmp_path / "run/head.safetensors"
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header["coef"]["shape"] = [int(np.prod(header["coef"]["shape"]))]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    with pytest.raises(CorruptError, match="does not fit together"):
        Run.load(tmp_path / "run")


def test_hints_of_other_kinds(tmp_path: Path) -> None:
    """A hint that says nothing is no error."""
    (tmp_path / "requests").mkdir()
    (tmp_path / "ledger").mkdir()
    for value in (None, 3, "2026-01-01", "0001-01-01T00:00:00", [1], {"a": 1}):
        request_path(tmp_path, "k").write_bytes(seal(REQUEST_KIND, {"arrays": value}))
        (tmp_path / USE_FILE).write_bytes(seal(USE_KIND, {"when": value}))
        assert read_request(tmp_path, "k") == (["1"] if value == [1] else None)
        assert last_use(tmp_path).tzinfo is UTC


def test_a_cache_of_a_trillion_rows(tmp_path: Path) -> None:
    store = tmp_path / "zarr"
    shutil.copytree(STORED / "zarr", store)
    for file in [*store.rglob("dataset.json"), *store.rglob("cache.json"), *store.rglob("array.json")]:
        content = json.loads(file.read_bytes())
        kind = content.pop("format")
        values = {name: each for name, each in content.items() if name not in (SEAL, "version")}
        values.get("spec", values)["n_rows"] = 10**12
        file.write_bytes(seal(kind, values))
    for command in (["ls"], ["verify"], ["du"], ["show"], ["gc", "--dry-run", "--grace", "0s"]):
        attempt("store", *command, "--store", str(store))
    # The record of an array may say so, too; its packed ledger names all units.
    ledger = min(store.rglob("packed.jsonl")).parent
    assert 10**12 - 1 in recorded_units(ledger, 10**12)


def test_letters_that_are_none(tmp_path: Path) -> None:
    texts = np.array(["ab", "c"])
    texts.view(np.uint32)[1] = 0x7FFFFFFF
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=texts)
    np.save(tmp_path / "labels.npy", texts)
    for read in (open_source, read_column):
        with pytest.raises(InputError, match="holds letter 2147483647"):
            read(tmp_path / ("images.npz" if read is open_source else "labels.npy"))


def test_a_transform_of_one_color(tmp_path: Path) -> None:
    config = json.loads((EMBEDDED_FOLDER / "resnet10t.toptune_glyphs.json").read_bytes())
    config["pretrained_cfg"]["mean"] = [0.5]
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(EMBEDDED_FOLDER / "resnet10t.toptune_glyphs.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"mean \[0.5\]; it must be red's, green's and blue's"):
        load_backbone(f"local-dir:{tmp_path}")


def test_manifests_of_other_types() -> None:
    ids, numbers = ["a", "b"], [1, 2]
    good = {"id": ids, "label": ids, "split": ids, "bytes": numbers, "modified_ns": numbers}
    bad: list[tuple[str, Any]] = [
        ("id", [[1], [2]]), ("id", [None, "a"]), ("label", numbers), ("bytes", ids),
        ("modified_ns", [None, None]), ("split", [{"a": 1}, {"a": 2}]),
    ]  # fmt: skip
    for name, values in bad:
        buffer = io.BytesIO()
        pq.write_table(pa.table(good | {name: values}), buffer)
        with pytest.raises(CorruptError, match=name):
            Manifest.from_parquet(buffer.getvalue())


def test_small_tables_that_unpack_to_much() -> None:
    tables = {
        "a long text": pa.table({"label": ["x" * 1_000_000] * 1000}),
        "zeros": pa.table({"image": [bytes(50_000_000)] * 8}),
        "one number": pa.table({"n": np.zeros(60_000_000)}),
    }
    for table in tables.values():
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        with pytest.raises(ValueError, match="unpacks to"):
            read_parquet(buffer.getvalue())


def test_small_archives_that_unpack_to_much(tmp_path: Path) -> None:
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sparse.npz", inner.getvalue())
    for data in (inner, outer):
        with pytest.raises(ValueError, match="unpacks to"):
            check_zip(io.BytesIO(data.getvalue()), len(data.getvalue()))
    (tmp_path / "head.skops").write_bytes(inner.getvalue())
    with pytest.raises(CorruptError, match="unpacks to"):
        read_estimator(tmp_path / "head.skops", object)
    (tmp_path / "w.pth").write_bytes(inner.getvalue())
    with pytest.raises(WeightsError, match="unpacks to"):
        load_backbone("test_vit", weights=tmp_path / "w.pth")


def test_a_network_is_compared_before_it_is_built(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for value in (
        {"img_size": 20000},
        {"img_size": 2048},
        {"model_kwargs": {"stem_width": 99_999}},
        {"fold": 3},
    ):
        shutil.copytree(STORED / "runs/ncm", tmp_path / "run", dirs_exist_ok=True)
        file = tmp_path / "run/run.json"
        content = json.loads(file.read_bytes())
        content["backbone"] |= value
        file.write_text(json.dumps(content))
        with pytest.raises(ToptuneError, match=next(iter(value)).replace("model_kwargs", "stem_width")):
            Classifier.load(tmp_path / "run")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    with pytest.raises(InputError, match="needs about"):
        load_backbone("random:test_vit", model_kwargs={"embed_dim": 1 << 22, "num_heads": 1})


@pytest.mark.parametrize(
    "text",
    [
        "seeds: 10000000",
        f"seeds: {MOST_SEEDS + 1}",
        "x: " + "[" * 5000,
        "x: &a [*a]",
        "datasets: 2001-99-99",
        'x: "\\ud800"',
        'datasets: {"\\udc80": digits}',
        "\n".join(f"x{i}: &x{i} [{','.join([f'*x{i - 1}' if i else '1'] * 9)}]" for i in range(12)),
    ],
)
def test_studies_of_others(text: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    named = "" if "datasets" in text else "datasets: [photos]\n"
    file.write_text(f"{named}models: [test_vit]\nheads: [ncm]\n{text}\n")
    with pytest.raises(InputError):
        read_study(file)


def test_no_secret_goes_to_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    file = tmp_path / "study.yaml"
    file.write_text("datasets: [a]\nheads: [ncm]\nmodels: {m: 'hf-hub:org/$SECRET'}\n")
    with pytest.raises(InputError, match="paths only") as raised:
        read_study(file)
    assert "hunter2" not in str(raised.value)
    shutil.copytree(STORED / "runs/ncm", tmp_path / "run")
    record = tmp_path / "run/run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"store": "s3://theirs/bucket"}))
    with pytest.raises(InputError, match="--store s3://theirs/bucket"):
        evaluate(tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "text", "where"),
    [
        (("extract", "digits", "--store", "new", "--model"), "\nhunter2:x\n", "file, line 2: "),
        (("extract", "digits", "--store", "new", "--model"), "/etc/hunter2\n", "file, line 1: "),
        (("study",), "hunter2", "no mapping with any of the keys"),
        (("study",), "hunter2: 1\n1: 2\n1: 2\n", "no mapping with any of the keys"),
        (("study",), "heads: *hunter2", "line 1, column 8: found undefined alias a name"),
        (("study",), "heads: [a]\nb: hunter2: c", "line 2, column 11: mapping values are not allowed"),
        (("study",), "hunter2\x01", "no text that YAML can hold"),
    ],
)
def test_messages_do_not_show_what_is_in_a_file(
    arguments: tuple[str, ...], text: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text(text)
    with pytest.raises((ToptuneError, click.ClickException)) as raised:
        attempt(*arguments, "file" if arguments == ("study",) else "@file", is_raised=True)
    assert where in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_text_of_others_is_a_regular_file_of_a_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_study, partial(read_outside_text, what="list"), partial(read_outside_table, what="x")):
        with pytest.raises(InputError, match="no regular file"):
            read(tmp_path / "pipe")
    with (tmp_path / "study.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="1048576 at most"):
        read_study(tmp_path / "study.yaml")


def test_text_that_is_no_unicode_and_numbers_that_overflow() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        parse_json('{"a": "\\ud800"}')
    assert parse_json('{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}
    for value in (1e300, 1e-300, 5e-324):
        with pytest.raises(InputError, match="1e-100 to 1e\\+100"):
            grid_of(value, "sigma")


@pytest.mark.parametrize(
    ("head", "params", "message"),
    [
        ("forest", {"n_estimators": [10, 10**12]}, "n_estimators is 1000000000000, 1000000 at most"),
        ("forest", {"max_depth": -1}, "'max_depth' parameter"),
        ("forest", {"max_depth": 10**30}, "cannot be fitted to these rows"),
        ("sklearn:sklearn.neural_network.MLPClassifier", {"hidden_layer_sizes": [10**12]}, "at most"),
        ("sklearn:sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 10**12}, "at most"),
        ("sklearn:sklearn.neighbors.KNeighborsClassifier", {"n_neighbors": 30}, "cannot score"),
        ("svm", {"C": [1.0] * 10**4, "gamma": [1.0] * 10**4}, "100000000 combinations, 10000 at most"),
    ],
)
def test_params_without_end(head: str, params: dict[str, Any], message: str) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(InputError, match=message):
        make_head(head, params=params, cv=2).fit(rows, ["a", "b"] * 20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(RowOptions, seed=-1), "seed is -1; it must be at least 0"),
        (partial(RowOptions, seed=2**32), "at most 4294967295"),
        (partial(CompareOptions, seeds=10**12), "seeds is 1000000000000; .* at most 10000"),
    ],
)
def test_numbers_without_end(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_formulas_in_predictions(tmp_path: Path) -> None:
    rows = [Prediction("-a.png", "=1+1", 0.5, {"=1+1": 0.5, "b": 0.5}), Prediction("b.png", "b", 0.5)]
    exact = save_predictions(rows, tmp_path / "exact.csv", columns=["=1+1"]).read_text()
    assert exact == "path,label,confidence,=1+1\n-a.png,=1+1,0.5000,0.5000\nb.png,b,0.5000,\n"
    safe = save_predictions(rows, tmp_path / "safe.csv", columns=["=1+1"], spreadsheet_safe=True).read_text()
    assert safe == "path,label,confidence,'=1+1\n'-a.png,'=1+1,0.5000,0.5000\nb.png,b,0.5000,\n"


def test_formulas_in_other_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of layers are those in imported files."""
    monkeypatch.chdir(tmp_path)
    labels = np.array(["=1", "-b"] * 12)
    arrays: dict[str, Any] = {"=x": np.random.default_rng(0).normal(size=(24, 3)), "label": labels}
    np.savez("f.npz", **arrays)
    attempt("store", "import", "f.npz", "--store", "st", "--dataset", "+d", "--model", "m", is_raised=True)
    stored = ("--store", "st", "--dataset", "+d", "--cv", "2", "--spreadsheet-safe")
    attempt("compare", *stored, "--heads", "ncm", "--seeds", "1", "--out", "c", is_raised=True)
    attempt("layers-report", *stored, "--out", "l", is_raised=True)
    Path("s.yaml").write_text("datasets: ['=a']\nmodels: [m]\nheads: [ncm]\n")
    cell = replace(cells_of(read_study("s.yaml"))[0], folder=Path("c/runs/ncm-seed0").absolute())
    write_results([result_of(cell, tmp_path)], tmp_path / "out", spreadsheet_safe=True)
    for name in ("c/compare.csv", "l/layer_search.csv", "out/results.csv"):
        with Path(name).open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert [each for each in cells if each.startswith("'")], name
        assert [each for each in cells if each[:1] in tuple("=+@") or each[:2] in ("-b", "\t")] == [], name
