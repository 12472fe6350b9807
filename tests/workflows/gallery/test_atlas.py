"""The table for embedding-atlas has the columns that the program reads, and the program takes it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shapes import save_shapes

from toptune.workflows.gallery import atlas
from toptune.workflows.gallery.atlas import Nearby, Predicted, opening_command, write_atlas
from toptune.workflows.gallery.coordinates import Coordinates
from toptune.workflows.gallery.findings_page import Album
from toptune.workflows.gallery.thumbnails import Thumbnails

_PROGRAM = shutil.which("embedding-atlas")


def written(folder: Path) -> Path:
    photos = save_shapes(folder / "photos", per_class=2)
    ids = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    (photos / ids[4]).write_bytes(b"no image")
    points = np.arange(12, dtype=np.float32).reshape(6, 2)
    points[4] = np.nan
    album = Album(
        ids=ids,
        labels=["a", "b", None, "a", "b", "a"],
        splits=["train"] * 5 + [None],
        coordinates=Coordinates(points=points, method="pca"),
        thumbnails=Thumbnails(photos),
    )
    # Image 4 has no features: positions count the other five.
    rows = np.array([[1, 2], [0, 2], [3, 4], [2, 4], [3, 2]])
    nearby = Nearby(of=np.array([0, 1, 2, 3, 5]), rows=rows, distances=np.linspace(0, 1, 10).reshape(5, 2))
    write_atlas(
        folder / "atlas.parquet",
        album,
        nearby=nearby,
        predicted=Predicted(
            classes=("a", "b"),
            codes=np.array([1, -1, -1, 0, -1, -1]),
            probabilities=np.array([0.75, 0, 0, 0.5, 0, 0], dtype=np.float32),
        ),
        findings={ids[0]: ["label", "outlier", "label"]},
    )
    return folder / "atlas.parquet"


def test_the_table_has_the_columns_that_the_program_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "_GROUP_ROWS", 4)
    path = written(tmp_path)
    assert pq.ParquetFile(path).num_row_groups == 2
    assert pq.read_schema(path).equals(atlas.SCHEMA)
    assert pa.types.is_binary(pq.read_schema(path).field("thumbnail").type.field("bytes").type)
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    assert [row["id"] for row in rows][:2] == ["cross/000.png", "cross/001.png"]
    assert (rows[0]["predicted"], rows[0]["probability"]) == ("b", 0.75)
    assert rows[0]["findings"] == "label, outlier"
    assert (rows[1]["predicted"], rows[1]["findings"], rows[2]["label"]) == (None, "none", None)
    assert (rows[3]["x"], rows[3]["y"], rows[4]["x"]) == (6.0, 7.0, None)
    # Neighbors are rows of the table, so that the image without features is never one.
    assert rows[2]["neighbors"]["ids"] == [3, 5]
    assert rows[5]["neighbors"]["ids"] == [3, 2]
    # The program stacks the lists, which need one length.
    assert rows[4]["neighbors"] == {"ids": [4, 4], "distances": [0.0, 0.0]}
    assert rows[5]["neighbors"]["distances"] == pytest.approx([8 / 9, 1])
    assert rows[0]["thumbnail"]["bytes"][:3] == b"\xff\xd8\xff"
    assert (rows[4]["thumbnail"], rows[0]["thumbnail"]["path"]) == (None, "cross/000.png")


def test_the_command_names_the_columns() -> None:
    told = opening_command("my look/atlas.parquet", has_images=True)
    assert told.startswith("uvx embedding-atlas 'my look/atlas.parquet' --x x --y y --neighbors neighbors")
    assert told.endswith("--text id --image thumbnail")
    assert "--image" not in opening_command("a.parquet", has_images=False)


@pytest.mark.skipif(_PROGRAM is None, reason="embedding-atlas is not installed")
def test_the_program_takes_the_table(tmp_path: Path) -> None:
    options = opening_command(str(written(tmp_path)), has_images=True).split()[2:]
    done = subprocess.run(
        [str(_PROGRAM), *options, "--export-application", str(tmp_path / "app")],
        capture_output=True, text=True, timeout=250, env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (metadata,) = (tmp_path / "app").rglob("metadata.json")
    told = json.dumps(json.loads(metadata.read_text()))
    assert all(name in told for name in ('"x"', '"y"', '"neighbors"', '"thumbnail"'))
