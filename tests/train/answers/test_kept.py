"""What a training leaves for sets of labels and novelty: in the folder, after an update, of several heads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from toptune.errors import CorruptError
from toptune.store import FeatureCache, FeatureStore
from toptune.store.features.blocks import ArrayBlocks
from toptune.train import train
from toptune.train.answers.kept import Kept
from toptune.train.answers.left_out import LeftOut
from toptune.train.answers.novelty import Novelty, joint_quantiles

Build = Callable[..., FeatureCache]


def test_a_run_keeps_what_was_said_of_left_out_rows(build: Build, tmp_path: Path) -> None:
    build()
    run = train(
        tmp_path / "store", dataset="pets", model="tiny.demo", out=tmp_path / "run", head="ridge", cv=3
    )
    kept = Kept.read(run.folder, n_columns=run.preprocessing.n_outputs)
    assert isinstance(kept.left_out, LeftOut)
    assert kept.novelty is not None
    assert set(kept.left_out.rows.tolist()) <= set(run.train_rows.tolist())
    # The log-loss of the report is that of the same rows and of the same temperature.
    assert run.head.left_out is not None
    assert -np.log(kept.left_out.likelihood).mean() == pytest.approx(run.head.left_out.log_loss, rel=1e-4)
    assert set(kept.novelty.rows.tolist()) == set(run.train_rows.tolist())


def test_a_head_without_folds_keeps_no_left_out_rows(build: Build, tmp_path: Path) -> None:
    build()
    run = train(
        tmp_path / "store", dataset="pets", model="tiny.demo", out=tmp_path / "run", head="ridge", cv=None,
        penalty=1e-3,
    )  # fmt: skip
    assert Kept.read(run.folder, n_columns=run.preprocessing.n_outputs).left_out is None


def test_novelty_is_a_share_of_left_out_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 5)).astype(np.float32)
    found = Novelty.of(ArrayBlocks(rows), np.arange(600), seed=0)
    assert found is not None
    fresh = found.of_rows(ArrayBlocks(rng.normal(size=(600, 5)).astype(np.float32)))
    # Images like those that trained are spread over all quantiles; other ones are at the end.
    assert 0.4 < fresh.mean() < 0.6
    assert (fresh > 0.9).mean() == pytest.approx(0.1, abs=0.05)
    assert found.of_rows(ArrayBlocks(np.full((3, 5), 9, np.float32))).tolist() == [1, 1, 1]


def test_rows_that_leave_an_update_leave_novelty_and_left_out_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    found = Novelty.of(ArrayBlocks(rows), np.arange(40), seed=0)
    assert found is not None
    now = np.arange(40) - 1
    now[5] = -1
    changed = found.changed(now)
    assert changed is not None
    assert set(changed.rows.tolist()) == set(range(39)) - {4}
    assert len(changed.centers) == len(found.centers) - np.isin([0, 5], found.center_rows).sum()
    said = LeftOut(
        rows=np.arange(4), likelihood=np.array([0.1, 0.2, 0.3, 0.4]), things=["a", "a", "b", "b"],
        thing_likelihood=np.array([0.5, 0.5, 0.6, 0.6]),
    )  # fmt: skip
    said.write(tmp_path)
    again = LeftOut.read(tmp_path, advice="train again")
    assert again is not None
    assert again.of_things is not None
    assert again.of_things.likelihood.tolist() == [0.5, 0.6]
    left = again.changed(np.array([7, 8, -1, 9]))
    assert left is not None
    assert (left.rows.tolist(), left.things) == ([7, 8], ["a", "a"])


def test_several_backbones_rank_the_mean_of_their_quantiles() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(300, 4)).astype(np.float32) for _ in range(2)]
    members = [Novelty.of(ArrayBlocks(part), np.arange(300), seed=0) for part in parts]
    assert members[0] is not None
    assert members[1] is not None
    pair = [members[0], members[1]]
    fresh = [rng.normal(size=(300, 4)).astype(np.float32) for _ in range(2)]
    found = [member.residuals_of(ArrayBlocks(part)) for member, part in zip(pair, fresh, strict=True)]
    assert (joint_quantiles(pair, found) > 0.9).mean() == pytest.approx(0.1, abs=0.06)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "left_out.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(CorruptError, match=r"left_out\.parquet cannot be read"):
        Kept.read(tmp_path, n_columns=3)


def test_a_late_fusion_keeps_what_its_heads_say_together(
    two_models: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    two_models()
    run = train(
        tmp_path / "store",
        dataset="pets",
        models=["small", "large"],
        out=tmp_path / "run",
        head="ridge",
        cv=3,
    )
    said = LeftOut.read(run.folder, advice="train again")
    assert said is not None
    assert set(said.rows.tolist()) <= set(run.train_rows.tolist())
    # Both temperatures are fitted: what all say together is likelier than chance by far.
    assert said.likelihood.mean() > 0.5
