"""Data sets that grow, through the command line."""

import json
from collections.abc import Callable
from pathlib import Path

from shapes import MODEL, draw_shape

Run = Callable[..., tuple[int, str, str]]


def test_from_the_first_images_to_a_repeated_run(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    extract = ("extract", photos, "--model", MODEL, "--store", tmp_path / "s")
    train = (
        "train",
        "--store",
        tmp_path / "s",
        "--dataset",
        "photos",
        "--model",
        MODEL,
        "--cv",
        "2",
        "--json",
    )
    assert run_cli(*extract)[0] == 0
    first = json.loads(run_cli(*train, "--out", tmp_path / "one")[1])
    for seed in range(100, 104):
        draw_shape("disc", seed).save(photos / "disc" / f"{seed}.png")
    (photos / "cross" / "000.png").unlink()
    code, out, err = run_cli(*extract, "--json")
    assert (code, json.loads(out)["exit_code"]) == (2, 2)
    assert "4 added, 1 removed, 0 relabeled, 0 changed: give --update to make this version 2" in err
    code, out, _ = run_cli(*extract, "--update", "--json")
    summary = json.loads(out)
    assert code == 0
    assert (summary["version"], summary["rows"], summary["units_done"]) == (2, 39, 1)
    assert summary["difference"] == {
        "added": 4, "removed": 1, "relabelled": 0, "changed": 0, "shared": 35, "moved": 0,
    }  # fmt: skip
    assert run_cli(*extract, "--rehash")[1].startswith("39 images read and compared")
    second = json.loads(run_cli(*train, "--out", tmp_path / "two")[1])
    assert second["metrics"]["n_train"] + second["metrics"]["n_test"] == 39
    again = json.loads(run_cli(*train, "--out", tmp_path / "three", "--dataset-version", "1")[1])
    clocks = {"seconds": 0, "costs": 0}
    assert again["metrics"] | clocks == first["metrics"] | clocks
    for name, run in (("one", first), ("two", second)):
        measured = json.loads(run_cli("evaluate", tmp_path / name, "--json")[1])
        assert measured["accuracy"] == run["metrics"]["accuracy"]
    ls = json.loads(run_cli("store", "ls", "--store", tmp_path / "s", "--json")[1])["caches"]
    assert [(row["dataset"], row["version"], row["parts"], row["n_rows"]) for row in ls] == [
        ("photos", 2, 2, 39)
    ]
    shown = json.loads(run_cli("store", "show", "--store", tmp_path / "s", "--json")[1])["caches"]
    assert [part["part"] for part in shown[0]["parts_in_detail"]] == ["photos", "photos~2"]
    assert run_cli("store", "verify", "--deep", "--store", tmp_path / "s")[0] == 0
    refused = run_cli("store", "rm", "--store", tmp_path / "s", "--dataset", "photos~2", "--yes")
    assert (refused[0], "is a part of data set 'photos'" in refused[2]) == (2, True)
    copied = run_cli("store", "copy", tmp_path / "s", tmp_path / "t")
    assert copied[0] == 0, copied
    code, out, _ = run_cli("store", "rm", "--store", tmp_path / "s", "--dataset", "photos", "--yes", "--json")
    assert json.loads(out)["parts"] == ["photos~2"]
    elsewhere = json.loads(run_cli("evaluate", tmp_path / "two", "--store", tmp_path / "t", "--json")[1])
    assert elsewhere["accuracy"] == second["metrics"]["accuracy"]


def test_update_and_forget(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "s")
    extract = ("extract", photos, "--model", MODEL, *store)
    assert run_cli(*extract)[0] == 0
    train = ("train", *store, "--dataset", "photos", "--model", MODEL, "--cv", "2", "--out", tmp_path / "one")
    assert run_cli(*train)[0] == 0
    for seed in range(100, 104):
        draw_shape("disc", seed).save(photos / "disc" / f"{seed}.png")
    assert run_cli(*extract, "--update")[0] == 0
    ids = tmp_path / "ids.txt"
    ids.write_text("disc/000.png\ncross/001.png\n")
    update = ("train", *store, "--update", tmp_path / "one", "--json")
    code, out, _ = run_cli(
        *update, "--out", tmp_path / "two", "--forget", f"@{ids}", "--forget", "disc/002.png"
    )
    run = json.loads(out)
    assert code == 0
    assert run["metrics"]["n_train"] + run["metrics"]["n_test"] == 36 + 4 - 3
    assert (
        json.loads(run_cli("evaluate", tmp_path / "two", "--json")[1])["accuracy"]
        == run["metrics"]["accuracy"]
    )
    assert run_cli("predict", tmp_path / "two", photos / "disc" / "100.png")[0] == 0
    secret = tmp_path / "secret"
    secret.write_text(f"{ids.read_text().splitlines()[0]}\nhunter2\n")
    for wrong, message in (
        ((*update, "--out", tmp_path / "three", "--head", "ridge"), "--head has no meaning with --update"),
        (
            (*update, "--out", tmp_path / "three", "--forget", "@nowhere"),
            "list of ids nowhere cannot be read",
        ),
        ((*update, "--out", tmp_path / "three", "--forget", f"@{secret}"), "secret, line 2: what stands"),
        ((*train[:-1], tmp_path / "three", "--forget", "a"), "--forget needs --update"),
    ):
        code, _, err = run_cli(*wrong)
        assert (code, message in err, "hunter2" in err) == (2, True, False), err
    assert not (tmp_path / "three").exists()
