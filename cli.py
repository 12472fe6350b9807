"""The `toptune` command: what runs it, and what becomes of failures.

Nothing heavy is imported until a command runs, so that ``toptune --help`` answers at once.
Exit codes: 0 done; 1 failed; 2 wrong usage or bad input; 3 stopped early, the same command resumes;
4 finished, but more images failed than ``--max-failures`` allows.
"""

import io
import json
import logging
import os
import signal
import sys
from typing import NoReturn

import click

from toptune.codes import code_of, with_code, without_code
from toptune.commands import COMMANDS
from toptune.commands.options.help import Group
from toptune.commands.options.ignoring import Ignored
from toptune.commands.options.printing import echo
from toptune.errors import ToptuneError
from toptune.machine.devices import device_logger
from toptune.store.datasets.outside_text import ESCAPES, escaped


@click.group(
    cls=Group,
    sections=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="toptune")
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
def toptune(debug: bool) -> None:
    """Extract the layers of a frozen backbone once, and train classifiers on them in seconds.

    \b
    toptune demo                                    see it work; nothing is downloaded
    toptune extract photos --model resnet50.a1_in1k --store features
    toptune train --store features --dataset photos --model resnet50.a1_in1k --out run
    toptune predict run new-photos
    """  # noqa: D301


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; every failure is one message and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # OpenMP's threads spin while they wait. Where jobs share the cores they then wait for each other:
    # three trainings at once on two cores took 26 s each, and 8 s with threads that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A name that the terminal cannot show is shown with escapes, and stops nothing.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPES)
    # Warnings name files and images of others, as results do.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())
    # A job scheduler's signals stop the work as Ctrl-C does: cleanly, and to be resumed.
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        code = run(arguments)
    except KeyboardInterrupt:
        # A second signal arrived while the first one was being reported.
        code = 3
    raise SystemExit(code)


class _Printable(logging.Formatter):
    """A warning without what would command the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        from toptune.text import printable

        return printable(super().format(record))


class _ChosenDevice(logging.Handler):
    """Says on standard error what ``--device auto`` takes, once: a command may ask for many fits."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text in self._said:
            return
        self._said.add(text)
        if self._as_json and isinstance(record.args, tuple):
            text = json.dumps({"device": record.args[0], "reason": record.args[1]})
        echo(text, err=True)


RESUMING = {"advise", "extract", "finetune", "import", "copy", "compare", "study"}


def run(arguments: list[str]) -> int:
    """Carry out one command; return its exit code."""
    chosen, ignored = _ChosenDevice(as_json="--json-logs" in arguments), Ignored()
    device_logger.addHandler(chosen)
    before = device_logger.level
    device_logger.setLevel(logging.INFO)
    handlers = [each for each in (logging.lastResort, *logging.getLogger().handlers) if each is not None]
    for handler in handlers:
        handler.addFilter(ignored)
    try:
        toptune.main(arguments, prog_name="toptune", standalone_mode=False, obj=ignored)
    except click.ClickException as error:
        error.show()
        message = error.format_message()
        return say_in_json(without_code(message), error.exit_code, arguments, code=code_of(message))
    except (KeyboardInterrupt, click.Abort):
        resumes = "; the same command resumes" if RESUMING & {*arguments[:3]} else ""
        return fail(f"stopped{resumes}", 3, arguments)
    except Exception as error:
        if "--debug" in arguments:
            raise
        return fail(*explain(error), arguments, code=error.code if isinstance(error, ToptuneError) else None)
    finally:
        device_logger.removeHandler(chosen)
        device_logger.setLevel(before)
        for handler in handlers:
            handler.removeFilter(ignored)
        if said := ignored.sentence():
            click.echo(said, err=True)
    return 0


def explain(error: Exception) -> tuple[str, int]:
    """Give the message and the exit code of a failure."""
    from toptune.machine.device_memory import full_memory, is_out_of_memory
    from toptune.store.files.system_errors import told

    if isinstance(error, ToptuneError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        return told(error), 1
    if isinstance(error, MemoryError):
        reason = f" ({error})" if str(error) else ""
        return (
            f"the memory is full{reason}; stop other programs, give less at once, or check whether a file is "
            "what it should be",
            1,
        )
    if is_out_of_memory(error):
        return f"{full_memory(error)}; give less at once, or compute on the CPU (--device cpu)", 1
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return (
            "this system starts no more threads for the process; give fewer --workers, or raise the limit on "
            "processes (ulimit -u, or that of the container)",
            1,
        )
    name = type(error).__name__
    return (
        f"{name}: {error}\nA fault in toptune or around it; toptune --debug COMMAND shows where.",
        1,
    )


def fail(message: str, exit_code: int, arguments: list[str], *, code: str | None = None) -> int:
    """Say what went wrong, on standard error and, with ``--json``, as the one JSON object."""
    echo(f"error: {with_code(message, code) if code else message}", err=True)
    return say_in_json(message, exit_code, arguments, code=code)


def say_in_json(message: str, exit_code: int, arguments: list[str], *, code: str | None = None) -> int:
    """Print an error as the one JSON object, if that was asked for; return its exit code."""
    if "--json" in arguments:
        told = {"error": escaped(message), "exit_code": exit_code} | ({"code": code} if code else {})
        click.echo(json.dumps(told))
    return exit_code


if __name__ == "__main__":
    main()
