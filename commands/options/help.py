"""Commands that show options under headings, take each once, and name the option whose value is wrong."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from toptune.codes import with_code
from toptune.commands.options.ignoring import ignore_option
from toptune.errors import ToptuneError
from toptune.options import choices

# Options of one name have one heading in every command, so that a reader finds an option in the same place
# everywhere. The order of the headings is the order of `--help`.
HEADINGS: Mapping[str, str] = {
    "Input": (
        "store run dataset dataset-version data id split path-column label-column table ids labels splits "
        "arrays"
    ),
    "Model": (
        "model fusion weights img-size mean std crop-pct interpolation decode in-chans bands scale "
        "model-kwargs"
    ),
    "Layers": "layers pooling preprocess short-list search-rows",
    "Head": (
        "head heads best budget kernel penalty sigma centers solver class-weight cv threshold ordinal params"
    ),
    "Training rows": (
        "task target drop-missing test-fraction resplit val group-by exclude relabel-with keep-together "
        "shots train-size skip-failed seed seeds leak"
    ),
    "Fine-tuning": (
        "depth optimizer learning-rate weight-decay epochs min-epochs patience warmup-epochs clip-grad "
        "label-smoothing augment crop-scale validation-fraction refit finetune finetune-limit margin"
    ),
    "Answers": "coverage novelty abstain-above prior class-tree back-off answer-by answer-from ood",
    "Findings": "k neighbors exact-up-to false-alarms outliers fail-on map",
    "Updates": "update forget keep-sums rehash overwrite",
    "Slurm": "jobs time mem partition cpus gpus sbatch images-per-second train train-time no-train submit",
    "Output": (
        "out format top dtype head-dtype normalize check tolerance probabilities spreadsheet-safe title json "
        "json-logs verbose ignore dry-run private message"
    ),
    "Removal": "older-than keep move yes",
    "Performance": (
        "device precision batch-size workers fold compile cache-memory memory-limit shard dask dask-options "
        "profile"
    ),
    "Advanced": "time-limit grace max-failures max-pixels deep",
    "Help": "help version debug",
}
# Some commands use an option of that name for another purpose.
OF_COMMAND: Mapping[tuple[str, str], str] = {
    ("extract", "--store"): "Output",
    ("advise", "--cv"): "Training rows",
    ("inspect", "--cv"): "Findings",
    ("advise", "--budget"): "Performance",
}
HEADING = {f"--{name}": heading for heading, names in HEADINGS.items() for name in names.split()}
# click would write "INTEGER RANGE", which says less than a letter does; the bounds follow the sentence.
_METAVARS = ((click.types.IntParamType, "N"), (click.types.FloatParamType, "X"))


class Choice(click.Choice[str]):
    """A choice among names that says which one a misspelled name may mean."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return the message for a value that is none of the names."""
        del ctx
        return f"{value!r} is unknown; {choices(str(value), self.choices)}."


# An option that more commands have says nothing about where it belongs.
_FEW = 3


class GivenOnce(click.Command):
    """A command that refuses an option given twice, of which click would take the last one silently.

    Every command has the option ``--ignore``.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(ignore_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments after each option was found once, a flag and its opposite counted together."""
        if not ctx.resilient_parsing:
            # click tells the order of the options and forgets the values that later ones replace.
            try:
                _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            except click.NoSuchOption as error:
                raise _known_elsewhere(error, ctx) from error
            for option, times in Counter(order).items():
                if isinstance(option, click.Option) and times > 1 and not (option.multiple or option.count):
                    names = "/".join([*option.opts, *option.secondary_opts])
                    raise click.UsageError(f"{names} is given {times} times; {_once(option)}", ctx=ctx)
        return super().parse_args(ctx, args)


def _known_elsewhere(error: click.NoSuchOption, ctx: click.Context) -> click.NoSuchOption:
    """Say which commands have an option that this one lacks, where few have it."""
    having = [
        name
        for name, command in _all_commands(ctx.find_root().command)
        if any(error.option_name in (*each.opts, *each.secondary_opts) for each in command.params)
    ]
    if not 0 < len(having) <= _FEW:
        return error
    place = ctx.command_path.partition(" ")[2]
    return click.NoSuchOption(
        error.option_name,
        f"No such option {error.option_name!r} of {place}; {' and '.join(having)} "
        f"{'has' if len(having) == 1 else 'have'} it.",
        ctx=ctx,
    )


def _all_commands(command: click.Command, place: str = "") -> Iterator[tuple[str, click.Command]]:
    """List the commands of a group with their names, those of groups within it too."""
    for name, each in getattr(command, "commands", {}).items():
        yield f"{place}{name}", each
        yield from _all_commands(each, f"{place}{name} ")


def _once(option: click.Option) -> str:
    if option.is_flag:
        has_several = len(option.opts) + len(option.secondary_opts) > 1
        return "give it once, or one of its names" if has_several else "give it once"
    # Help says of each option whether it takes several values, and that commas stand between them.
    if "with commas" in (option.help or ""):
        return "give it once, several values with commas between them"
    return "it takes one value: give it once, and run the command for each value"


class Command(GivenOnce):
    """A command whose ``--help`` lists its options under headings."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            for kind, metavar in _METAVARS:
                if isinstance(parameter.type, kind) and parameter.metavar is None:
                    parameter.metavar = metavar

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of a value that was typed is told as the error of its option."""
        try:
            return super().invoke(ctx)
        except ToptuneError as error:
            option = self._typed(ctx, error.option)
            if option is None or ctx.find_root().params.get("debug"):
                raise
            raise click.BadParameter(with_code(str(error), error.code), ctx=ctx, param=option) from error

    def _typed(self, ctx: click.Context, keyword: str | None) -> click.Parameter | None:
        """Return the parameter of a keyword of the library if its value was typed, not a default."""
        typed = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
        for parameter in self.params:
            names = (parameter.name, *(name.lstrip("-").replace("-", "_") for name in parameter.opts))
            if keyword in names and ctx.get_parameter_source(str(parameter.name)) in typed:
                return parameter
        return None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading that has options."""
        records: dict[str, list[tuple[str, str]]] = {heading: [] for heading in HEADINGS}
        for parameter in self.get_params(ctx):
            # Arguments are explained in the text of the command.
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                records[heading_of(parameter, command=self.name or "")].append(record)
        for heading, listed in records.items():
            if listed:
                with formatter.section(heading):
                    formatter.write_dl(listed)


class Group(GivenOnce, click.Group):
    """A group of commands whose ``--help`` lists them in sections, with their first sentences in full.

    Parameters
    ----------
    sections : mapping of str to sequence of click.Command
        Heading of each section, and its commands in the order to be listed.
    """

    command_class = Command

    def __init__(
        self, *arguments: Any, sections: Mapping[str, Sequence[click.Command]], **options: Any
    ) -> None:
        options["commands"] = [command for section in sections.values() for command in section]
        super().__init__(*arguments, **options)
        self.sections = sections

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections with whole sentences, which click would cut to a width."""
        del ctx
        for heading, commands in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(str(command.name), sentence_of(command)) for command in commands])


def heading_of(parameter: click.Parameter, *, command: str = "") -> str:
    """Return the heading of an option in a command.

    Raises
    ------
    KeyError
        If `HEADINGS` does not have the option.
    """
    for name in parameter.opts:
        if (command, name) in OF_COMMAND:
            return OF_COMMAND[command, name]
    return next(HEADING[name] for name in parameter.opts if name in HEADING)


def examples(*lines: str) -> str:
    """Return the epilog of a command with example lines, which click leaves unwrapped."""
    return "\b\n" + "\n".join(lines)


def sentence_of(command: click.Command) -> str:
    """Return the first sentence of a command's help."""
    return command.get_short_help_str(limit=1000)
