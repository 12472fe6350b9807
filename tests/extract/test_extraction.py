import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import draw, encode, feature_bytes

from toptune.extract import extract, load_backbone, open_source
from toptune.store import (
    ConflictError,
    FeatureCache,
    FeatureStore,
    InputError,
    InterruptedRunError,
    NumericalError,
    StoreError,
    verify,
)

Make = Callable[..., Path]
Stored = Callable[..., FeatureCache]


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.exists() else []


def test_stored_rows_are_the_features_of_the_images(
    make_folder: Make, model_folder: Path, tmp_path: Path
) -> None:
    folder, name = make_folder(11), f"local-dir:{model_folder}"
    seen: list[tuple[int, int, int]] = []
    summary = extract(
        folder, model=name, store=tmp_path / "s", layers="all", pooling="mean,max", batch_size=4,
        precision="fp32", decode="exact", progress=lambda *numbers: seen.append(numbers),
    )  # fmt: skip
    assert (summary.rows, summary.failed, summary.nothing_to_do) == (11, {}, False)
    assert seen[-1] == (11, 11, 0)
    assert summary.bytes_written == 11 * sum(array.bytes_per_image for array in summary.arrays)
    assert json.loads(json.dumps(summary.to_dict()))["images_per_second"] > 0
    assert "11 images" in str(summary)
    n_classes = len({path.parent for path in folder.rglob("*.png")})
    contents = summary.to_dict()["contents"]
    assert (contents["n_classes"], contents["splits"], contents["n_unlabelled"]) == (n_classes, {"": 11}, 0)
    sizes = ", ".join(f"{name} {count}" for name, count in contents["largest"].items())
    assert f"{summary.dataset}: {n_classes} classes ({sizes})" in str(summary).splitlines()
    cache = FeatureStore.open(tmp_path / "s").cache(name, "pets")
    model = timm.create_model(name, pretrained=True, num_classes=0).eval()
    backbone = load_backbone(name, fold=True)
    source = open_source(folder)
    assert cache.manifest.ids == source.manifest().ids
    batch = torch.stack([backbone.transform(Image.open(folder / name)) for name in cache.manifest.ids])
    with torch.inference_mode():
        last, blocks = model(batch), model.forward_intermediates(batch, intermediates_only=True)
    assert [array.name for array in cache.arrays()] == sorted(array.name for array in summary.arrays)
    found = cache.blocks(["last.none", "blocks.2.mean", "blocks.2.max"]).take(range(11))
    expected = torch.cat([last, blocks[2].mean((2, 3)), blocks[2].amax((2, 3))], 1).numpy()
    assert np.allclose(found, expected, rtol=2e-3, atol=1e-4)
    assert dict(cache.backbone) == json.loads(json.dumps(backbone.spec))
    assert not verify(cache, deep=True).damaged


def test_nothing_to_do_needs_no_torch(
    make_folder: Make, stored: Stored, tmp_path: Path, model_folder: Path
) -> None:
    folder = make_folder(6)
    before = feature_bytes(stored(folder))
    script = f"""
import sys
from toptune.extract import extract
options = dict(model={f"local-dir:{model_folder}"!r}, store={str(tmp_path / "store")!r}, layers="last")
summary = extract({str(folder)!r}, **options)
assert summary.nothing_to_do and "torch" not in sys.modules and "timm" not in sys.modules
assert summary.rows == 6 and summary.units_done == 0 and str(summary).startswith("nothing to do")
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = feature_bytes(stored(folder, layers="all"))
    assert {name: after[name] for name in before} == before


def test_a_touched_image_is_read_again_and_a_changed_one_refused(make_folder: Make, stored: Stored) -> None:
    folder = make_folder(6)
    stored(folder)
    image = folder / "cat" / "002.png"
    os.utime(image, ns=(1, 1))
    assert extract_again(stored, folder) is True
    data = bytearray(image.read_bytes())
    data[-20] ^= 1
    image.write_bytes(data)
    for options in ({}, {"layers": "all"}, {"img_size": 48}):  # the last one makes another cache
        with pytest.raises(ConflictError, match=r"1 image .*cat/002\.png"):
            stored(folder, **options)
    image.write_bytes(encode(draw(99)) + b"more")
    with pytest.raises(ConflictError, match="--dataset"):
        stored(folder)


def extract_again(stored: Stored, folder: Path) -> bool:
    cache = stored(folder)
    spec = dict(cache.backbone)
    return extract(folder, model=spec["name"], store=cache.root).nothing_to_do


def test_new_features_hold_the_upper_layers(make_folder: Make, model_folder: Path, tmp_path: Path) -> None:
    name = f"local-dir:{model_folder}"
    summary = extract(make_folder(4), model=name, store=tmp_path / "store", batch_size=4)
    upper = [array.name for array in load_backbone(name).resolve("upper")]
    assert [array.name for array in summary.arrays] == upper
    assert len(upper) > 3


def test_features_stay_with_the_layers_that_they_were_begun_with(
    make_folder: Make, stored: Stored, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(4)
    options: dict[str, Any] = {"model": f"local-dir:{model_folder}"}
    cache = stored(folder, layers="blocks.0,last")
    before = feature_bytes(cache)
    again = extract(folder, store=cache.root, **options)
    assert again.nothing_to_do
    assert "layers: 'blocks.0.mean', 'last.none'" in str(again)
    said = "were begun with 'blocks.0.mean', 'last.none', and stay so; --layers upper"
    assert said in caplog.text
    # The next version has the same layers in all of its parts.
    make_folder(6)
    grown = extract(folder, store=cache.root, update=True, **options)
    assert [array.name for array in grown.arrays] == ["blocks.0.mean", "last.none"]
    assert grown.plan is not None
    assert grown.plan.rows_missing == 2
    assert feature_bytes(cache) == before
    added = extract(folder, store=cache.root, layers="upper", **options)
    assert {array.name for array in added.arrays} >= {"blocks.4.mean", "last.none"}
    assert extract(folder, store=cache.root, **options).nothing_to_do


def test_arrays_without_any_unit_are_no_layers_that_features_were_begun_with(
    make_folder: Make, model_folder: Path, tmp_path: Path
) -> None:
    # Another job that is about to begin has made some of its arrays, and perhaps not yet all.
    folder = make_folder(4)
    options: dict[str, Any] = {"model": f"local-dir:{model_folder}", "store": tmp_path / "store"}
    with pytest.raises(InterruptedRunError):
        extract(folder, layers="last", stop=lambda: 0.0, **options)
    assert len(extract(folder, **options).arrays) > 3


def test_another_checkpoint_in_the_same_place_is_noticed(
    make_folder: Make, stored: Stored, model_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(model_folder, tmp_path / "m" / "tiny.net")
    model = f"local-dir:{tmp_path / 'm' / 'tiny.net'}"
    folder = make_folder(4)
    first = stored(folder, model=model)
    weights = tmp_path / "m" / "tiny.net" / "model.safetensors"
    state = dict(load_file(weights))
    state["conv_stem.weight"] = state["conv_stem.weight"] * 1.5
    save_file(state, weights)
    assert stored(folder, model=model).digest != first.digest
    with pytest.raises(ConflictError, match=r"recipe|weights"):
        FeatureStore.open(first.root).cache("tiny.net", "pets")


def test_dry_run_writes_nothing(
    make_folder: Make, model_folder: Path, tmp_path: Path, stored: Stored
) -> None:
    folder, name, root = make_folder(10), f"local-dir:{model_folder}", tmp_path / "store"
    plan = extract(folder, model=name, store=root, layers="all", dry_run=True).plan
    assert plan is not None
    assert not root.exists()
    assert (plan.rows, plan.rows_missing) == (10, 10)
    assert plan.bytes_written == 10 * plan.bytes_per_image
    assert plan.bytes_read == sum(file.stat().st_size for file in folder.rglob("*.png"))
    assert "blocks.4.mean: 64 x float16, 128 bytes an image" in str(plan)
    assert f"move     3072 bytes of pixels an image to the device, {plan.bytes_per_image} of" in str(plan)
    assert plan.files_written == len(plan.arrays) + 1  # one unit
    assert f"in {plan.files_written} files" in str(plan)
    stored(folder)
    before = everything(root)
    again = extract(folder, model=name, store=root, layers="all", dry_run=True)
    assert everything(root) == before
    assert again.plan is not None
    assert again.plan.files_written == len(plan.arrays) - 1  # the last layer and the digests are there
    assert "last.none: 256 x float16, 512 bytes an image, already stored" in str(again)
    done = extract(folder, model=name, store=root, layers="all", batch_size=4)
    assert done.bytes_written == again.plan.bytes_written
    shards = [path for path in {*everything(root)} - {*before} if "c" in path.parts and path.is_file()]
    assert len(shards) == again.plan.files_written


def test_layers_added_later_leave_the_others_alone(make_folder: Make, stored: Stored, tmp_path: Path) -> None:
    folder = make_folder(9)
    before = feature_bytes(stored(folder))
    added = stored(folder, layers="0,2", pooling="mean,grid2")
    after = feature_bytes(added)
    assert {name: after[name] for name in before} == before
    together = stored(folder, store=tmp_path / "other", layers="last,blocks.0,blocks.2", pooling="mean,grid2")
    assert feature_bytes(together) == after


def test_shards_make_the_whole(make_folder: Make, stored: Stored, tmp_path: Path) -> None:
    folder = make_folder(70)
    whole = stored(folder)
    assert whole.n_units > 1
    for index in (2, 0, 1):
        part = stored(folder, store=tmp_path / "parts", shard=(index, 3))
    assert feature_bytes(part) == feature_bytes(whole)
    with pytest.raises(InputError, match="--overwrite with --shard"):
        stored(folder, shard=(0, 3), overwrite=True)


def test_failed_images_keep_their_rows(make_folder: Make, stored: Stored, tmp_path: Path) -> None:
    folder = make_folder(9)
    clean = stored(folder, store=tmp_path / "clean").blocks(["last.none"]).take(range(9))
    (folder / "cat" / "002.png").write_text("text")
    (folder / "dog" / "003.png").write_bytes(encode(draw(3))[:300])
    cache = stored(folder)
    values = cache.blocks(["last.none"]).take(range(9))
    bad = [cache.manifest.ids.index(name) for name in ("cat/002.png", "dog/003.png")]
    assert sorted(cache.failed_rows()) == bad
    for allowed in (None, 1, 2):
        again = extract(folder, model=cache.backbone["name"], store=cache.root, max_failures=allowed)
        assert list(again.failed) == ["cat/002.png", "dog/003.png"]
        assert again.too_many_failed == (allowed == 1)
    good = [row for row in range(9) if row not in bad]
    assert np.isnan(values[bad]).all()
    # The others' batch mates did not move, so to the bit.
    assert np.array_equal(values[good], clean[good])


def test_no_usable_image_at_all(tmp_path: Path, stored: Stored) -> None:
    (tmp_path / "bad" / "a").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "bad" / "a" / f"{i}.jpg").write_text("no")
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of the 3 images .*a/0.jpg: not an image.* recorded"):
            stored(tmp_path / "bad")
    assert FeatureStore.open(tmp_path / "store").datasets() == ["bad"]


def test_a_image_above_the_limit_is_taken_after_overwrite(make_folder: Make, stored: Stored) -> None:
    folder = make_folder(4)
    (folder / "cat" / "000.png").write_bytes(encode(draw(0, (80, 64))))
    small = {"max_pixels": 40 * 32}
    (reason,) = stored(folder, **small).failed_rows().values()
    assert "raise --max-pixels and extract again with --overwrite" in reason
    assert stored(folder).failed_rows() == {0: reason}
    assert stored(folder, overwrite=True).failed_rows() == {}


def test_a_request_that_cannot_be_noted_is_no_failure(
    make_folder: Make, stored: Stored, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise StoreError("the file system is read-only")

    folder = make_folder(4)
    monkeypatch.setattr(FeatureCache, "remember_request", refuse)
    with caplog.at_level("INFO", logger="toptune.extract.jobs"):
        cache = stored(folder)
    assert not cache.failed_rows()
    assert "the file system is read-only" in caplog.text
    assert extract_again(stored, folder) is True


def test_batch_size_belongs_to_the_cache(make_folder: Make, stored: Stored) -> None:
    folder = make_folder(8)
    first = stored(folder, batch_size=4)
    assert stored(folder, batch_size=None, layers="0,").batch_size == first.batch_size == 4
    with pytest.raises(ConflictError, match="begun with batches of 4, not 8"):
        stored(folder, batch_size=8)


def scaled(model_folder: Path, place: Path, factor: float) -> str:
    """Copy the model with its last layer scaled."""
    shutil.copytree(model_folder, place)
    state = dict(load_file(place / "model.safetensors"))
    for name in ("bn2.weight", "bn2.bias"):
        state[name] = state[name] * factor
    save_file(state, place / "model.safetensors")
    return f"local-dir:{place}"


@pytest.mark.parametrize(("factor", "dtype"), [(1e6, "float32"), (1e-6, "float32"), (1.0, "float16")])
def test_values_near_the_range_go_to_float32(
    make_folder: Make, stored: Stored, model_folder: Path, tmp_path: Path, factor: float, dtype: str
) -> None:
    model = scaled(model_folder, tmp_path / "scaled", factor)
    (spec,) = stored(make_folder(6), model=model).arrays()
    assert spec.dtype == dtype


def test_overflow_is_an_error_that_names_image_and_layer(
    make_folder: Make, stored: Stored, model_folder: Path, tmp_path: Path
) -> None:
    folder, model = make_folder(6), scaled(model_folder, tmp_path / "scaled", 1e8)
    with pytest.raises(
        NumericalError, match=r"(?s)(cat|dog)/00\d\.png.*last\.none|last\.none.*(cat|dog)/00\d\.png"
    ):
        stored(folder, model=model, dtype="float16")
    with pytest.raises(ConflictError, match="stored as float16, not float32"):
        stored(folder, model=model, dtype="float32")
    (spec,) = stored(folder, model=model, overwrite=True).arrays()
    assert spec.dtype == "float32"


def test_overwrite_computes_again(make_folder: Make, stored: Stored) -> None:
    folder = make_folder(6)
    cache = stored(folder, layers="last,blocks.0")
    before = feature_bytes(cache)
    summary = extract(folder, model=cache.backbone["name"], store=cache.root, overwrite=True)
    assert (summary.units_done, summary.nothing_to_do) == (cache.n_units, False)
    assert feature_bytes(cache) == before
    assert not verify(cache, deep=True).damaged


def test_auto_precision_adopts_what_was_begun(make_folder: Make, stored: Stored) -> None:
    folder = make_folder(4)
    for precision in ("fp32", "bf16"):
        stored(folder, precision=precision, dataset=precision)
        assert stored(folder, precision="auto", dataset=precision, layers="0,").recipe.precision == precision


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"shard": (3, 3)}, "shard 3/3"),
        ({"dtype": "int8"}, "'int8' is unknown; choose one of auto"),
        ({"layers": "blocks.77"}, "toptune layers"),
        ({"pooling": "cls", "layers": "all"}, "does not fit"),
        ({"pooling": "cls"}, "nothing to pool"),
        ({"model_kwargs": {"x": object()}}, "JSON"),
        ({"mean": [float("nan")]}, "mean is nan; its values must be finite"),
        ({"std": [1.0, 1.0, float("inf")]}, "std is .*must be finite"),
        ({"crop_pct": float("nan")}, "crop_pct is nan"),
        ({"weights": "no/such/file"}, "no/such/file"),
        ({"layers": "blocks.0", "pooling": "flatten", "img_size": 256}, "'grid4' leaves 256"),
    ],
)
def test_refused_before_anything_is_written(
    make_folder: Make, stored: Stored, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        stored(make_folder(4), **options)
    assert not (tmp_path / "store").exists()


def test_a_store_object_and_builtin_names(
    stored: Stored, tmp_path: Path, model_folder: Path, make_folder: Make
) -> None:
    store = FeatureStore.create(tmp_path / "objects")
    source = open_source(make_folder(5))
    summary = extract(source, model=f"local-dir:{model_folder}", store=store, dataset="five")
    assert (summary.dataset, store.datasets()) == ("five", ["five"])


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    script = """
import resource, sys, io
import numpy as np, torch
torch.set_num_threads(1)
from PIL import Image
from toptune.extract import extract
from toptune.store import Manifest
class Noise:
    def __init__(self, n):
        self.n, self.name = n, f"noise{n}"
        buffer = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        self.data = buffer.getvalue()
    def manifest(self):
        return Manifest.from_columns(ids=[f"{i:06}" for i in range(self.n)], labels=None, splits=None,
                                     sizes=[len(self.data)] * self.n)
    def read(self, row):
        return self.data
for n in (400, 2400):
    extract(Noise(n), model="random:test_resnet", img_size=32, store=sys.argv[1], workers=2)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s")], capture_output=True, text=True,
                         check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    few, many = map(int, run.stdout.split())
    assert many - few < 15_000  # KiB
