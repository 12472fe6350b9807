"""Bad input: one clear message, a non-zero exit code, nothing half-written left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import MODEL, draw_shape, save_shapes

Run = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], *words: str, code: int = 2) -> None:
    """The command failed with one message that holds the words, and no traceback."""
    got, _, err = result
    assert got == code, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, f"{word!r} is not in {err!r}"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def stored(run_cli: Run, photos: Path, store: Path) -> Path:
    assert run_cli("extract", photos, "--model", MODEL, "--store", store)[0] == 0
    return store


def train(run_cli: Run, store: Path, out: Path, *more: object, cv: int = 3) -> tuple[int, str, str]:
    return run_cli(
        "train", "--store", store, "--dataset", "photos", "--model", MODEL, "--out", out, "--cv", cv, *more
    )


def test_empty_folder(run_cli: Run, tmp_path: Path, store: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(run_cli("extract", tmp_path / "empty", "--model", MODEL, "--store", store), "empty")
    assert not store.exists()


def test_no_such_data(run_cli: Run, tmp_path: Path, store: Path) -> None:
    refused(run_cli("extract", tmp_path / "nothing", "--model", MODEL, "--store", store), "nothing", "digits")
    assert not store.exists()


def test_one_class_only(run_cli: Run, photos: Path, store: Path, tmp_path: Path) -> None:
    for shape in ("square", "cross"):
        shutil.rmtree(photos / shape)
    assert run_cli("extract", photos, "--model", MODEL, "--store", store)[0] == 0
    refused(train(run_cli, store, tmp_path / "run"), "disc", "class")
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_recorded_and_named(
    run_cli: Run, photos: Path, store: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    data = whole.read_bytes()
    (photos / "disc" / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (photos / "disc" / "corrupt.jpg").write_bytes(b"\xff\xd8\xff" + bytes(200))
    (photos / "disc" / "text.jpg").write_text("not an image")
    (photos / "disc" / "empty.png").write_bytes(b"")
    command = ("extract", photos, "--model", MODEL, "--store", store)
    code, out, err = run_cli(*command, "--json")
    failed = json.loads(out)["failed"]
    assert code == 4
    assert json.loads(out)["too_many_failed"] is True
    assert {Path(name).name for name in failed} == {"truncated.jpg", "corrupt.jpg", "text.jpg", "empty.png"}
    assert all(failed.values())
    assert "text.jpg" in err
    assert run_cli(*command, "--max-failures", "4")[0] == 0
    assert run_cli("store", "verify", "--deep", "--store", store)[0] == 0
    refused(train(run_cli, store, tmp_path / "run"), "text.jpg", "--skip-failed")
    code, text, _ = train(run_cli, store, tmp_path / "run", "--skip-failed")
    assert code == 0
    assert "s; failed images left out: 4\n" in text


def test_every_kind_of_good_image_is_taken(run_cli: Run, tmp_path: Path, store: Path) -> None:
    folder = tmp_path / "kinds" / "ünï côdé  名前"
    folder.mkdir(parents=True)
    image = draw_shape("disc", 0)
    gray = np.asarray(image.convert("L"))
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("L").save(folder / "gray.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("1").save(folder / "one bit.png")
    image.convert("RGBA").save(folder / "ålpha.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.new("RGB", (1, 1), "red").save(folder / "one pixel.png")
    exif = Image.Exif()
    exif[274] = 6
    image.save(folder / "rotated.jpg", exif=exif)
    code, out, err = run_cli(
        "extract", folder.parent, "--model", MODEL, "--store", store, "--device", "cpu", "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["rows"] == 8
    assert run_cli("store", "verify", "--deep", "--store", store)[0] == 0


def test_huge_images_are_refused_by_their_header(run_cli: Run, photos: Path, store: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(photos / "disc" / "huge.png")
    code, out, _ = run_cli("extract", photos, "--model", MODEL, "--store", store, "--json")
    assert code == 4
    (reason,) = json.loads(out)["failed"].values()
    assert "200" in reason


def test_unknown_model_layer_and_weights(run_cli: Run, photos: Path, store: Path, tmp_path: Path) -> None:
    common = ("extract", photos, "--store", store)
    refused(run_cli(*common, "--model", "resnet5o"), "resnet5o", "resnet50")
    refused(run_cli(*common, "--model", f"local-dir:{tmp_path / 'none'}"), "none")
    # A file system takes no name of that length.
    for name, why in (("{}", "knows no model"), ("local-dir:{}", "does not exist"), ("{}/a", "not exist")):
        refused(run_cli(*common, "--model", name.format("x" * 300)), why)
    refused(run_cli(*common, "--model", MODEL, "--layers", "layer9"), "layer9", "toptune layers")
    refused(run_cli(*common, "--model", MODEL, "--pooling", "cls"), "cls")
    torch.save({"conv1.weight": torch.zeros(3), "extra": torch.zeros(1)}, tmp_path / "wrong.pth")
    wrong = run_cli(*common, "--model", MODEL, "--weights", tmp_path / "wrong.pth")
    refused(wrong, "missing", "unexpected", "extra")
    (tmp_path / "torn.safetensors").write_bytes(b"not safetensors")
    refused(
        run_cli(*common, "--model", MODEL, "--weights", tmp_path / "torn.safetensors"), "torn.safetensors"
    )
    refused(run_cli(*common, "--model", MODEL, "--weights", tmp_path / "none.pth"), "none.pth")
    refused(run_cli(*common, "--model", MODEL, "--device", "cuda:99"), "cuda:99")
    assert not store.exists() or not list((store).glob("features/*"))


class Payload:
    """Pickled as a call that writes a file: what a hostile checkpoint does."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self.target, "w")


def test_a_checkpoint_never_runs_code(run_cli: Run, photos: Path, store: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": Payload(str(tmp_path / "pwned"))}, tmp_path / "bad.pth")
    common = ("extract", photos, "--store", store, "--model", MODEL)
    refused(run_cli(*common, "--weights", tmp_path / "bad.pth"), "bad.pth")
    assert not (tmp_path / "pwned").exists()


def test_store_of_another_format_version(run_cli: Run, photos: Path, stored: Path) -> None:
    (stored / "toptune.json").write_text('{"format":"toptune-store","version":99}')
    refused(run_cli("extract", photos, "--model", MODEL, "--store", stored), "99")
    refused(run_cli("store", "ls", "--store", stored), "99")


def test_store_that_is_no_store(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    refused(run_cli("extract", photos, "--model", MODEL, "--store", photos), "photos", code=2)
    refused(run_cli("store", "ls", "--store", photos), "photos")
    assert sorted(tmp_path.rglob("*")) == before


def test_store_that_cannot_be_written(
    run_cli: Run, photos: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def deny(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "link", deny)
    before = sorted(stored.rglob("*"))
    code, _, err = run_cli("extract", photos, "--model", MODEL, "--store", stored, "--layers", "all")
    assert code == 1
    assert "Permission denied" in err
    assert "Traceback" not in err
    assert [path for path in sorted(stored.rglob("*")) if path.is_file()] == [
        path for path in before if path.is_file()
    ]


def test_name_taken_by_other_images(run_cli: Run, stored: Path, tmp_path: Path) -> None:
    other = save_shapes(tmp_path / "elsewhere" / "photos", per_class=5)
    refused(run_cli("extract", other, "--model", MODEL, "--store", stored), "photos", "--dataset")


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", "..", ".hidden", "nul\nline", "x" * 300])
def test_names_cannot_climb_out(run_cli: Run, photos: Path, store: Path, name: str) -> None:
    refused(run_cli("extract", photos, "--model", MODEL, "--store", store, "--dataset", name))
    assert not store.exists()
    np.save(photos / "last.npy", np.eye(3))
    for dataset, model in ((name, "m"), ("photos", name)):
        command = ("store", "import", photos / "last.npy", "--store", store)
        refused(run_cli(*command, "--dataset", dataset, "--model", model))
        assert not store.exists()


def test_nothing_is_copied_for_names_that_are_not_there(run_cli: Run, stored: Path, tmp_path: Path) -> None:
    for names in (("--dataset", "x" * 300), ("--dataset", "none"), ("--dataset", "photos", "--model", "x")):
        refused(run_cli("store", "copy", stored, tmp_path / "copy", *names))
        assert not (tmp_path / "copy").exists()


def test_train_refuses(run_cli: Run, stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(train(run_cli, stored, tmp_path), "exists")
    refused(train(run_cli, stored, out, "--layers", "layer9"), "layer9", "last")
    refused(train(run_cli, stored, out, "--head", "perceptron"), "perceptron", "falkon")
    refused(train(run_cli, stored, out, "--kernel", "tophat"), "tophat", "gaussian")
    refused(train(run_cli, stored, out, "--penalty", "-1"), "-1")
    refused(train(run_cli, stored, out, "--test-fraction", "1.5"), "1.5")
    refused(train(run_cli, stored, out, "--params", '{"deph": 3}', "--head", "forest"), "deph")
    refused(train(run_cli, stored, out, "--params", '{"n_centers": 1.5}'), "1.5")
    refused(train(run_cli, stored, out, "--params", '{"C": -1}', "--head", "svm"), "-1")
    refused(train(run_cli, stored, out, "--group-by", "^([a-z]+)/"), "group")
    refused(
        run_cli("train", "--store", stored, "--dataset", "none", "--model", MODEL, "--out", out), "photos"
    )
    refused(
        run_cli("train", "--store", stored, "--dataset", "photos", "--model", "x", "--out", out), "resnet10t"
    )
    assert not out.exists()
    assert not list(tmp_path.glob("*run*"))


def test_a_class_with_one_image_is_trained_on_and_told(
    run_cli: Run, photos: Path, store: Path, tmp_path: Path
) -> None:
    for image in sorted((photos / "cross").iterdir())[1:]:
        image.unlink()
    assert run_cli("extract", photos, "--model", MODEL, "--store", store)[0] == 0
    code, out, _ = train(run_cli, store, tmp_path / "run", cv=5)
    assert code == 0
    assert "1 training rows of 1 of" in out
    assert "('cross'), because each such class lies in one fold" in out


def test_labels_missing(run_cli: Run, tmp_path: Path, store: Path) -> None:
    flat = tmp_path / "photos"
    flat.mkdir()
    for seed in range(6):
        draw_shape("disc", seed).save(flat / f"{seed}.png")
    assert run_cli("extract", flat, "--model", MODEL, "--store", store)[0] == 0
    refused(train(run_cli, store, tmp_path / "run"), "label")


def test_predict_refuses_what_is_no_run(run_cli: Run, photos: Path) -> None:
    refused(run_cli("predict", photos, photos), "run.json")
