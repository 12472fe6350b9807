"""RUN folders are whole or say so: checksums of every file, numbers that are finite, disks that fail."""

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from shapes import MODEL, save_shapes

from toptune.errors import CorruptError, NumericalError, StoreError
from toptune.extract import extract
from toptune.store.files.json_values import json_text
from toptune.train import Run, train
from toptune.train.runs import writing
from toptune.train.runs.writing import size_note
from toptune.workflows import Classifier, export, verify_run

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    extract(save_shapes(folder / "photos"), model=MODEL, store=folder / "store")
    stored: dict[str, Any] = {"dataset": "photos", "model": MODEL, "cv": 3}
    train(folder / "store", out=folder / "run", head="ridge", **stored)
    train(folder / "store", out=folder / "svm", head="svm", **stored)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def as_before_checksums(run: Path) -> Path:
    """Take away what earlier versions of toptune did not write."""
    content = json.loads((run / "run.json").read_text())
    del content["files"], content["self_sha256"]
    (run / "run.json").write_text(json.dumps(content))
    return run


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << place % 8
    path.write_bytes(data)


def test_one_bit_of_any_file_is_found_by_verify(run: Path) -> None:
    assert verify_run(run).exit_code == 0
    for path in sorted(run.iterdir()):
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 5)):
            flip(path, place)
            found = verify_run(run)
            assert list(found.faults) == [path.name], (path.name, place)
            path.write_bytes(whole)
    (run / "notes.txt").write_text("mine")
    found = verify_run(run)
    assert (found.exit_code, found.strange) == (0, ("notes.txt",))


def test_one_bit_of_what_a_prediction_reads_is_refused(run: Path) -> None:
    for name in ("run.json", "head.json", "head.safetensors", "preprocessing.safetensors", "rows.parquet"):
        whole = (run / name).read_bytes()
        flip(run / name, len(whole) - 9)
        with pytest.raises(CorruptError, match=rf"{name} .*copy the run again from where it was made"):
            Run.load(run)
        (run / name).write_bytes(whole)
    # What a prediction does not read does not stop it.
    flip(run / "confusion_matrix.png", 100)
    assert Run.load(run).classes


def test_files_of_two_runs_that_were_mixed_are_refused(made: Path, run: Path) -> None:
    other = made / "svm"
    shutil.copy(other / "rows.parquet", run / "rows.parquet")
    shutil.copy(other / "metrics.json", run / "metrics.json")
    with pytest.raises(CorruptError, match=r"metrics.json is not the file that was written"):
        Run.load(run)


def test_a_run_from_before_checksums_is_read_with_a_note(
    run: Path, run_cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    as_before_checksums(run)
    assert Run.load(run).classes
    assert "was made before runs had checksums" in caplog.text
    code, out, _ = run_cli("verify", run)
    assert code == 0
    assert "made before runs had checksums" in out


def test_the_command_names_the_file_and_exits_with_1(run: Path, run_cli: Cli) -> None:
    code, out, _ = run_cli("verify", run, "--json")
    assert (code, json.loads(out)["runs"][0]["faults"]) == (0, {})
    flip(run / "head.safetensors", 500)
    code, out, _ = run_cli("verify", run)
    assert code == 1
    assert f"damaged: {run / 'head.safetensors'} is not the file that was written" in out


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "tensor"), [("head", "coef"), ("head", "intercept")])
def test_weights_that_are_not_finite_are_refused(run: Path, name: str, tensor: str, value: float) -> None:
    path = as_before_checksums(run) / f"{name}.safetensors"
    tensors = load_file(path)
    tensors[tensor].flat[0] = value
    save_file(tensors, path)
    with pytest.raises(CorruptError, match=f"{tensor} holds a number that is not finite"):
        Run.load(run)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "hot", None])
def test_a_temperature_that_divides_nothing_is_refused(made: Path, tmp_path: Path, value: object) -> None:
    for name in ("run", "svm"):
        if name == "svm" and value is None:
            continue  # This means that a head was not calibrated.
        run = as_before_checksums(Path(shutil.copytree(made / name, tmp_path / name)))
        content = json.loads((run / "head.json").read_text())
        content["fitted"]["temperature"] = value
        (run / "head.json").write_text(json.dumps(content))
        with pytest.raises(CorruptError, match=r"head.json"):
            Run.load(run)


def test_probabilities_that_overflow_end_the_command(made: Path, run: Path, run_cli: Cli) -> None:
    path = as_before_checksums(run) / "head.safetensors"
    tensors = load_file(path)
    tensors["coef"][:] = 1e308
    save_file(tensors, path)
    image = sorted((made / "photos").rglob("*.png"))[0]
    with pytest.raises(NumericalError, match="gives probabilities that are not finite, for 1 of 1 images"):
        Classifier.load(run).predict(image)
    for form in (["--json"], ["--format", "jsonl"], []):
        code, out, _ = run_cli("predict", run, image, *form)
        assert code == 1
        assert "NaN" not in out


def test_json_holds_finite_numbers_only() -> None:
    assert json_text({"a": [1.5, "ü"]}) == '{"a": [1.5, "ü"]}'
    with pytest.raises(NumericalError, match="not finite cannot be written as JSON"):
        json_text({"a": [float("nan")]})


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file of this process grow above 100 kB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_an_export_that_finds_no_room_is_one_error(made: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="onnxscript, of the extra export, is not installed")
    with pytest.raises(StoreError, match="File too large; raise the limit on file sizes"):
        export(made / "run", tmp_path / f"file{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_large_beside_its_features_says_what_makes_it_smaller(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert size_note(run, feature_bytes=0) is None
    monkeypatch.setattr(writing, "LARGE_RUN_BYTES", 1)
    assert size_note(run, feature_bytes=1 << 40) is None
    (run / "sums.safetensors").write_bytes(bytes(300_000))
    said = size_note(run, feature_bytes=1000)
    assert said is not None
    assert "sums.safetensors alone takes" in said
    assert "--no-keep-sums" in said
    (run / "sums.safetensors").unlink()
    (run / "head.safetensors").write_bytes(bytes(200_000))
    assert "head.safetensors" in str(size_note(run, feature_bytes=1000))
