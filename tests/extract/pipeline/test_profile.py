"""``extract --profile``: every stage sees every image, and one of them is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cuda import fake_cuda

from toptune.errors import InputError
from toptune.extract import extract, extraction_profile
from toptune.extract.request.stages import STAGES

MODEL = "random:test_resnet"
# Those of --decode gpu are the only ones that another route does not have.
USED = [stage for stage in STAGES if not stage.startswith("device")]


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


def test_a_pass_on_cuda_is_waited_for(photos: Path, tmp_path: Path) -> None:
    profile = extraction_profile()
    with fake_cuda() as counts:
        extract(photos, model=MODEL, store=tmp_path / "store", device="cuda", batch_size=12, profile=profile)
    assert counts.waits["synchronize"] >= 3
    assert {use.stage: use.images for use in profile.uses() if use.images} == dict.fromkeys(USED, 36)


def test_stages_of_other_processes_are_not_measured(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave --dask out"):
        extract(photos, model=MODEL, store=tmp_path / "store", dask="local:2", profile=extraction_profile())
    assert not list(tmp_path.glob("store"))
