"""Help is complete: every option has a heading and a sentence, and no line of a list is cut off."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from toptune.cli import toptune
from toptune.commands.options.help import HEADING, OF_COMMAND, heading_of, sentence_of


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words that call it, groups included."""
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = tuple(commands(toptune))
OPTIONS = [
    pytest.param(option, id=" ".join((*path, option.opts[0])))
    for path, command in ALL
    for option in command.params
    if isinstance(option, click.Option)
]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_a_heading_and_a_sentence(option: click.Option) -> None:
    assert heading_of(option)
    sentence = option.help or ""
    assert sentence[:1].isupper() or sentence.startswith("JSON")
    assert sentence.endswith("."), sentence
    assert len(sentence.split()) > 1


def test_every_heading_is_used() -> None:
    used = {name for _, command in ALL for option in command.params for name in option.opts} | {"--help"}
    assert HEADING.keys() <= used


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*each, id=" ".join(("toptune", *each[0]))) for each in ALL]
)
def test_help_fits_eighty_columns_and_cuts_nothing(path: tuple[str, ...], command: click.Command) -> None:
    shown = CliRunner().invoke(toptune, [*path, "--help"], prog_name="toptune", terminal_width=80)
    assert shown.exit_code == 0, shown.output
    examples = "\n  toptune "
    lines = [line for line in shown.output.splitlines() if not f"\n{line}".startswith(examples)]
    assert max(map(len, lines)) <= 80
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            sentence = sentence_of(inner)
            assert "..." not in sentence
            assert len(sentence.split("\n")) == 1
            assert f"{inner.name} " in shown.output
            assert sentence in " ".join(shown.output.split()), "the list has the first sentence in full"


def test_every_command_is_in_one_section() -> None:
    for _, command in ALL:
        if isinstance(command, click.Group):
            listed = [inner.name for section in command.sections.values() for inner in section]  # type: ignore[attr-defined]
            assert sorted(listed) == sorted(command.commands)


def test_an_option_has_the_heading_of_its_use_in_the_command() -> None:
    extract = toptune.commands["extract"]
    store = next(option for option in extract.params if "--store" in option.opts)
    assert (heading_of(store), heading_of(store, command="extract")) == ("Input", "Output")
    known = {(path[-1], name) for path, command in ALL if path for o in command.params for name in o.opts}
    assert OF_COMMAND.keys() <= known


@pytest.mark.parametrize("name", ["extract", "train", "predict"])
def test_help_ends_with_examples(name: str) -> None:
    shown = CliRunner().invoke(toptune, [name, "--help"], prog_name="toptune", terminal_width=80)
    assert shown.output.splitlines()[-1].startswith(f"  toptune {name} ")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ["finetune", "x", "--in-chans", "5"],
            "No such option '--in-chans' of finetune; extract and jobs slurm have it.",
        ),
        (["store", "ls", "--epochs", "2"], "No such option '--epochs' of store ls; finetune has it."),
        (["extract", "x", "--modle", "y"], "Did you mean"),
        (["store", "ls", "--model", "y"], "No such option '--model'."),
    ],
)
def test_an_option_of_another_command_is_told_by_its_commands(typed: list[str], said: str) -> None:
    shown = CliRunner().invoke(toptune, typed, prog_name="toptune")
    assert shown.exit_code == 2
    assert said in " ".join(shown.output.split())
