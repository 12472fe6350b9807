"""What is said is so: a refusal of the system is no damage, and what is missing is not whole."""

import errno
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from permissions import another_user
from small_store import write_all
from tiny import draw, encode

from toptune.cli import explain
from toptune.errors import InputError, StoreError
from toptune.extract.request.plan import ExtractSummary
from toptune.extract.sources.opening import open_source
from toptune.store import FeatureStore, copy_store, export_features, import_features, repair
from toptune.store.exchange.npz_arrays import load_npz
from toptune.store.files.system_errors import refusal
from toptune.store.files.writing import check_writable
from toptune.store.upkeep.verification import verify
from toptune.workflows import export
from toptune.workflows.study.checks import check_places
from toptune.workflows.study.file import read_study

FAILING = OSError(errno.EIO, "Input/output error")


def refuse(*_args: Any, **_options: Any) -> Any:
    raise FAILING


def test_a_number_tells_the_systems_refusals_from_bytes_that_are_broken() -> None:
    assert refusal(PermissionError(errno.EACCES, "Permission denied")) == (
        "Permission denied; ask the owner for read permission"
    )
    assert "check the disk" in str(refusal(FAILING))
    assert "the memory is full" in str(refusal(MemoryError()))
    # Readers of archives seek to places that a broken file names.
    for broken in (OSError("Couldn't deserialize thrift"), OSError(errno.EINVAL, "x"), ValueError("x")):
        assert refusal(broken) is None


def test_threads_that_do_not_start_are_no_fault_of_toptune() -> None:
    message, code = explain(RuntimeError("can't start new thread"))
    assert code == 1
    assert "fewer --workers" in message
    assert "fault" not in message.lower()


def test_a_failing_disk_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a/0.png", encode(draw(0)))
    np.savez(tmp_path / "pixels.npz", x_train=np.zeros((2, 8, 8, 3), np.uint8), y_train=[0, 1])
    np.savez(tmp_path / "features.npz", last=np.zeros((2, 3)))
    for name, module, library, read in (
        ("photos.zip", "extract.sources.archives.zip", "zipfile.ZipFile", open_source),
        ("pixels.npz", "extract.sources.arrays.npz", "_read", open_source),
        ("features.npz", "store.exchange.npz_arrays", "np.lib.format.read_array", load_npz),
    ):
        call: Callable[[Path], object] = read
        with monkeypatch.context() as patch:
            if library == "zipfile.ZipFile":
                opened = zipfile.ZipFile
                calls: list[int] = []

                def second(*args: Any, _calls: list[int] = calls, _open: Any = opened) -> Any:
                    _calls.append(0)
                    return _open(*args) if len(_calls) == 1 else refuse()

                patch.setattr(f"toptune.{module}.{library}", second)
            else:
                patch.setattr(f"toptune.{module}.{library}", refuse)
            with pytest.raises(InputError, match="cannot be read: Input/output error; check the disk"):
                call(tmp_path / name)


def test_a_copy_that_cannot_be_read_back_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FeatureStore(write_all(tmp_path / "store").root)
    monkeypatch.setattr(
        "toptune.store.exchange.copying.verify",
        lambda *a, **k: replace(verify(*a, **k), unreadable=(("x", "Input/output error"),)),
    )
    with pytest.raises(StoreError, match="the copy cannot be read back: x: Input/output error; nothing of"):
        copy_store(source, tmp_path / "copy")


def test_a_repair_names_what_is_missing(tmp_path: Path) -> None:
    cache = write_all(tmp_path / "store")
    name = cache.arrays()[0].name
    cache.entry_path(name, 0).unlink()
    cache.shard_path(name, 0).unlink()
    said = str(repair(cache.root))
    assert f"missing: {cache.name}/pets/{name}: units 0" in said
    assert "run the same extract again" in said


def test_nothing_to_do_tells_failed_images_and_the_units_of_a_share_only() -> None:
    summary = ExtractSummary(
        dataset="d", model="m", digest="x", cache="c", rows=5, units_total=2, units_done=0, units_already=2,
        failed={"a": "damaged"}, nothing_to_do=True,
    )  # fmt: skip
    assert str(summary) == (
        "nothing to do: 5 images stored in c\n1 image could not be used; failed rows are kept, as NaN"
    )
    assert "nothing to do: the 2 units of this share stored" in str(replace(summary, units_of_others=3))


def test_an_out_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = write_all(tmp_path / "store")
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "folder" / "out"
    said = "is not a folder that you may write to"
    with pytest.raises(InputError, match=said):
        export_features(cache, below.with_suffix(".parquet"))
    with pytest.raises(InputError, match=said):
        export(tmp_path / "no run", below.with_suffix(".pt2"))
    study = tmp_path / "study.yaml"
    study.write_text(
        f"store: s\nout: {below}\ndatasets: {{d: {{data: digits}}}}\n"
        "models: [random:test_vit]\nheads: [ncm]\n"
    )
    with pytest.raises(InputError, match=said):
        check_places(read_study(study))
    with pytest.raises(InputError, match="out: /usr/new/out cannot be made"), another_user():
        check_writable(Path("/usr/new/out"), option="out")
    monkeypatch.setattr("toptune.store.files.writing.os.access", lambda *_, **__: False)
    with pytest.raises(InputError, match=f"store: nothing can be made in .*store, which {said}"):
        import_features(FeatureStore(cache.root), {"last": np.eye(3)}, dataset="d", model="m")


def test_a_shard_that_the_system_refuses_is_told_per_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    image = pa.array([{"bytes": encode(draw(0)), "path": "0.png"}])
    pq.write_table(pa.table({"image": image, "label": [0]}), tmp_path / "train-0.parquet")
    source = open_source(tmp_path / "train-0.parquet")
    monkeypatch.setattr("toptune.extract.sources.tables.parquet.pq.ParquetFile", refuse)
    with pytest.raises(InputError, match="cannot be read: Input/output error"):
        open_source(tmp_path / "train-0.parquet")
    with pytest.raises(Exception, match=r"train-0\.parquet cannot be read: Input/output error"):
        source.read(0)
