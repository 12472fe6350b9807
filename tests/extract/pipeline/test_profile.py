"""``extract --profile``: every stage sees every image, and one of them is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import fake_cuda

from toptune.errors import InputError
from toptune.extract import extract, extraction_profile
from toptune.extract.request.stages import STAGES
from toptune.store import FeatureStore
from toptune.store.features.extraction_costs import extraction_costs

MODEL = "random:test_resnet"
# Those of --decode gpu and the launch of passes are the only ones that a CPU does not have.
USED = [stage for stage in STAGES if not stage.startswith("device") and stage != "launch"]


def test_every_stage_sees_every_image(
    photos: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    (photos / "disc" / "broken.png").write_bytes(b"no image")
    command = ["extract", photos, "--model", MODEL, "--store", tmp_path / "store", "--profile", "--json"]
    command += ["--max-failures", "1"]
    code, out, err = run_cli(*command)
    assert code == 0, err
    profile = json.loads(out)["profile"]
    images = {stage["stage"]: stage["images"] for stage in profile["stages"]}
    # What cannot be decoded is read, and its row goes through the rest.
    assert images == dict.fromkeys(STAGES, 0) | dict.fromkeys(USED, 37) | {"decode": 36, "resize": 36}
    used = [stage for stage in profile["stages"] if stage["stage"] in USED]
    assert all(stage["seconds"] > 0 and stage["alone"] > 0 for stage in used)
    assert profile["bottleneck"] in (None, *STAGES)
    code, out, err = run_cli(*command)
    assert "profile" not in json.loads(out)  # nothing ran


def test_the_table_names_the_stages(
    photos: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = run_cli("extract", photos, "--model", MODEL, "--store", tmp_path / "store", "--profile")
    assert code == 0
    for stage in USED:
        assert f"\n {stage} " in out
    assert any(word in out for word in ("bottleneck: ", "no stage holds up the others", "too short to say"))
    assert "the pass is in fp32" in STAGES["forward"].advice
    for more in ([], ["--dry-run"]):
        command = ["extract", photos, "--model", MODEL, "--store", tmp_path / "store", "--profile", *more]
        code, out, _ = run_cli(*command)
        assert (code, out.strip().splitlines()[-1]) == (0, "profile: nothing ran, so nothing was measured")


def test_events_time_a_cuda_device_apart_from_the_host_and_nothing_waits_for_them(
    photos: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    profile, store = extraction_profile(), tmp_path / "store"
    options: dict[str, Any] = {"precision": "fp32", "decode": "exact", "dtype": "float32", "batch_size": 12}
    with fake_cuda() as counts:
        summary = extract(photos, model=MODEL, store=store, device="cuda", profile=profile, **options)
        waits = {place.rpartition(" ")[2]: n for place, n in counts.places.items() if ".pipeline." in place}
    assert waits == {"event": 3}
    uses = {use.stage: use for use in profile.uses() if use.images}
    assert {name: use.images for name, use in uses.items()} == dict.fromkeys([*USED, "launch"], 36)
    assert (uses["forward"].workers, uses["launch"].workers) == ("forward passes", "main thread")
    # An operation of the pretended device takes a millisecond: the clock of the host has no part in the sum.
    on_device = uses["forward"].seconds + uses["pool"].seconds
    assert summary.seconds_device == pytest.approx(on_device)
    assert on_device == pytest.approx(round(1e3 * on_device) / 1e3)
    assert 0 < uses["pool"].seconds < uses["forward"].seconds
    assert f"s (device {summary.seconds_device:.1f} s), write" in str(summary)
    (cache,) = FeatureStore.open(store).caches()
    recorded = extraction_costs(cache, ["last.none"])
    assert recorded["extract_device_seconds"] == pytest.approx(summary.seconds_device)
    assert "extract_cpu_seconds" in recorded


def test_stages_of_other_processes_are_not_measured(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave --dask out"):
        extract(photos, model=MODEL, store=tmp_path / "store", dask="local:2", profile=extraction_profile())
    assert not list(tmp_path.glob("store"))
