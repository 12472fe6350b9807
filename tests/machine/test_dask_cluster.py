"""What is an address of a dask cluster, and what is said where one cannot be had."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toptune.machine.dask_cluster import check_address, local_workers, open_client, this_worker
from toptune.store import InputError


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("nowhere", None, "'nowhere' is no address; give a scheduler's, such as tcp://host:8786, or local:N"),
        ("local:0", None, "'local:0' has no worker; give local:1 or more"),
        ("local:2", {"jobs": 2}, "options are for slurm, pbs, lsf; dask 'local:2' takes none"),
        ("slurm", {"jobs": 0}, "option jobs is 0; it must be a whole number from 1"),
        ("pbs", {"jobs": "many"}, "option jobs is 'many'"),
    ],
)
def test_what_cannot_be_is_refused(address: str, options: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_address(address, options)


def test_what_can_be() -> None:
    for address in ("local:3", "tcp://host:8786", "host:8786", "slurm", "pbs", "lsf"):
        check_address(address)
    check_address("slurm", {"jobs": 4, "cores": 8})
    assert (local_workers("local:3"), local_workers("slurm")) == (3, None)


def test_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InputError, match=r"distributed is not installed; pip install 'toptune\[dask\]'"),
        open_client("local:1"),
    ):
        pass


@pytest.mark.parametrize("system", ["slurm", "pbs", "lsf"])
def test_a_batch_system_needs_dask_jobqueue_and_its_own_program(
    system: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(InputError, match=r"pip install 'toptune\[jobqueue\]'"), open_client(system):
        pass
    monkeypatch.setitem(sys.modules, "dask_jobqueue", object())
    monkeypatch.setenv("PATH", str(tmp_path))
    program = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub"}[system]
    with pytest.raises(InputError, match=f"there is no {program} on this machine"), open_client(system):
        pass


def test_no_scheduler_answers() -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    with (
        pytest.raises(InputError, match="no dask scheduler answers at 'nothing://there'"),
        open_client("nothing://there"),
    ):
        pass


SBATCH = """#!{python}
import os, subprocess, sys
job = subprocess.Popen(["sh", sys.argv[1]], start_new_session=True, stdout=open({log!r}, "a"), stderr=-2)
print("Submitted batch job", job.pid)
"""
SCANCEL = """#!{python}
import os, signal, sys
open({log!r}, "a").write("cancelled " + sys.argv[1] + "\\n")
os.killpg(int(sys.argv[1]), signal.SIGKILL)
"""


def test_jobs_of_a_batch_system_are_submitted_and_canceled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    log = tmp_path / "log"
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text.format(python=sys.executable, log=str(log)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.chdir(tmp_path)
    options = {"jobs": 2, "cores": 1, "memory": "1GB", "interface": "lo"}
    with open_client("slurm", options=options) as client:
        client.wait_for_workers(2, timeout=180)
        workers = client.submit(this_worker, pure=False).result()
        assert workers.threads == 1
    assert log.read_text().count("cancelled") == 2


def test_options_that_dask_jobqueue_does_not_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")

    def refuse(**_: Any) -> None:
        raise ValueError("You must specify how much cores and memory per job you want to use")

    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=refuse))
    with (
        pytest.raises(
            InputError, match=r"'slurm' cannot be used as asked: You must .*--dask-options '{\"jobs"
        ),
        open_client("slurm", options={"jobs": 1}),
    ):
        pass
