"""Data sets that grow: only new images pass through the model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny import draw, encode, feature_bytes
from warm_processes import WarmProcess

from toptune.extract import extract
from toptune.extract.request.plan import ExtractSummary
from toptune.store import (
    GONE,
    ConflictError,
    FeatureStore,
    FeatureView,
    InputError,
    Manifest,
    StoredFeatures,
    read_dataset_version,
    summarize,
    verify,
)

Make = Callable[..., Path]
Extract = Callable[..., ExtractSummary]


@pytest.fixture
def run(model_folder: Path, tmp_path: Path) -> Extract:
    """Extract with the tiny model."""

    def extracted(data: Path, **options: Any) -> ExtractSummary:
        defaults: dict[str, Any] = {
            "model": f"local-dir:{model_folder}", "store": tmp_path / "store", "batch_size": 4, "workers": 2,
            "precision": "fp32",
        }  # fmt: skip
        return extract(data, **(defaults | options))

    return extracted


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches that passed through the model, by the rows in them that were read."""
    from toptune.extract import drafting
    from toptune.extract.pipeline import forwarding, lane

    seen: list[int] = []
    plain = forwarding.forward_pixels

    def counted(backbone: Any, pixels: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(len(pixels))
        return plain(backbone, pixels, *arguments, **options)

    for module in (lane, drafting):
        monkeypatch.setattr(module, "forward_pixels", counted)
    return seen


def put(folder: Path, label: str, numbers: range, seed: int = 0) -> None:
    for i in numbers:
        file = folder / label / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(draw(1000 + seed + i)))


def opened(tmp_path: Path, model_folder: Path, dataset: str = "pets", **options: Any) -> StoredFeatures:
    return FeatureStore.open(tmp_path / "store").features(f"local-dir:{model_folder}", dataset, **options)


def values(features: StoredFeatures, name: str = "last.none") -> npt.NDArray[Any]:
    return features.blocks([name]).take(range(features.n_rows))


def same_as_afresh(run: Extract, folder: Path, tmp_path: Path, model_folder: Path) -> None:
    """The view's numbers are those of the same images extracted for the first time."""
    afresh = run(folder, store=tmp_path / "afresh")
    fresh = FeatureStore.open(tmp_path / "afresh").features(afresh.model, afresh.dataset)
    grown = opened(tmp_path, model_folder)
    assert grown.manifest.ids == fresh.manifest.ids
    assert grown.manifest.labels == fresh.manifest.labels
    assert np.allclose(values(grown), values(fresh), rtol=2e-3, atol=1e-4)
    assert np.array_equal(grown.content_digests()[0], fresh.content_digests()[0])


def test_only_what_is_new_is_extracted(
    make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path, forwarded: list[int]
) -> None:
    folder = make_folder(12)
    run(folder)
    (cache,) = FeatureStore.open(tmp_path / "store").caches()
    before = feature_bytes(cache)
    put(folder, "bird", range(5))
    put(folder, "cat", range(100, 102))
    (folder / "dog" / "001.png").unlink()
    shutil.move(folder / "dog" / "003.png", folder / "cat" / "003.png")  # another id, the same bytes
    (folder / "cat" / "000.png").write_bytes(encode(draw(77)) + b"longer")
    message = (
        r"12 images against 18. In all 8 added, 2 removed, 0 relabeled, 1 changed: give --update to make "
        "this version 2 of it, or another --dataset"
    )
    with pytest.raises(ConflictError, match=message):
        run(folder)
    forwarded.clear()
    summary = run(folder, update=True)
    # Eight new images in batches of four; the first passes are the sample, resized by torch and by Pillow.
    assert forwarded == [8, 8, 4, 4]
    assert (summary.version, summary.rows, summary.units_done) == (2, 18, 1)
    assert summary.difference is not None
    assert str(summary.difference) == "7 added, 1 removed, 0 relabeled, 1 changed, 1 moved"
    assert (summary.changed, summary.units_already) == (("cat/000.png",), cache.n_units)
    assert str(summary).startswith(
        "version 2 of pets: 7 added, 1 removed, 0 relabeled, 1 changed, 1 moved; 10 of the 12 before "
        "stay as they were"
    )
    assert json.loads(json.dumps(summary.to_dict()))["difference"]["added"] == 7
    assert feature_bytes(cache) == before
    same_as_afresh(run, folder, tmp_path, model_folder)
    store = FeatureStore.open(tmp_path / "store")
    report = verify(store, deep=True)
    assert (report.damaged, report.missing, report.leftovers) == ((), {}, ())
    (row,) = summarize(store)
    assert (row.dataset, row.version, row.parts, row.n_rows, row.is_complete) == ("pets", 2, 2, 18, True)
    assert run(folder).nothing_to_do
    again = run(folder, update=True)
    assert (again.nothing_to_do, again.version, again.difference) == (True, 2, None)


def test_labels_alone_need_neither_images_nor_torch(
    make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path
) -> None:
    folder = make_folder(8)
    listed = tmp_path / "pets.csv"

    def write(rows: list[int], label: str) -> None:
        lines = [f"pets/{('cat', 'dog')[i % 2]}/{i:03}.png,{label if i == 2 else i % 2}\n" for i in rows]
        listed.write_text("path,label\n" + "".join(lines))

    write(list(range(8)), "0")
    assert run(listed).dataset == "pets"
    write([7, 2, 3, 4, 5, 6], "odd")
    for file in folder.rglob("*.png"):
        file.chmod(0)
    script = f"""
import sys
from toptune.extract import extract
options = dict(model={f"local-dir:{model_folder}"!r}, store={str(tmp_path / "store")!r}, update=True,
    precision="fp32")
summary = extract({str(listed)!r}, **options)
assert summary.nothing_to_do and "torch" not in sys.modules and "timm" not in sys.modules
assert (summary.version, summary.rows) == (2, 6)
assert str(summary.difference) == "0 added, 2 removed, 1 relabeled, 0 changed", summary.difference
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    view = opened(tmp_path, model_folder)
    assert view.manifest.labels == ["1", "odd", "1", "0", "1", "0"]
    first = opened(tmp_path, model_folder, version=1)
    assert first.manifest.labels[2] == "0"
    assert np.array_equal(values(view), values(first)[[7, 2, 3, 4, 5, 6]])


def test_a_changed_image_of_equal_size(
    make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path, forwarded: list[int]
) -> None:
    folder = make_folder(6)
    run(folder)
    image = folder / "cat" / "002.png"
    other = encode(draw(55))
    padded = max(len(other), image.stat().st_size)
    image.write_bytes(image.read_bytes().ljust(padded, b"\0"))
    shutil.rmtree(tmp_path / "store")
    run(folder)
    old = values(opened(tmp_path, model_folder))[1]
    image.write_bytes(other.ljust(padded, b"\0"))
    os.utime(image, ns=(1, 1))
    with pytest.raises(ConflictError, match=r"1 image of .*cat/002\.png; give --update"):
        run(folder)
    forwarded.clear()
    summary = run(folder, update=True)
    assert (summary.version, summary.changed, forwarded) == (2, ("cat/002.png",), [1, 1, 1])
    assert not np.allclose(values(opened(tmp_path, model_folder))[1], old, rtol=1e-2)
    assert np.array_equal(values(opened(tmp_path, model_folder, version=1))[1], old)
    same_as_afresh(run, folder, tmp_path, model_folder)
    # A touched image that is what it was makes no version.
    os.utime(folder / "cat" / "000.png", ns=(1, 1))
    assert run(folder, update=True).version == 2


def test_rehash_reads_every_byte(make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path) -> None:
    folder = make_folder(6)
    run(folder)
    clean = run(folder, rehash=True)
    assert (clean.rehashed, clean.nothing_to_do) == (6, True)
    assert str(clean).startswith("6 images read and compared with what was extracted of them\nnothing to do")
    image = folder / "dog" / "003.png"
    time, data = image.stat().st_mtime_ns, bytearray(image.read_bytes())
    data[-20] ^= 1
    image.write_bytes(bytes(data))
    os.utime(image, ns=(time, time))
    assert run(folder).nothing_to_do  # size and time say that nothing happened
    with pytest.raises(ConflictError, match=r"1 image .*dog/003\.png; give --update"):
        run(folder, rehash=True)
    script = f"""
import sys
from toptune.extract import extract
from toptune.store import ConflictError
options = dict(model={f"local-dir:{model_folder}"!r}, store={str(tmp_path / "store")!r}, rehash=True)
try:
    extract({str(folder)!r}, **options)
except ConflictError:
    assert "torch" not in sys.modules
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    summary = run(folder, rehash=True, update=True)
    assert (summary.version, summary.changed, summary.rehashed) == (2, ("dog/003.png",), 6)
    assert run(folder, rehash=True).rehashed == 6
    assert run(folder, rehash=True, update=True).version == 2


def test_another_model_over_a_grown_data_set(
    make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path, forwarded: list[int]
) -> None:
    folder = make_folder(130)
    run(folder)
    gone = sorted(folder.rglob("*.png"))[:66]  # all of the first unit, and two of the second
    aside = {path: path.read_bytes() for path in gone}
    for path in gone:
        path.unlink()
    put(folder, "fish", range(3))
    run(folder, update=True)
    forwarded.clear()
    other = run(folder, img_size=48)
    assert (other.rows, other.failed, other.units_done) == (67, {}, 3)
    assert sum(forwarded) == 130 - 64 + 3 + 2 * (
        16 + 3
    )  # with the samples; the two gone ones among their mates
    store = FeatureStore.open(tmp_path / "store")
    view = store.features(other.model, "pets")
    assert isinstance(view, FeatureView)
    assert view.is_complete()
    assert np.isfinite(values(view)).all()
    first = store.features(other.model, "pets", version=1)
    assert list(first.failed_rows().values()) == [GONE, GONE]
    report = verify(store)
    assert (report.exit_code, report.missing) == (0, {})
    assert set(map(tuple, report.missing_before.values())) == {(0,)}
    assert run(folder, img_size=48).nothing_to_do
    with pytest.raises(InputError, match="lose the features of 66 images"):
        run(folder, overwrite=True)
    # They come back: what the first model knows stays, what no model can have is a new row.
    for path, data in aside.items():
        path.write_bytes(data)
    third = run(folder, update=True)
    assert third.version == 3
    assert len(read_dataset_version(store.root, "pets").rows_of("pets~3")) == 2
    assert run(folder, img_size=48).failed == {}
    assert np.isfinite(values(store.features(other.model, "pets"))).all()


def test_shards_of_an_update(make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path) -> None:
    folder = make_folder(70)
    run(folder)
    put(folder, "fish", range(70))
    put(folder, "cat", range(500, 503))
    for index in (2, 0, 1):
        summary = run(folder, update=True, shard=(index, 3))
        assert summary.version == 2
    assert run(folder).nothing_to_do
    same_as_afresh(run, folder, tmp_path, model_folder)


JOB = """
import sys
from toptune.extract import extract
summary = extract(sys.argv[1], model=sys.argv[2], store=sys.argv[3], batch_size=4, workers=1,
                  update=True, shard=(int(sys.argv[4]), 3))
assert summary.version == 2, summary.version
"""


def test_shards_at_once(make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path) -> None:
    folder = make_folder(20)
    run(folder)
    put(folder, "fish", range(70))
    words = (folder, f"local-dir:{model_folder}", tmp_path / "store")
    jobs = [WarmProcess(JOB, *words, i, folder=tmp_path) for i in range(3)]
    assert [job.wait(seconds=120) for job in jobs] == [0, 0, 0], [job.err.read_text() for job in jobs]
    assert run(folder).nothing_to_do
    same_as_afresh(run, folder, tmp_path, model_folder)
    assert not verify(FeatureStore.open(tmp_path / "store"), deep=True).damaged


def test_an_interrupted_update_goes_on(
    make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toptune.extract import preparing

    folder = make_folder(6)
    run(folder)
    put(folder, "fish", range(5))
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_open_cache", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(Exception, match="the same command resumes"):
            run(folder, update=True)
    (row,) = summarize(FeatureStore.open(tmp_path / "store"))
    assert (row.version, row.is_complete) == (2, False)
    assert run(folder, update=True).units_done == 1  # the version is there, its images are not
    same_as_afresh(run, folder, tmp_path, model_folder)


def test_dry_run_of_an_update_writes_nothing(make_folder: Make, run: Extract, tmp_path: Path) -> None:
    folder = make_folder(6)
    run(folder)
    put(folder, "fish", range(5))
    store = tmp_path / "store"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    summary = run(folder, update=True, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    assert summary.plan is not None
    assert (summary.plan.rows, summary.plan.rows_missing, summary.plan.parts) == (11, 5, 2)
    assert str(summary).startswith("would be version 2 of pets: 5 added")
    assert "in 2 parts" in str(summary)
    done = run(folder, update=True)
    assert done.bytes_written == summary.plan.bytes_written


def test_a_new_part_is_stored_like_the_others(make_folder: Make, run: Extract, tmp_path: Path) -> None:
    folder = make_folder(6)
    run(folder, dtype="float32", format="hdf5", batch_size=3)
    put(folder, "fish", range(2))
    run(folder, update=True, batch_size=None)
    caches = FeatureStore.open(tmp_path / "store").caches()
    assert {(cache.format, cache.batch_size, cache.array("last.none").dtype) for cache in caches} == {
        ("hdf5", 3, "float32")
    }


def test_one_broken_image_added(make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path) -> None:
    folder = make_folder(6)
    run(folder)
    (folder / "dog" / "999.png").write_text("no image")
    summary = run(folder, update=True)
    assert list(summary.failed) == ["dog/999.png"]
    assert list(run(folder).failed) == ["dog/999.png"]
    assert list(opened(tmp_path, model_folder).failed_rows()) == [6]
    put(folder, "dog", range(999, 1000))
    assert run(folder, update=True).failed == {}


def test_layers_added_to_all_parts(
    make_folder: Make, run: Extract, tmp_path: Path, model_folder: Path
) -> None:
    folder = make_folder(6)
    run(folder)
    put(folder, "fish", range(3))
    run(folder, update=True)
    seen: list[tuple[int, int, int]] = []
    run(folder, layers="0,", progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (9, 9, 0)
    assert sorted(seen) == seen
    assert values(opened(tmp_path, model_folder), "blocks.0.mean").shape[0] == 9


def test_update_of_what_is_not_there_and_names_of_parts(
    make_folder: Make, run: Extract, tmp_path: Path
) -> None:
    folder = make_folder(4)
    assert run(folder, update=True, rehash=True).version == 1
    put(folder, "fish", range(2))
    run(folder, update=True)
    for dataset, message in (("pets~2", "is a part of"), ("dogs~2", "looks like a part")):
        with pytest.raises(InputError, match=message):
            run(folder, dataset=dataset)


class Unchanging:
    """Images without times, as built-in data sets have them."""

    def __init__(self, n: int) -> None:
        self.name, self._data = "made", [encode(draw(i)) for i in range(n)]

    def manifest(self) -> Manifest:
        return Manifest.from_columns(
            ids=[f"{i}" for i in range(len(self._data))], sizes=[len(data) for data in self._data]
        )

    def read(self, row: int) -> bytes:
        return self._data[row]


def test_a_source_without_times(run: Extract) -> None:
    run(Unchanging(5))
    summary = run(Unchanging(7), update=True)
    assert (summary.version, summary.rows, summary.units_done) == (2, 7, 1)


def test_images_moved_to_another_class_are_not_extracted(
    make_folder: Make, run: Extract, forwarded: list[int], tmp_path: Path
) -> None:
    """What relabeling is in a folder of classes: another id, the same bytes."""
    folder = make_folder(12)
    run(folder)
    forwarded.clear()
    for name in ("000.png", "002.png"):
        shutil.move(folder / "cat" / name, folder / "dog" / name)
    twin = (folder / "dog" / "000.png").read_bytes()
    summary = run(folder, update=True)
    assert forwarded == []
    assert str(summary.difference) == "0 added, 0 removed, 0 relabeled, 0 changed, 2 moved"
    view = FeatureStore.open(tmp_path / "store").features("tiny.net", "pets")
    assert isinstance(view, FeatureView)
    assert (view.version.parts, view.n_rows) == (("pets",), 12)
    row = view.manifest.ids.index("dog/000.png")
    assert view.manifest.labels[row] == "dog"
    first = FeatureStore.open(tmp_path / "store").features("tiny.net", "pets", version=1)
    name = view.arrays()[0].name
    np.testing.assert_array_equal(view.blocks([name]).take([row]), first.blocks([name]).take([0]))
    assert verify(FeatureStore.open(tmp_path / "store"), deep=True).exit_code == 0
    assert run(folder).nothing_to_do
    # A copy of an image that is still there is an image of its own.
    (folder / "cat" / "copy.png").write_bytes(twin)
    assert str(run(folder, update=True).difference) == "1 added, 0 removed, 0 relabeled, 0 changed"
