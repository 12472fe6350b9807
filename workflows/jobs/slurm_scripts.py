"""Batch scripts are filled in here: values go in, and bash comes out."""

import re
import shlex
from collections.abc import Mapping, Sequence

from toptune.errors import InputError
from toptune.workflows.jobs.slurm_plan import END_SECONDS, SlurmPlan, clock

# A task that never finishes a unit must not be requeued for ever.
MAX_RESTARTS = 20
# Slurm sends its signal this long before the end. The grace time of the extraction is shorter, so that the
# script still has time to put the task back into the queue.
SIGNAL_SECONDS = 60
GRACE_SECONDS = 30

EXTRACT = """\
{head}
# Made by `toptune jobs slurm`.
{comments}
cd -- {folder} || exit 1
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-{cpus}}}"

# bash passes no signal on by itself: through this they reach the extraction, which finishes or gives up the
# unit at hand and exits with 3. USR1 announces the end of the time; TERM is scancel or preemption.
pid=
signalled=
ended=
# shellcheck disable=SC2317  # the traps call it
pass_on() {{
    signalled=yes
    [ -z "$pid" ] || kill -s USR1 "$pid" 2>/dev/null
}}
trap pass_on USR1
trap 'ended=yes; pass_on' TERM

{command} &
pid=$!
signalled=yes
while [ -n "$signalled" ]; do
    # A signal ends the waiting, not the extraction: wait once more.
    signalled=
    wait "$pid"
    code=$?
done

case "$code" in
3 | 138)
    # Stopped early, or signaled before it could listen: back into the queue, to go on with what is missing;
    # but not if Slurm ended it, which puts it back by itself if that is meant.
    if [ -z "$ended" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_restarts} ]; then
        if scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"; then
            # Slurm ends this script now. Ending by itself could be taken for the end of the task.
            trap - TERM
            sleep {end_seconds}
        else
            echo "cannot be put back into the queue; submit this script again to go on" >&2
        fi
    fi
    ;;
esac
exit "$code"
"""

TRAIN = """\
{head}
# Made by `toptune jobs slurm`.
cd -- {folder} || exit 1
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-{cpus}}}"

{verify}
code=$?
# 3 is incomplete, which may be another data set: training refuses if it is this one.
if [ "$code" -ne 0 ] && [ "$code" -ne 3 ]; then
    echo "the store is not as it should be; see toptune store repair" >&2
    exit "$code"
fi
if [ -e {run} ]; then
    echo "trained already:" {run}
    exit 0
fi
{command}
code=$?
if [ "$code" -ne 0 ]; then
    echo "not trained; if units are missing, submit {name} again, and then this" >&2
fi
exit "$code"
"""

SUBMIT = """\
#!/bin/bash
# Made by `toptune jobs slurm`: submits the extraction, and the training for when that has ended.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
extract=$(sbatch --parsable "$here/extract.sbatch")
echo "extract ${extract%%;*}"
"""
# ``afterany`` and not ``afterok``: a task that failed on a few images must not keep the training from being
# tried, and the training itself checks whether units are missing.
SUBMIT_TRAIN = """\
train=$(sbatch --parsable --dependency="afterany:${extract%%;*}" "$here/train.sbatch")
echo "train ${train%%;*}"
"""


def extract_script(
    plan: SlurmPlan, options: Mapping[str, str | None], *, command: Sequence[str], folder: str, cpus: int
) -> str:
    """Write the array job that extracts.

    Parameters
    ----------
    plan : SlurmPlan
        Number of tasks, time and memory.
    options : mapping of str to str or None
        Options of sbatch beside those that the plan decides; None for an option without a value.
    command : sequence of str
        ``toptune extract ...``, without the options that belong to jobs.
    folder : str
        Folder that relative paths start from.
    cpus : int
        Number of processor cores of one task.
    """
    own = {
        "array": f"0-{plan.tasks - 1}",
        "time": clock(plan.time_seconds),
        "mem": f"{plan.memory_bytes // 2**20}M",
        "cpus-per-task": str(cpus),
        "signal": f"B:USR1@{SIGNAL_SECONDS}",
    }
    # The number of shards is written into the script, and not read from the array, so that a part of the
    # array can be submitted again.
    words = [
        *command,
        "--shard",
        f"auto/{plan.tasks}",
        "--grace",
        str(GRACE_SECONDS),
        "--time-limit",
        str(plan.time_seconds - END_SECONDS),
        "--json-logs",
    ]
    return EXTRACT.format(
        head=_head({**own, **options}),
        comments="\n".join(f"# {one_line(line)}" for line in plan.lines()),
        folder=shlex.quote(folder),
        cpus=cpus,
        command=_command(words),
        max_restarts=MAX_RESTARTS,
        end_seconds=END_SECONDS,
    )


def train_script(
    options: Mapping[str, str | None],
    *,
    verify: Sequence[str],
    command: Sequence[str],
    run: str,
    folder: str,
    cpus: int,
) -> str:
    """Write the job that checks the store and trains."""
    return TRAIN.format(
        head=_head({"cpus-per-task": str(cpus), **options}),
        folder=shlex.quote(folder),
        cpus=cpus,
        verify=_command(verify),
        run=shlex.quote(run),
        command=_command(command),
        name="extract.sbatch",
    )


def submit_script(*, with_training: bool) -> str:
    """Write the script that submits the other scripts of its folder, wherever the folder lies."""
    return SUBMIT + (SUBMIT_TRAIN if with_training else "")


def one_line(text: str) -> str:
    """Replace characters that cannot stand in a comment or in the name of a job."""
    return re.sub(r"[^\x20-\x7e]", "?", text)


def log_pattern(path: str) -> str:
    """Escape a path for ``--output``, where a percent sign and a backslash mean something."""
    if "\\" in path:
        raise InputError(
            f"{path!r}: sbatch cannot write logs below a path with a backslash; give another --out"
        )
    return path.replace("%", "%%")


def _head(options: Mapping[str, str | None]) -> str:
    """Write the options of sbatch as the first lines of a script."""
    lines = ["#!/bin/bash"]
    for name, value in options.items():
        # sbatch reads these lines itself and knows no escapes: a quote or a line break would end the value.
        if value is not None and re.search(r"[\x00-\x1f\x7f\"]", value):
            raise InputError(f"--{name} {value!r} cannot stand in a line of a batch script")
        shown = value if value is None or re.fullmatch(r"[\w@%+=:,./-]*", value) else f'"{value}"'
        lines.append(f"#SBATCH --{name}" + ("" if shown is None else f"={shown}"))
    return "\n".join(lines)


def _command(words: Sequence[str]) -> str:
    """Quote a command for bash, one option on each line."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n    ".join(" ".join(line) for line in lines if line)
