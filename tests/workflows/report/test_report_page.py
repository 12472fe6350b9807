import base64
import io
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import change, make_run, write_layer_search
from PIL import Image
from self_contained import Elements, check_self_contained
from shapes import MODEL, save_shapes

from toptune.extract import extract
from toptune.store import CorruptError, InputError
from toptune.train import train
from toptune.workflows import write_report
from toptune.workflows.report import cost_figures, details

Cli = Callable[..., tuple[int, str, str]]
EVIL = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>'


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two data sets, two heads and fine-tuning, two seeds; some costs, and a layer search."""
    folder = tmp_path / "runs"
    for dataset in ("pets", "cells"):
        for seed in (0, 1):
            where = folder / dataset
            costs = {"energy_joules": 720.0, "extract_seconds": 5.0}
            make_run(where / f"ridge{seed}", dataset=dataset, seed=seed, wrong=3 + seed, costs=costs)
            make_run(where / f"svm{seed}", dataset=dataset, seed=seed, head="svm", wrong=6)
            make_run(where / f"tuned{seed}", dataset=dataset, seed=seed, kind="finetune", seconds=1234.0)
    write_layer_search(folder / "pets/ridge0")
    return folder


def test_page_says_what_was_measured(runs: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    summary = write_report(
        [runs], out=tmp_path / "page.html", title="Our study", progress=lambda *each: told.append(each)
    )
    page = (tmp_path / "page.html").read_text()
    assert (summary.runs, summary.settings, summary.datasets, summary.notes) == (12, 6, 2, ())
    assert summary.n_bytes == len(page.encode()) < 1_000_000
    assert told[11] == (12, 12)
    assert told[-1] == (6, 6)
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["page.html"]
    text = check_self_contained(page).text
    assert "url(#" in page
    for part in (
        "Our study", "12 runs, 6 settings, 2 data sets", "mean over 2 data sets · resnet10t.demo",
        "cells · resnet10t.demo", "Accuracy by layer", "617 x", "Most often confused", "Energy",
    ):  # fmt: skip
        assert part in text, part
    # ridge: 0.85 and 0.80; of two seeds no interval.
    assert "82.50 – 2" in text  # noqa: RUF001
    # Beside fine-tuning: 1234 / 2 and 1234 / 7 times; (0.85 - 0.9 + 0.80 - 0.9) / 2 and, of svm, 0.7 - 0.9.
    assert "4 617 176 617 617 -7.50" in text
    assert "4 617 – 617 617 -20.00" in text  # noqa: RUF001
    for label in ("Accuracy against seconds of training, pets · resnet10t.demo", "Speed-up over fine-tuning"):
        assert f'aria-label="{label}' in page
    assert "ridge: 82.50 %, 2 seconds of training" in page
    for command in (
        "extract DATA --model resnet10t.demo --store features --dataset pets --precision bf16",
        "train --store features --dataset pets --model resnet10t.demo --head ridge --seed 1 --out ridge1",
        "finetune DATA --model resnet10t.demo --seed 1 --out tuned1",
    ):
        assert f"toptune {command}" in text
    assert "Images are shown with --data pets=PATH" in text


def test_intervals_are_over_three_seeds(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / f"runs/{seed}", seed=seed, wrong=2 + seed)
    write_report([tmp_path / "runs"], out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    # 0.90, 0.85, 0.80: t of two degrees of freedom is 4.3027, times 0.05 / sqrt(3).
    assert "85.00 72.58 to 97.42 2" in check_self_contained(page).text
    assert "ridge: 85.00 % (72.58 to 97.42), 2 seconds of training" in page


def test_sizes_and_other_settings_do_not_share_a_name_or_a_mean(tmp_path: Path) -> None:
    for dataset, n_centers in (("pets", 50), ("cells", 1000)):
        make_run(tmp_path / f"runs/{dataset}/lda", dataset=dataset, head="lda", shots=5)
        make_run(tmp_path / f"runs/{dataset}/falkon", dataset=dataset, head="falkon", n_centers=n_centers)
        make_run(
            tmp_path / f"runs/{dataset}/ridge", dataset=dataset, train_size=30 if n_centers == 50 else 40
        )
    write_report([tmp_path / "runs"], out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    legend = re.findall(r'<b class="c\d">.</b> ([^<]+)</span>', page)
    assert legend == [
        "falkon, all images, n centers 1000", "falkon, all images, n centers 50", "lda, 5 a class",
        "ridge, 30 images", "ridge, 40 images",
    ]  # fmt: skip
    panels = re.findall(r"<figcaption>([^<]+resnet10t.demo)</figcaption>(.*?)</figure>", page, re.DOTALL)
    shown = {heading.split(" · ")[0]: re.findall(r"<title>([^:<]+):", panel) for heading, panel in panels}
    assert shown["mean over 2 data sets"] == ["lda, 5 a class"]
    assert sorted(shown["pets"]) == [
        "falkon, all images, n centers 50",
        "lda, 5 a class",
        "ridge, 30 images",
    ]


def test_energy_says_where_it_is_an_estimate(tmp_path: Path) -> None:
    model = {"source": "model", "estimate": True, "watts_per_core": 10.0}
    counted = {"source": "rapl", "estimate": False, "watts_per_core": None}
    emitted = {"co2e_kg": 0.0004, "co2e": {"country": "DEU"}}
    make_run(
        tmp_path / "runs/pets/ridge",
        costs={"energy_joules": 720.0, "energy": model, "extract_joules": 1080.0, **emitted},
    )
    tuned = {"energy_joules": 360_000.0, "energy": counted}
    make_run(tmp_path / "runs/pets/tuned", kind="finetune", seconds=1234.0, costs=tuned)
    make_run(tmp_path / "runs/cells/tuned", dataset="cells", kind="finetune", costs=tuned)
    write_report([tmp_path / "runs"], out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    text = check_self_contained(page).text
    # 720 J; of fine-tuning 360 kJ, by counters.
    assert "0.2 estimated 0.4 DEU" in text
    assert "0.2 watt-hours of training (estimated)" in page
    assert "100 watt-hours of training<" in page
    for label in (
        "Accuracy against watt-hours of training, partly estimated, pets",
        "Accuracy against watt-hours of training, cells",
    ):
        assert f'aria-label="{label}' in page
    for note in (
        "Estimated is what was not read",
        "extracting the features is counted too",
        "CO2e is the energy",
    ):
        assert note in text
    make_run(tmp_path / "measured/tuned", kind="finetune", costs=tuned)
    write_report([tmp_path / "measured"], out=tmp_path / "measured.html")
    text = check_self_contained((tmp_path / "measured.html").read_text()).text
    assert "Energy" in text
    for absent in ("stimated", "CO2e", "extracting the features is counted"):
        assert absent not in text


def test_mistakes_are_the_surest_and_each_once(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"run{seed}", seed=seed, wrong=14)
    write_report([tmp_path], out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    shown = re.findall(r"<small>(\w+/\d+\.png)</small>", page)
    # Confidence rises with the number of the image; the last wrong one is number 13.
    assert [int(re.findall(r"\d+", name)[0]) for name in shown] == list(range(13, 1, -1))
    assert "12 of 28 wrong predictions" in page


@pytest.mark.parametrize("place", ["class", "id", "title", "option", "warning", "dataset", "layer"])
def test_names_are_never_markup(tmp_path: Path, place: str) -> None:
    evil = EVIL + "$x_1$ & \x1b[1m"
    folder = make_run(
        tmp_path / "run",
        classes=(evil, "dog", "owl") if place == "class" else ("cat", "dog", "owl"),
        ids=[f"{at}{evil}" for at in range(20)] if place == "id" else None,
        dataset=evil if place == "dataset" else "pets",
        group_by=evil if place == "option" else None,
    )
    make_run(tmp_path / "tuned", kind="finetune", dataset=evil if place == "dataset" else "pets")
    if place == "warning":
        change(folder, "run.json", warnings=[evil], created={"when": evil}, versions={"torch": evil})
    if place == "layer":
        (folder / "layer_search.csv").write_text(f"path,arrays,accuracy\nalone,{EVIL.replace(',', '')},0.5\n")
    write_report([tmp_path], out=tmp_path / "page.html", title=evil if place == "title" else "report")
    page = (tmp_path / "page.html").read_text()
    elements = check_self_contained(page)
    if place == "option":  # as a word of a command, and so between quotes
        assert "<script>" in elements.text
    elif place != "layer":  # its end alone stands on the axis
        assert '<script>alert("x")</script>' in elements.text


def test_thumbnails_are_small_and_part_of_the_page(tmp_path: Path) -> None:
    photos = save_shapes(tmp_path / "photos", per_class=7)
    ids = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))[:20]
    make_run(tmp_path / "run", ids=ids, wrong=3)
    (photos / ids[1]).write_bytes(b"no image")
    (photos / ids[2]).unlink()
    write_report([tmp_path / "run"], out=tmp_path / "page.html", data={"pets": photos})
    page = (tmp_path / "page.html").read_text()
    elements = check_self_contained(page)
    (image,) = (attributes for tag, attributes in elements.found if tag == "img")
    assert image["alt"] == ids[0]
    encoded = (image["src"] or "").removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as thumbnail:
        assert thumbnail.size == (48, 48)
    assert "no longer among the images" in elements.text
    assert "not an image in a format that toptune reads" in elements.text
    assert "Images are shown with" not in elements.text


def test_images_of_other_data_are_refused(tmp_path: Path) -> None:
    photos = save_shapes(tmp_path / "photos", per_class=2)
    make_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"has no image 'cat/0.png', which a run on 'pets' tested"):
        write_report([tmp_path / "run"], out=tmp_path / "page.html", data={"pets": photos})
    with pytest.raises(InputError, match=r"no run is on data set 'dogs'; choose one of pets"):
        write_report([tmp_path / "run"], out=tmp_path / "page.html", data={"dogs": photos})
    assert not (tmp_path / "page.html").exists()


def test_runs_without_test_rows_are_listed_and_noted(tmp_path: Path) -> None:
    make_run(tmp_path / "a", n_test=0, wrong=0)
    summary = write_report([tmp_path], out=tmp_path / "page.html")
    text = Elements((tmp_path / "page.html").read_text()).text
    assert "1 run without test images" in summary.notes[0]
    assert "Every setting" in text
    assert "Accuracy and what it costs" not in text
    assert "Closer" not in text
    make_run(tmp_path / "b", seed=1, wrong=2)
    write_report([tmp_path], out=tmp_path / "page.html", overwrite=True)
    text = Elements((tmp_path / "page.html").read_text()).text
    assert "90.00 69.90 to 97.21*" in text


def test_old_runs_without_predictions_say_so(tmp_path: Path) -> None:
    (make_run(tmp_path / "run") / "predictions.parquet").unlink()
    write_report([tmp_path], out=tmp_path / "page.html")
    text = Elements((tmp_path / "page.html").read_text()).text
    assert "This run kept no predictions" in text
    assert "Reliability" not in text


def test_what_is_left_out_is_said(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "MAX_DETAILED", 3)
    monkeypatch.setattr(cost_figures, "MAX_PANELS", 1)
    make_run(tmp_path / "again/run", dataset="pets", head="svm", wrong=6, when="2026-11-22")
    summary = write_report([runs, tmp_path / "again"], out=tmp_path / "page.html")
    repeated, detailed, panels = summary.notes
    assert "1 run left out, for instance" in repeated
    assert "pets/svm0" in repeated
    assert detailed == "3 of 6 settings are looked at closely: the best of each data set first [TT506]"
    assert "2 more are left out" in panels
    closer = re.findall(r"<summary>(.*?) <span", (tmp_path / "page.html").read_text())[:3]
    assert [each.split(" · ")[0] for each in closer] == ["cells", "pets", "cells"]


@pytest.mark.parametrize("n_classes", [2, 25, 120, 1500])
def test_confusions_of_many_classes(tmp_path: Path, n_classes: int) -> None:
    classes = [f"a class with a long name, number {at}" for at in range(n_classes)]
    make_run(tmp_path / "run", classes=classes, n_test=3 * n_classes, wrong=5)
    summary = write_report([tmp_path], out=tmp_path / "page.html")
    assert summary.n_bytes < 400_000
    page = (tmp_path / "page.html").read_text()
    check_self_contained(page)
    # The three first classes have a mistake or two each; those of many classes are read from a file.
    assert page.count("a class with a long name, number 0") >= 1
    assert (tmp_path / "run" / "confusion.parquet").exists() == (n_classes > 200)


def test_output_is_never_lost(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/run")
    out = tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"page.html exists; give another file, or --overwrite"):
        write_report([tmp_path / "runs"], out=out)
    with pytest.raises(InputError, match=r"is a folder"):
        write_report([tmp_path / "runs"], out=tmp_path)
    with pytest.raises(InputError, match=r"absent is not a folder"):
        write_report([tmp_path / "runs"], out=tmp_path / "absent/page.html")
    (tmp_path / "runs/run/metrics.json").write_text("")
    with pytest.raises(CorruptError, match=r"metrics.json cannot be read"):
        write_report([tmp_path / "runs"], out=out, overwrite=True)
    assert out.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "runs"]


def test_its_commands_repeat_a_run(run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos = save_shapes(tmp_path / "photos", per_class=8)
    extract(photos, model=MODEL, store="store", layers="all")
    train(
        "store", dataset="photos", model=MODEL, out="made/run", layers="all", seed=3, penalty=[1e-4, 1e-2],
        sigma=20.0, cv=3, test_fraction=0.25, n_centers=9, params={"centers": "kmeans++"},
        preprocess="l2,standardise",
    )  # fmt: skip
    code, out, _ = run_cli("report", "made", "-o", "page.html", "--data", "photos=photos", "--json")
    assert code == 0
    assert json.loads(out)["runs"] == 1
    text = Elements(Path("page.html").read_text()).texts
    extraction, training = (
        line for each in text for line in each.splitlines() if re.match(r"toptune (extract|train) ", line)
    )
    assert run_cli(*shlex.split(extraction)[1:])[0] == 0
    assert run_cli(*shlex.split(training)[1:])[0] == 0
    first, second = (json.loads(Path(each, "metrics.json").read_text()) for each in ("made/run", "run"))
    assert first["log_loss"] == second["log_loss"]
    options = [json.loads(Path(each, "run.json").read_text())["options"] for each in ("made/run", "run")]
    assert options[0] | {"sigma": [20.0]} == options[1]


def test_command_line_says_what_is_wrong(run_cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    code, out, _ = run_cli("report", run, "-o", tmp_path / "page.html", "--title", "Cats")
    assert code == 0
    assert "1 run, 1 setting, 1 data set in" in out
    code, _, err = run_cli("report", run, "-o", tmp_path / "page.html")
    assert (code, "--overwrite" in err) == (2, True)
    code, _, err = run_cli("report", run, "-o", tmp_path / "new.html", "--data", "pets")
    assert (code, "'pets' is not DATASET=PATH" in err) == (2, True)
    change(run, "metrics.json", accuracy=7)
    code, _, err = run_cli("report", run, "-o", tmp_path / "new.html")
    assert code == 1
    assert f"run {run.resolve()} is damaged" in err
