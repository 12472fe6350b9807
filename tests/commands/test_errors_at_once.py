"""A typo is answered before torch and scikit-learn are imported, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

from made_runs import make_run
from shapes import save_shapes
from small_store import write_all

STORED_RUN = Path(__file__).parents[1] / "stored" / "runs" / "ridge"
# What a message about a name, a column or a folder has no need of.
HEAVY = ("torch", "sklearn", "scipy.stats", "scipy.optimize", "matplotlib", "timm", "dask", "distributed")
# Every command runs in one process, because a process each would cost half a second each.
PROGRAM = """
import contextlib, io, json, sys
from toptune.cli import run
heavy, commands = json.loads(sys.stdin.read())
answers = []
for command in commands:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run(command)
    answers.append([code, said.getvalue(), [name for name in heavy if name in sys.modules]])
print(json.dumps(answers))
"""


def test_typos_are_answered_without_torch(tmp_path: Path) -> None:
    write_all(tmp_path / "store")
    photos = save_shapes(tmp_path / "photos", per_class=2)
    run = make_run(tmp_path / "run")
    (tmp_path / "study.yaml").write_text(
        f"store: {tmp_path}/features\nout: {tmp_path}/out\ndatasets: {{pets: {{data: {photos}}}}}\n"
        "models: {tiny: {model: random:test_resnet}}\nheads: {rigde: {head: rigde}}\n"
    )
    (tmp_path / "empty").mkdir()
    stored = ["train", "--store", f"{tmp_path}/store", "--dataset", "pets", "--model", "resnet10t.demo"]
    stored += ["--skip-failed"]  # one image failed, which would be told first
    new = ["--out", f"{tmp_path}/new"]
    changed = {"--dataset": "pest", "--model": "resnet10", "--store": f"{tmp_path}/stroe"}
    commands = [[*stored, *new, *option] for option in changed.items()]
    options = [
        ("--head", "rigde"), ("--kernel", "gausian"), ("--preprocess", "pcaa"), ("--layers", "layer9"),
        ("--group-by", "camra"), ("--device", "gpu"), ("--params", '{"deph": 3}'), ("--penalty", "-1"),
        ("--memory-limit", "2GG"), ("--cv", "1"),
    ]  # fmt: skip
    commands += [[*stored, *new, *option] for option in options]
    commands += [[*stored, "--out", str(run)], [*stored, *new, "--model", "resnet10"]]
    commands += [["train", "--store", f"{tmp_path}/store", "--update", str(photos), *new]]
    tune = ["finetune", "--model", "random:test_resnet", *new]
    commands += [[*tune, f"{tmp_path}/phtos"], [*tune, str(tmp_path / "empty")]]
    for option in (
        ("--group-by", "camra"),
        ("--depth", "lst:2"),
        ("--device", "gpu"),
        ("--out", str(tmp_path)),
    ):
        commands += [[*tune, str(photos), *option]]
    commands += [["evaluate", str(photos)], ["evaluate", str(run), "--dataset", "a", "--data", "b"]]
    commands += [["evaluate", str(run), "--out", str(photos)]]
    commands += [["evaluate", str(STORED_RUN), "--data", "phtos"]]
    commands += [["predict", str(photos), str(photos)], ["predict", str(run), str(tmp_path / "empty")]]
    commands += [["study", str(tmp_path / "study.yaml")]]
    commands += [["compare", *stored[1:], "--heads", "rigde,lda", *new]]
    commands += [["layers-report", *stored[1:], "--layers", "layer9", *new]]
    extract = ["extract", "--store", f"{tmp_path}/new"]
    commands += [[*extract, f"{tmp_path}/phtos", "--model", "random:test_resnet"]]
    commands += [[*extract, str(photos), "--model", "local-dir:none"]]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps([HEAVY, commands]), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "new").exists()
    answers = json.loads(done.stdout)
    for command, (code, said, loaded) in zip(commands, answers, strict=True):
        assert (code, loaded) == (2, []), (command, said)
        assert "error" in said.lower(), command
