"""A report on runs of several models beside runs of one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from made_runs import make_run

from toptune.store import FeatureStore, import_features
from toptune.train import blend, train
from toptune.train.runs.options import LATE
from toptune.train.runs.record import FusionRecord, MemberRecord
from toptune.workflows import write_report
from toptune.workflows.report.command_lines import command_of, extraction_of
from toptune.workflows.report.method_names import name_methods
from toptune.workflows.report.runs import read_runs


def test_runs_of_several_models_have_a_row_of_their_own(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store")
    labels = [f"class {row % 3}" for row in range(60)]
    for seed, model in enumerate(("small", "large")):
        rng = np.random.default_rng(seed)
        values = (np.eye(3)[np.arange(60) % 3] + 0.7 * rng.normal(size=(60, 3))).astype(np.float32)
        import_features(store, {"last": values}, dataset="pets", model=model, labels=labels)
    options: dict[str, Any] = {"dataset": "pets", "head": "ridge", "cv": 3}
    for model in ("small", "large"):
        train(store, model=model, out=tmp_path / "runs" / model, **options)
    for fusion in ("late", "join"):
        train(store, models=["small", "large"], fusion=fusion, out=tmp_path / "runs" / fusion, **options)
    blend([tmp_path / "runs" / model for model in ("small", "large")], out=tmp_path / "runs" / "blended")
    runs = read_runs([tmp_path / "runs"], progress=lambda *_: None)
    # The heads of a run of several models are no runs of the page.
    assert [run.folder.name for run in runs] == ["blended", "join", "large", "late", "small"]
    assert [run.model for run in runs] == [
        "small + large",
        "small + large",
        "large",
        "small + large",
        "small",
    ]
    assert name_methods(runs) == [
        "ridge, late fusion", "ridge, joined features", "ridge", "ridge, late fusion", "ridge",
    ]  # fmt: skip

    summary = write_report([tmp_path / "runs"], out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert summary.runs == 5
    assert "small + large" in page
    assert "ridge, late fusion" in page
    assert command_of(runs[0]).startswith(f"toptune blend {tmp_path / 'runs' / 'small'}")
    assert "--model small --model large" in command_of(runs[3])
    # The default is all that is stored; a run of the last layer is repeated with that layer alone.
    assert "--layers last" in command_of(runs[4])


def test_a_late_fusion_names_the_extraction_of_each_of_its_backbones(tmp_path: Path) -> None:
    models = ("resnet10t.demo", "test_vit.demo")
    for number, model in enumerate(models):
        make_run(tmp_path / "fused" / "members" / str(number), model=model)
    alone = read_runs([tmp_path / "fused" / "members" / "0"], progress=lambda *_: None)[0]
    members = tuple(
        MemberRecord(folder=f"members/{number}", name=model, model=model, head="ridge", weight=0.5)
        for number, model in enumerate(models)
    )
    fusion = FusionRecord(members=members, temperature=1.0, are_equal=True)
    record = replace(alone.record, kind=LATE, cache=None, fusion=fusion)
    found = extraction_of(replace(alone, folder=tmp_path / "fused", record=record), "photos")
    assert found is not None
    assert [part.split(" --store")[0] for part in found.split(" && ")] == [
        f"toptune extract photos --model {model}" for model in models
    ]
