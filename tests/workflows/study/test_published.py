"""The study files of published benchmarks run as they are, on made images in the layout of the real ones."""

import csv
import io
import runpy
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from toptune.workflows.study.file import read_study
from toptune.workflows.study.study import plan_study, run_study

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "docs" / "studies" / "published"
TINY = {"model": "random:test_vit", "img_size": 32}
CLASSES, EACH = 3, {"train": 10, "test": 3}


def images() -> dict[str, list[tuple[int, bytes]]]:
    """Images of three colors with noise: their class and their bytes, by split."""
    rng = np.random.default_rng(0)
    made: dict[str, list[tuple[int, bytes]]] = {}
    for split, count in EACH.items():
        for label in [*range(CLASSES)] * count:
            pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., label] += 130
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            made.setdefault(split, []).append((label, buffer.getvalue()))
    return made


def save_vtab(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the folders that VTAB-1k is shared in, and make their manifests."""
    for name in read_study(PUBLISHED / "vtab1k.yaml").datasets:
        for split, some in images().items():
            (folder / name / "images" / split).mkdir(parents=True)
            for number, (_, data) in enumerate(some):
                (folder / name / "images" / split / f"{number:06}.png").write_bytes(data)
            lines = [f"images/{split}/{number:06}.png {label}\n" for number, (label, _) in enumerate(some)]
            file = {"train": "train800val200.txt", "test": "test.txt"}[split]
            (folder / name / file).write_text("".join(lines))
    monkeypatch.setattr("sys.argv", ["vtab_manifests.py", str(folder)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "vtab_manifests.py"), run_name="__main__")
    assert end.value.code == 0
    assert "svhn: 30 train, 9 test\n" in capsys.readouterr().out


def save_shards(folder: Path) -> None:
    """Save the folders of CLIP_benchmark's WebDataset repositories."""
    for where in read_study(PUBLISHED / "alf19.yaml").datasets.values():
        target = folder / Path(str(where["data"])).name
        for split, some in images().items():
            (target / split).mkdir(parents=True)
            with tarfile.open(target / split / "0.tar", "w") as shard:
                for number, (label, data) in enumerate(some):
                    for extension, content in (("png", data), ("cls", str(label).encode())):
                        member = tarfile.TarInfo(f"s{number:07}.{extension}")
                        member.size = len(content)
                        shard.addfile(member, io.BytesIO(content))
            (target / split / "nshards.txt").write_text("1")
        (target / "classnames.txt").write_text("a\nb\nc\n")


def save_classes(folder: Path) -> None:
    """Save the folders that ImageNet is kept in; what is called ``val`` are the test images."""
    for split, some in images().items():
        for number, (label, data) in enumerate(some):
            place = folder / {"train": "train", "test": "val"}[split] / f"n{label:08}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.png").write_bytes(data)


def shrink(path: Path, folder: Path, model: str) -> Path:
    """Write a study of the first set and a tiny network, all else as it is."""
    content = yaml.safe_load(path.read_text())
    content["datasets"] = dict([*content["datasets"].items()][:1])
    content["models"] = {model: TINY}
    content |= {"seeds": 1, "store": "features", "runs": "runs", "out": "out"}
    small = folder / path.name
    small.write_text(yaml.safe_dump(content))
    return small


@pytest.mark.parametrize(
    ("name", "variable", "n_sets"),
    [("vtab1k", "VTAB", 19), ("alf19", "CLIP_BENCHMARK", 19), ("efficient-probing", "IMAGENET", 1)],
)
def test_a_published_benchmark_runs_on_data_in_its_layout(
    name: str,
    variable: str,
    n_sets: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "data"))
    path = PUBLISHED / f"{name}.yaml"
    save: dict[str, Callable[[Path], None]] = {
        "vtab1k": lambda folder: save_vtab(folder, capsys, monkeypatch),
        "alf19": save_shards,
        "efficient-probing": save_classes,
    }
    save[name](tmp_path / "data")
    study = read_study(path)
    assert len(study.datasets) == n_sets
    plan = plan_study(path)
    assert plan.cells >= n_sets * len(study.heads)
    small = shrink(path, tmp_path, next(iter(study.models)))
    report = run_study(small)
    assert report.failed == {}
    rows = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert len(rows) == report.trained == len(study.heads)
    assert {(row["n_train"], row["n_test"]) for row in rows} == {(30, 9)}
    assert {row["method"] for row in rows} == {*study.heads}


def test_published_figures_stand_beside_every_set_and_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP_BENCHMARK", "shards")
    study = read_study(PUBLISHED / "alf19.yaml")
    single = [name for name, options in study.models.items() if "models" not in options]
    with (PUBLISHED / "alf19-published.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert {(row["dataset"], row["model"]) for row in rows} == {
        (dataset, model) for dataset in study.datasets for model in single
    }
    # The mean over the sets of what the paper's CSVs call their mean gain, for one of the networks.
    mine = [row for row in rows if row["model"] == "dinov2_b"]
    gains = [float(row["all_blocks_attentive"]) - float(row["class_token_linear"]) for row in mine]
    assert np.mean(gains) == pytest.approx(5.23, abs=0.005)
