import dataclasses
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from toptune.extract import drafting, extract, load_backbone
from toptune.extract.batch_size import CANDIDATES, measure_batch_size
from toptune.extract.deviation import (
    MAX_RELATIVE_ERROR,
    Deviation,
    find_large,
    measure_deviations,
    refuse_deviations,
)
from toptune.extract.drawn_images import draw_images
from toptune.extract.pipeline.transfers import start_transfer
from toptune.machine.heap import keep_freed_memory
from toptune.store import FeatureCache, NumericalError

Make = Callable[..., Path]
Stored = Callable[..., FeatureCache]


def test_the_deviation_of_bf16_is_measured_and_kept_beside_each_array(
    make_folder: Make, stored: Stored
) -> None:
    options = {"layers": "all", "dtype": "float32", "decode": "exact"}
    cache, exact = (stored(make_folder(12), precision=each, **options) for each in ("bf16", "fp32"))
    for spec in cache.arrays():
        measured = cache.measured(spec.name)
        a, b = (each.blocks([spec.name]).take(range(12)) for each in (cache, exact))
        assert measured["relative_error"] == pytest.approx(
            np.linalg.norm(a - b) / np.linalg.norm(b), rel=0.05
        )
        assert 0 < measured["relative_error"] < 0.05
        assert 0.99 < measured["cosine"] < 1
        assert exact.measured(spec.name) == {}


def test_a_precision_that_moves_features_too_far_is_refused(
    make_folder: Make, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.extract.deviation.MAX_RELATIVE_ERROR", 1e-9)
    with pytest.raises(
        NumericalError,
        match=r"^local-dir:\S+: precision bf16.* moves last.none by .*--precision fp32",
    ):
        extract(make_folder(5), model=f"local-dir:{model_folder}", store=tmp_path / "s", precision="bf16")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("limit", "precision"), [(1e-9, "fp32"), (1.0, "bf16")])
def test_auto_is_one_precision_a_model_whatever_the_data_set_and_the_layers(
    limit: float, precision: str, make_folder: Make, stored: Stored, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("toptune.machine.devices.has_fast_bf16", lambda: True)
    monkeypatch.setattr("toptune.extract.deviation.MAX_DRAWN_ERROR", limit)
    # What bf16 does to the images of one data set is told and recorded, and decides nothing.
    for large in ("MAX_RELATIVE_ERROR", "LARGE_RELATIVE_ERROR"):
        monkeypatch.setattr(f"toptune.extract.deviation.{large}", 1e-9)
    caches = [
        stored(make_folder(5), layers="all", decode="exact"),
        stored(make_folder(4, "others", first=9), layers="last", decode="exact"),
    ]
    assert len({cache.digest for cache in caches}) == 1
    assert [cache.recipe.precision for cache in caches] == [precision] * 2
    assert ("precision auto takes fp32" in caplog.text) == (precision == "fp32")
    for cache in caches:
        measured = [cache.measured(spec.name) for spec in cache.arrays() if spec.name != "content"]
        assert all(("relative_error" in each) == (precision == "bf16") for each in measured)
    assert ("of its norm in a sample of images" in caplog.text) == (precision == "bf16")
    # Several models may be extracted at once.
    told = [record.getMessage() for record in caplog.records if record.name == drafting.__name__]
    moved = [message for message in told if " moves " in message]
    assert moved
    assert all(message.startswith(f"{caches[0].backbone['name']}: precision ") for message in moved)
    assert all("--precision bf16 takes bf16 all the same" in each for each in moved if "auto takes" in each)


def test_features_go_on_in_the_precision_that_an_older_choice_gave_them(
    make_folder: Make, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = stored(make_folder(6), precision="bf16", layers="last")
    monkeypatch.setattr("toptune.machine.devices.has_fast_bf16", lambda: True)
    monkeypatch.setattr("toptune.extract.deviation.MAX_DRAWN_ERROR", 1e-9)
    monkeypatch.setattr(drafting, "draw_images", lambda *_: pytest.fail("chose anew"))
    assert stored(make_folder(6), precision="auto", layers="all").digest == begun.digest
    # New images are a part of their own, in the precision of the parts before.
    grown = extract(make_folder(9), model=begun.backbone["name"], store=tmp_path / "store", update=True)
    assert (grown.version, grown.digest) == (2, begun.digest)


def test_features_that_are_no_numbers_are_refused_whoever_chose(
    make_folder: Make, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.machine.devices.has_fast_bf16", lambda: True)
    monkeypatch.setattr("toptune.extract.deviation.MAX_DRAWN_ERROR", 1.0)
    lost = {"last.none": Deviation(float("nan"), 0.0)}
    monkeypatch.setattr(drafting, "drawn_deviations", lambda *_: {})
    monkeypatch.setattr(drafting, "measure_deviations", lambda *_: lost)
    with pytest.raises(NumericalError, match=r"moves last.none by nan.*--precision fp32"):
        stored(make_folder(5), precision="auto")


@pytest.mark.parametrize("size", [(48, 64), (31, 20)])
def test_drawn_images_are_the_same_each_time_and_differ_among_themselves(size: tuple[int, int]) -> None:
    drawn, again = draw_images(size), draw_images(size)
    assert list(drawn) == ["scenes", "objects", "thumbnails"]
    for kind, pixels in drawn.items():
        assert pixels.shape == (6, *size, 3)
        assert pixels.dtype == np.uint8
        assert (pixels == again[kind]).all()
        assert len({each.tobytes() for each in pixels}) == 6
    # Scenes are crowded, and the others mostly light ground.
    assert drawn["scenes"].std() > 1.3 * drawn["objects"].std()
    assert min(float(np.median(drawn[kind])) for kind in ("objects", "thumbnails")) > 180


def test_deviations_are_what_they_say() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]], dtype=np.float32)
    found = np.array([[3.0, 4.0], [5.0, 0.0]], dtype=np.float32)
    each = measure_deviations({"x": found}, {"x": reference})["x"]
    assert (each.relative_error, each.cosine) == (1.0, 0.0)
    with pytest.raises(NumericalError, match=f"moves x by 1 .*limit of {MAX_RELATIVE_ERROR}"):
        refuse_deviations({"x": each}, "bf16")
    lost = measure_deviations({"x": found * np.nan}, {"x": reference})
    with pytest.raises(NumericalError, match="moves x by nan"):
        refuse_deviations(lost, "bf16")
    refuse_deviations(measure_deviations({"x": reference * 1.01}, {"x": reference}), "bf16")


def test_transfers_narrow_what_fits_float16_and_leave_what_does_not() -> None:
    outputs = {"a": torch.tensor([[1.5]]), "b": torch.tensor([[1e6]]), "c": torch.tensor([[2.5]])}
    found = start_transfer(outputs, {"a": "float16", "b": "float16", "c": "float32"}).result()
    assert {name: (values.dtype.name, values.item()) for name, values in found.items()} == {
        "a": ("float16", 1.5), "b": ("float32", 1e6), "c": ("float32", 2.5),
    }  # fmt: skip


def test_a_measured_batch_size_is_one_of_the_candidates_and_is_kept(
    make_folder: Make, stored: Stored, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(f"local-dir:{model_folder}")
    assert measure_batch_size(backbone, backbone.resolve("last")) in CANDIDATES["cpu"]
    monkeypatch.setattr(drafting, "measure_batch_size", lambda *_: 5)
    cache = stored(make_folder(12), batch_size="auto")
    assert cache.batch_size == 5
    assert stored(make_folder(12), batch_size=None, layers="all").batch_size == 5


def test_a_compiled_pass_computes_the_same(make_folder: Make, stored: Stored) -> None:
    options = {"layers": "all", "dtype": "float32", "precision": "fp32", "fold": False, "decode": "exact"}
    exact = stored(make_folder(6), **options)
    cache = stored(make_folder(6), **options, compiled=True)
    assert cache.recipe == dataclasses.replace(exact.recipe, forward="compiled")
    for spec in cache.arrays():
        a, b = (each.blocks([spec.name]).take(range(6)) for each in (cache, exact))
        assert np.allclose(a, b, rtol=1e-4, atol=1e-4)
        assert cache.measured(spec.name)["relative_error"] < 1e-4


def test_freed_memory_is_kept_unless_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)  # distributed sets one when it starts workers
    if sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc":
        assert keep_freed_memory()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()
    assert not keep_freed_memory(overruled=("MALLOC_TRIM_THRESHOLD_",))


def test_a_precision_that_moves_features_further_than_most_is_told() -> None:
    told = find_large({"last.mean": Deviation(0.034, 0.9991), "stem.mean": Deviation(0.004, 1.0)}, "bf16")
    assert told is not None
    assert "moves last.mean by 3.4% of its norm" in told
    assert "--precision fp32" in told
    assert "other layer" not in told
    assert find_large({"last.mean": Deviation(0.019, 0.9999)}, "bf16") is None
