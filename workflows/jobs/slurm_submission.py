"""`submit_slurm_jobs` gives the scripts that were written to sbatch."""

import shutil
import subprocess
from dataclasses import replace

from toptune.errors import InputError
from toptune.workflows.jobs.slurm_jobs import SlurmJobs


def submit_slurm_jobs(jobs: SlurmJobs) -> SlurmJobs:
    """Submit the scripts that were written, and return the jobs with their numbers.

    Raises
    ------
    InputError
        If sbatch is not there, or refuses the scripts.
    """
    check_sbatch()
    done = subprocess.run(  # noqa: S603  (the script just written)
        ["bash", f"{jobs.out}/submit.sh"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    ids = dict(line.split() for line in done.stdout.splitlines())
    # The extraction may have been submitted before the training was refused, and goes on: the message names
    # it.
    if done.returncode:
        taken = f" (submitted: {', '.join(map(' '.join, ids.items()))})" if ids else ""
        raise InputError(
            f"sbatch refuses the scripts in {jobs.out}{taken}: {done.stderr.strip()}; change the options, or "
            "the scripts, and submit again"
        )
    return replace(jobs, ids=ids)


def check_sbatch() -> None:
    """Raise an `InputError` where there is no sbatch."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "--submit: there is no sbatch on the PATH; leave --submit out, and run the submit.sh that is "
            "written where Slurm is"
        )
