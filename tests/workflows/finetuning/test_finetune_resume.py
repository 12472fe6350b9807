"""Fine-tuning that is stopped and started again: the same losses, the same network, to the bit."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shapes import MODEL
from warm_processes import WarmProcess

from toptune.store import ConflictError, CorruptError, InputError, InterruptedRunError
from toptune.workflows import FineTunedRun, finetune

OPTIONS: dict[str, Any] = {
    "model": MODEL, "epochs": 4, "warmup_epochs": 1, "learning_rates": [1e-3, 3e-3], "batch_size": 8,
    "min_epochs": 4, "crop_scale": 0.5, "precision": "fp32", "workers": 2,
}  # fmt: skip


def numbers(run: Path) -> tuple[bytes, bytes, dict[str, Any]]:
    metrics = json.loads((run / "metrics.json").read_text())
    return (
        (run / "model.safetensors").read_bytes(),
        (run / "selection.csv").read_bytes(),
        {name: value for name, value in metrics.items() if name not in ("seconds", "costs")},
    )


def interrupt_after(n_reports: int) -> Callable[[Any], None]:
    seen = 0

    def progress(_report: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > n_reports:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd", "depth": "last:1"}, {"refit": True}])
def test_interrupted_at_any_moment_equals_undisturbed(
    photos: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = OPTIONS | options
    finetune(photos, out=tmp_path / "undisturbed", **options)
    # 30 images are read; an epoch has 3 batches and one of validation.
    sessions = 0
    while not (tmp_path / "run").exists():
        sessions += 1
        assert sessions < 12
        try:
            finetune(photos, out=tmp_path / "run", progress=interrupt_after(30 + 4 + 7 * sessions), **options)
        except InterruptedRunError:
            assert (tmp_path / "run.unfinished" / "state.json").exists()
    assert sessions > 2
    assert numbers(tmp_path / "run") == numbers(tmp_path / "undisturbed")
    assert FineTunedRun.load(tmp_path / "run").metrics["costs"]["sessions"] == sessions
    assert not (tmp_path / "run.unfinished").exists()


def test_a_wish_to_stop_gives_the_epoch_up_or_finishes_it(photos: Path, tmp_path: Path) -> None:
    reports: list[Any] = []

    def stop(left: float) -> Callable[[], float | None]:
        return lambda: left if reports and reports[-1].epoch == 2 else None

    with pytest.raises(InterruptedRunError, match=r"^stopped with 1 epoch done; the same command resumes"):
        finetune(photos, out=tmp_path / "run", progress=reports.append, stop=stop(0.0), **OPTIONS)
    reports.clear()
    with pytest.raises(InterruptedRunError, match=r"^stopped with 2 epochs done"):
        finetune(photos, out=tmp_path / "run", progress=reports.append, stop=stop(60.0), **OPTIONS)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == ["run.unfinished"]


def test_the_time_limit_stops_before_the_next_epoch(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError, match="stopped by the time limit of 1e-06 s with 0 epochs done"):
        finetune(photos, out=tmp_path / "run", time_limit=1e-6, **OPTIONS)


def test_a_finished_run_is_given_back_and_nothing_else_takes_its_place(photos: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"epochs": 2}
    first = finetune(photos, out=tmp_path / "run", **options)
    before = numbers(tmp_path / "run")
    (tmp_path / "run.unfinished").mkdir()
    again = finetune(photos, out=tmp_path / "run", **options | {"workers": 1})
    assert not (tmp_path / "run.unfinished").exists()
    assert again.metrics["costs"]["sessions"] == 1
    assert numbers(tmp_path / "run") == before
    said = "finished before: nothing was trained now"
    assert [(each.was_there, each.to_dict()["was_there"]) for each in (first, again)] == [
        (False,) * 2,
        (True,) * 2,
    ]
    assert (said in str(first), str(again).startswith(said)) == (False, True)
    with pytest.raises(InputError, match=r"a fine-tuning with other .*seed.*; nothing is overwritten"):
        finetune(photos, out=tmp_path / "run", **options | {"seed": 1, "depth": "head", "val": "train"})


@pytest.fixture
def unfinished(photos: Path, tmp_path: Path) -> Path:
    with pytest.raises(InterruptedRunError):
        finetune(photos, out=tmp_path / "run", progress=interrupt_after(60), **OPTIONS)
    return tmp_path / "run.unfinished"


def test_another_fine_tuning_does_not_take_over_an_unfinished_one(photos: Path, unfinished: Path) -> None:
    with pytest.raises(ConflictError, match=r"patience 10 there, 4 now. Give the same options to go on"):
        finetune(photos, out=unfinished.parent / "run", **OPTIONS | {"patience": 4})
    (photos / "disc" / "000.png").unlink()
    with pytest.raises(ConflictError, match="pictures "):
        finetune(photos, out=unfinished.parent / "run", **OPTIONS)


@pytest.mark.parametrize("damaged", ["state.json", "last-*.safetensors"])
def test_a_damaged_checkpoint_is_refused(photos: Path, unfinished: Path, damaged: str) -> None:
    (path,) = unfinished.glob(damaged)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptError, match=rf"cannot be read .*remove {unfinished} to begin anew"):
        finetune(photos, out=unfinished.parent / "run", **OPTIONS)


def test_leftovers_of_a_killed_writer_are_cleared(photos: Path, unfinished: Path) -> None:
    (unfinished / ".tmp-left").write_bytes(b"half")
    (unfinished / "last-00099.safetensors").write_bytes(b"half")
    with pytest.raises(InterruptedRunError):
        finetune(photos, out=unfinished.parent / "run", progress=interrupt_after(30 + 6), **OPTIONS)
    state = json.loads((unfinished / "state.json").read_text())
    assert {path.name for path in unfinished.iterdir()} == {"state.json", state["last"], state["best"]}


def test_a_signal_ends_the_command_with_code_3_and_it_resumes(photos: Path, tmp_path: Path) -> None:
    program = "import sys; from toptune.cli import main; main(sys.argv[1:])"
    words = [
        "finetune", photos, "--model", MODEL, "--out", tmp_path / "run", "--precision", "fp32",
        "--learning-rate", "1e-3", "--grace", "0.001", "--batch-size", 4, "--epochs", 5000,
    ]  # fmt: skip
    work = WarmProcess(program, *words, folder=tmp_path)
    state = tmp_path / "run.unfinished" / "state.json"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    work.send_signal(signal.SIGTERM)
    code, err = work.wait(), work.err.read_text()
    assert code == 3, err
    assert "SIGTERM: the epoch at hand is finished if" in err
    assert err.splitlines()[-1].endswith("the same command resumes [TT913]")
    n_epochs = len(json.loads(state.read_text())["epochs"])
    assert n_epochs >= 1
    # Killed for good, at any moment.
    work = WarmProcess(program, *words, folder=tmp_path)
    while len(json.loads(state.read_text())["epochs"]) == n_epochs and time.monotonic() < deadline:
        time.sleep(0.02)
    work.send_signal(signal.SIGKILL)
    assert work.wait() == -signal.SIGKILL
    assert len(json.loads(state.read_text())["epochs"]) > n_epochs
    assert not (tmp_path / "run").exists()
