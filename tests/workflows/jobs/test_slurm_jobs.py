"""Scripts for Slurm: sizes by arithmetic, quoting that bash agrees with, signals that arrive, submission."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from shapes import MODEL, save_shapes

from toptune.extract import ArrayPlan, ExtractPlan
from toptune.store import FeatureStore, InputError
from toptune.workflows import size_jobs, write_slurm_jobs
from toptune.workflows.jobs.slurm_jobs import as_arguments
from toptune.workflows.jobs.slurm_plan import BASE_BYTES, clock, plan_of_all
from toptune.workflows.jobs.slurm_scripts import extract_script, log_pattern

Run = Callable[..., tuple[int, str, str]]
MiB = 2**20
RATE = ("--images-per-second", "100")


def plan_of(rows: int, unit_rows: int, *, missing: int | None = None) -> ExtractPlan:
    """A plan of which the last units are missing."""
    units = -(-rows // unit_rows)
    units_missing = units if missing is None else missing
    array = ArrayPlan(name="last.none", dim=512, dtype="float16", units_missing=units_missing)
    return ExtractPlan(
        dataset="photos",
        model="m@0",
        store="s",
        device="cpu",
        precision="fp32",
        rows=rows,
        rows_missing=min(units_missing * unit_rows, rows),
        unit_rows=unit_rows,
        batch_size=32,
        pixel_bytes_per_image=3 * 224 * 224,
        files_written=3 * units_missing,
        units=units,
        units_missing=units_missing,
        arrays=(array, array),
        bytes_read=rows * 100_000,
        bytes_written=rows * 2048,
        memory_bytes=200 * MiB,
    )


@pytest.mark.parametrize(
    ("rows", "options", "tasks", "units_per_task", "starts"),
    [
        # 1.25 x 1,000,000 / 100 = 12,500 s of work, 3,390 s of them fit into an hour.
        (1_000_000, {}, 4, 62, 1),
        (1_000_000, {"jobs": 10}, 10, 25, 1),
        (1_000_000, {"time_seconds": 7200}, 2, 123, 1),
        (1_000_000, {"jobs": 1, "time_seconds": 3600}, 1, 245, 4),
        (1_000_000, {"jobs": 999}, 245, 1, 1),
        (5_000_000_000, {"jobs": 2000}, 1000, 1221, 1),
        (100, {}, 1, 1, 1),
    ],
)
def test_sizes_are_arithmetic(
    rows: int,
    options: dict[str, int],
    tasks: int,
    units_per_task: int,
    starts: int,
) -> None:
    sized = size_jobs(plan_of(rows, 4096), images_per_second=100, weights_bytes=100 * MiB, **options)
    assert (sized.tasks, sized.units_per_task) == (tasks, units_per_task)
    assert sized.tasks * sized.units_per_task >= sized.units
    assert sized.starts_per_task == starts
    if "jobs" not in options or "time_seconds" in options:
        assert sized.time_seconds == options.get("time_seconds", 3600)
    else:
        assert 0 <= sized.time_seconds - 1.25 * sized.rows_per_task / 100 - 210 <= 300
    assert any("asked for" in note for note in sized.notes) == (options.get("jobs", 0) > tasks)
    needed = 200 * MiB + 2 * 100 * MiB + BASE_BYTES
    assert needed < sized.memory_bytes <= 1.25 * needed + 256 * MiB
    assert sized.memory_bytes % (256 * MiB) == 0
    assert sized.files == 2 * 3 * sized.units
    assert sized.bytes_written == rows * 2048


def test_only_what_is_missing_counts() -> None:
    sized = size_jobs(plan_of(1_000_000, 4096, missing=10), images_per_second=100, weights_bytes=MiB, jobs=4)
    assert (sized.units, sized.rows, sized.units_per_task) == (10, 40960, 10)


def test_tasks_of_several_models_have_units_of_each() -> None:
    fine, coarse = plan_of(100_000, 1024), plan_of(100_000, 4096, missing=2)
    both = plan_of_all([fine, coarse])
    assert (both.units, both.units_missing, both.rows_missing) == (25, 25, 100_000)
    assert both.files_written == fine.files_written + coarse.files_written
    assert plan_of_all([fine, fine]).bytes_read == fine.bytes_read
    # Batches and units of other sizes are read apart.
    other = replace(coarse, batch_size=16)
    assert plan_of_all([fine, coarse, other]).bytes_read == 3 * fine.bytes_read


def test_sizes_that_cannot_be() -> None:
    plan = plan_of(1_000_000, 4096)
    with pytest.raises(InputError, match=r"one unit of 4096 images takes 512 s.* give --time 13m"):
        size_jobs(plan, images_per_second=10, weights_bytes=MiB, time_seconds=600)
    with pytest.raises(InputError, match="images_per_second is 0"):
        size_jobs(plan, images_per_second=0, weights_bytes=MiB)
    small = size_jobs(plan, images_per_second=100, weights_bytes=MiB, memory_bytes=MiB)
    assert small.memory_bytes == MiB
    assert any("--mem 1 MiB is less" in note for note in small.notes)


def test_slurms_spelling_of_time() -> None:
    assert [clock(300), clock(3600), clock(180_000)] == ["00:05:00", "01:00:00", "2-02:00:00"]


@pytest.fixture
def awkward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose name needs every kind of quoting, with images of an awkward name in it."""
    folder = tmp_path / "it's $HOME 100%; `x`"
    folder.mkdir()
    save_shapes(folder / "my photos", per_class=4)
    monkeypatch.chdir(folder)
    return folder


def test_scripts_are_bash_that_says_what_was_asked(run_cli: Run, awkward: Path) -> None:
    asked = (
        "jobs", "slurm", "my photos", "--model", MODEL, "--store", "the store", "--layers", "all",
        "--mean", "0.5,0.4,0.3", "--model-kwargs", '{"drop_rate": 0.0}', "--out", "my jobs", "--jobs", "7",
        "--time", "90m", "--mem", "3GiB", "--partition", "short", "--gpus", "1", "--sbatch=--account=a",
        "--train", "--head ridge --seed 3", "--train-time", "45m", *RATE, "--json",
    )  # fmt: skip
    code, out, err = run_cli(*asked)
    assert code == 0, err
    report = json.loads(out)
    assert report["plan"]["tasks"] == 1
    assert report["plan"]["notes"] == ["7 tasks asked for, 1 made: that is how many units there are [TT512]"]
    assert report["jobs"] == {}
    assert not (awkward / "the store").exists()
    scripts = awkward / "my jobs"
    for name in ("extract.sbatch", "train.sbatch", "submit.sh"):
        assert subprocess.run(["bash", "-n", scripts / name], capture_output=True).stderr == b""
        if shutil.which("shellcheck"):
            # 2016 is about the dollar sign of the folder, which is meant.
            command = ["shellcheck", "--exclude=SC2016", str(scripts / name)]
            checked = subprocess.run(command, capture_output=True, text=True)
            assert checked.returncode == 0, checked.stdout
    text = (scripts / "extract.sbatch").read_text()
    for line in (
        "--array=0-0", "--time=01:30:00", "--mem=3072M", "--partition=short", "--gres=gpu:1", "--account=a",
        "--requeue", "--signal=B:USR1@60", "--cpus-per-task=4",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    # bash reads the command as it was meant, option by option.
    begin = text.index(shlex.quote(sys.executable))
    words = shlex.split(text[begin : text.index(" &\n", begin)])
    assert words[:5] == [sys.executable, "-m", "toptune.cli", "extract", "my photos"]
    given = {word: words[place + 1] for place, word in enumerate(words[:-1]) if word.startswith("--")}
    assert given["--store"] == str(awkward / "the store")
    assert given["--mean"] == "0.5,0.4,0.3"
    assert json.loads(given["--model-kwargs"]) == {"drop_rate": 0.0}
    assert (given["--device"], given["--shard"], given["--time-limit"]) == ("cuda", "auto/1", "5310")
    assert "--json-logs" in words
    trained = (scripts / "train.sbatch").read_text()
    assert "--head ridge" in trained.replace("\\\n    ", "")
    assert "gres" not in trained
    assert "--device cpu" in trained.replace("\\\n    ", "")
    assert "#SBATCH --time=00:45:00\n" in trained
    assert "--memory-limit 2048MiB" in trained


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--train", "--head"), "requires an argument"),
        (("--train", "--no-such-option"), "no-such-option"),
        (("--train", "--exclude none.csv"), "the file of decisions none.csv cannot be read"),
        (("--train", "--exclude DECISIONS"), "names 1 id that the data set of"),
        (("--train", "--relabel-with DECISIONS"), "the label 'cat', which no image of the data set has"),
        (("--train", "--out=x"), "--out=x is for the jobs"),
        (("--sbatch", "account=a"), "no long option of sbatch"),
        (("--partition", "a\nb"), "cannot stand in a line"),
        (("--time", "soon"), "no length of time"),
        (("--mem", "much"), "'much'"),
        (("--time", "3m"), "--time is 180 s"),
        (("--no-train", "--train", "--head ridge"), "--train '--head ridge' has no meaning with --no-train"),
        (("--layers", "layer9"), "layer9"),
        (("--train", "--fusion join"), "fusion is 'join' with the one model"),
        (("--train", "--layers vit=all"), "layers names model 'vit', which is none of the run"),
        (("--model", "random:test_efficientnet", "--train", "--cv none"), "cv is None with fusion 'late'"),
        (("--train", "--layers upper"), "layers has 'upper', a word of toptune extract"),
        (("--train", "--layers last,3"), "layers has '3', a word of toptune extract"),
        (("--train", "--head ridge --sigma 1"), "sigma has no meaning for head 'ridge'"),
        (("--train", "--head ridge --centers 1000"), "n_centers has no meaning for head 'ridge'"),
        (("--train", "--head knn --params '{\"k\": 3}'"), "head 'knn' has no parameter 'k'"),
        (("--train", "--preprocess standartise"), "did you mean 'standardise'"),
        (("--train", "--best --target age"), "best does not know --task regression"),
        (("--train", "--head logistic --target age"), "head 'logistic' does not know --task regression"),
        (("--images-per-second", "0"), "images_per_second"),
        (("--device", "cpu", "--gpus", "1"), "leaves them idle"),
    ],
)
def test_what_is_refused_writes_nothing(
    run_cli: Run, photos: Path, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    common = (
        "jobs",
        "slurm",
        photos,
        "--model",
        MODEL,
        "--store",
        tmp_path / "s",
        "--out",
        tmp_path / "jobs",
    )
    decisions = tmp_path / "decisions.csv"
    decisions.write_text("id,decision,label\nnowhere.png,exclude,\ndisc/000.png,relabel,cat\n")
    more = tuple(word.replace("DECISIONS", str(decisions)) for word in more)
    # No option may be given twice.
    rate = () if more[0] in RATE else RATE
    code, _, err = run_cli(*common, *rate, *more)
    assert code == 2
    assert said in err
    assert not (tmp_path / "jobs").exists()


def test_no_training_and_a_rate_measured_here(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    common = (
        "jobs",
        "slurm",
        photos,
        "--model",
        MODEL,
        "--store",
        tmp_path / "s",
        "--out",
        tmp_path / "jobs",
    )
    code, out, err = run_cli(*common, "--no-train")
    assert code == 0, err
    assert "images/s were measured here" in out
    assert "nothing is submitted" in out
    # A task that asks for no GPU takes none that it happens to see.
    words = (tmp_path / "jobs" / "extract.sbatch").read_text().replace("\\\n", "").split()
    assert words[words.index("--device") + 1] == "cpu"
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == [
        "extract.sbatch",
        "logs",
        "submit.sh",
    ]
    assert "train" not in (tmp_path / "jobs" / "submit.sh").read_text().replace("training", "")
    assert run_cli("extract", photos, "--model", MODEL, "--store", tmp_path / "s")[0] == 0
    code, _, err = run_cli(*common)
    assert (code, "nothing to extract" in err) == (2, True)


OTHER = "random:test_efficientnet"


def command_of(script: Path) -> list[str]:
    """The words of the command of toptune that a script runs, without the Python before them."""
    text = script.read_text()
    words = shlex.split(text[text.rindex(shlex.quote(sys.executable)) :].replace("\\\n", " "), comments=True)
    return words[3 : next(place for place, word in enumerate(words) if word in ("&", "code=$?"))]


def test_several_models_are_extracted_and_trained_together(
    run_cli: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, own = (
        tmp_path / "s",
        ("--head", "ridge", "--cv", "2", "--fusion", "join", "--layers", f"{OTHER}=all"),
    )
    common = (
        "jobs",
        "slurm",
        photos,
        "--model",
        MODEL,
        "--model",
        OTHER,
        "--store",
        store,
        "--layers",
        "all",
    )
    code, out, err = run_cli(*common, "--out", tmp_path / "jobs", "--train", shlex.join(own), "--json")
    assert code == 0, err
    plan = json.loads(out)["plan"]
    assert "were measured here" in plan["notes"][0]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert run_cli(*command_of(tmp_path / "jobs" / "extract.sbatch"))[0] == 0
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    caches = FeatureStore.open(store).caches()
    assert sorted(cache.model for cache in caches) == sorted([MODEL, OTHER])
    assert plan["rows"] == caches[0].n_rows
    assert run_cli(*command_of(tmp_path / "jobs" / "train.sbatch"))[0] == 0
    models = ("--model", MODEL, "--model", OTHER)
    code, _, err = run_cli(
        "train", "--store", store, "--dataset", "photos", *models, *own, "--out", tmp_path / "r"
    )
    assert code == 0, err
    here, there = (
        json.loads((run / "run.json").read_text()) for run in (tmp_path / "r", tmp_path / "jobs" / "run")
    )
    assert here["arrays"] == there["arrays"]
    assert here["selected"] == there["selected"]
    assert here["kind"] == there["kind"] == "join"
    figures = [
        json.loads((run / "metrics.json").read_text())["log_loss"]
        for run in (tmp_path / "r", tmp_path / "jobs" / "run")
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1e-9)


def program(folder: Path, name: str, text: str) -> None:
    """Put a program on a PATH of its own."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def test_submitting(run_cli: Run, awkward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("jobs", "slurm", "my photos", "--model", MODEL, "--store", "s", *RATE, "--submit", "--json")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if shutil.which("sbatch") is None:
        code, _, err = run_cli(*common)
        assert (code, "there is no sbatch on the PATH" in err) == (2, True)
        assert not (awkward / "toptune-jobs").exists()
    monkeypatch.setenv("PATH", f"{awkward / 'bin'}:/usr/bin:/bin")
    program(
        awkward / "bin", "sbatch", 'printf "%s\\n" "$*" >>calls; echo "$(($(wc -l <calls) + 40));cluster"'
    )
    code, out, err = run_cli(*common)
    assert code == 0, err
    assert json.loads(out)["jobs"] == {"extract": "41", "train": "42"}
    first, second = (awkward / "calls").read_text().splitlines()
    assert first == f"--parsable {awkward}/toptune-jobs/extract.sbatch"
    assert second == f"--parsable --dependency=afterany:41 {awkward}/toptune-jobs/train.sbatch"
    program(awkward / "bin", "sbatch", 'echo "invalid partition" >&2; exit 1')
    code, _, err = run_cli(*common)
    assert (code, "invalid partition" in err) == (2, True)


SLOW = """
import sys, time
from toptune.extract.images.source import FileSource
read = FileSource.read
def slowly(self, row):
    time.sleep(0.01)
    return read(self, row)
FileSource.read = slowly
from toptune.cli import main
main(sys.argv[1:])
"""
# Loading torch takes seconds, which a restart spends in the process of the tests only.
TELLING = """
import json, sys
print(json.dumps(sys.argv[1:]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("number", "to_all", "requeued"),
    [(signal.SIGUSR1, False, True), (signal.SIGUSR1, True, True), (signal.SIGTERM, True, False)],
    ids=["warned", "warned with its children", "cancelled"],
)
def test_a_signal_to_the_script_reaches_the_extraction(
    tmp_path: Path,
    run_cli: Run,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    to_all: bool,
    requeued: bool,
) -> None:
    save_shapes(tmp_path / "photos", per_class=60)
    jobs = write_slurm_jobs(
        tmp_path / "photos", model=MODEL, store=str(tmp_path / "s"), options={"workers": 1},
        out=tmp_path / "jobs", cpus=1, images_per_second=100, train_arguments=None,
    )  # fmt: skip
    (tmp_path / "slow.py").write_text(SLOW)
    script = Path(jobs.out) / "extract.sbatch"
    script.write_text(script.read_text().replace("-m toptune.cli", str(tmp_path / "slow.py")))
    program(tmp_path / "bin", "scontrol", f'printf "%s\\n" "$*" >>{tmp_path}/calls')
    program(tmp_path / "bin", "sleep", "kill $PPID")  # Slurm does, of a script that it puts back
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "0",
    }

    def start(**more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", script],
            stderr=subprocess.PIPE,
            text=True,
            env=environment | more,
            start_new_session=True,
        )

    process = start()
    deadline = time.monotonic() + 120
    while not list((tmp_path / "s").glob("features/*/*/ledger/*/0*.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    if to_all:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert "stopped with 2 of 3 units stored" in err
    assert process.returncode == (-signal.SIGTERM if requeued else 3), err
    if not requeued:
        assert not (tmp_path / "calls").exists()
        return
    assert (tmp_path / "calls").read_text() == "requeue 77_0\n"
    # What the script starts after a restart does the rest, and the script does not requeue once more.
    (tmp_path / "slow.py").write_text(TELLING)
    process = start(SLURM_RESTART_COUNT="1")
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    code, _, err = run_cli(*json.loads(words.splitlines()[-1]))
    assert code == 0
    assert json.loads(err.splitlines()[-1])["done"] == 180 - 128
    assert FeatureStore.open(tmp_path / "s").caches()[0].is_complete()
    assert (tmp_path / "calls").read_text() == "requeue 77_0\n"


def test_options_as_they_stand_on_a_command_line() -> None:
    options = {"batch_size": 8, "update": True, "rehash": False, "weights": None, "mean": [0.5, 0.25]}
    assert as_arguments(options) == ["--batch-size", "8", "--update", "--mean", "0.5,0.25"]
    assert as_arguments({"fold": False, "compiled": True}) == ["--no-fold", "--compile"]
    assert as_arguments({"model_kwargs": {"depth": 4}}) == ["--model-kwargs", '{"depth": 4}']


def test_texts_that_no_script_can_hold() -> None:
    sized = size_jobs(plan_of(100, 64), images_per_second=100, weights_bytes=MiB)
    with pytest.raises(InputError, match="cannot stand in a line"):
        extract_script(sized, {"output": 'a"b'}, command=["toptune"], folder="/", cpus=1)
    with pytest.raises(InputError, match="backslash"):
        log_pattern("a\\b")
    assert log_pattern("100%") == "100%%"
