import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from toptune.cli import toptune
from toptune.commands.options.parsing import parse_layers
from toptune.errors import InputError
from toptune.train.runs.options import TrainOptions


@pytest.mark.parametrize(
    ("options", "models", "message"),
    [
        ({}, {}, "neither model nor models are given; give model, or models"),
        ({}, {"model": "a", "models": ["b"]}, "both model and models are given"),
        ({}, {"models": "a"}, "models is 'a'; give a list"),
        ({}, {"models": []}, "models names no model; give at least 1"),
        ({}, {"models": ["a", "b", "a"]}, "model 'a' is given 2 times; give it once"),
        ({"fusion": "late"}, {"model": "a"}, "fusion is 'late' with the one model 'a'; name at least 2"),
        ({"fusion": "join"}, {"models": ["a"]}, "fusion is 'join' with the one model 'a'"),
        ({"layers": {"resnt": "all"}}, {"models": ["resnet", "vit"]}, "layers names model 'resnt'.*'resnet'"),
    ],
)
def test_models_that_cannot_be_meant_are_refused(
    options: dict[str, Any], models: dict[str, Any], message: str
) -> None:
    of_model = TrainOptions(**options)
    with pytest.raises(InputError, match=message):
        of_model.check_models(**{"model": None, "models": None} | models)


def test_a_misspelled_fusion_is_refused() -> None:
    with pytest.raises(InputError, match="fusion 'lat' is unknown; did you mean 'late'"):
        TrainOptions(fusion="lat")


def test_each_model_has_its_own_layers() -> None:
    options = TrainOptions(layers={"a": "all", "*": "blocks.*"})
    assert options.check_models(None, ["a", "b"]) == ("a", "b")
    assert [options.for_model(name).layers for name in ("a", "b")] == ["all", "blocks.*"]
    assert [TrainOptions(layers="auto").for_model(name).layers for name in ("a", "b")] == ["auto", "auto"]
    # A model that neither its name nor the star gives layers has the default.
    assert TrainOptions(layers={"a": "all"}).for_model("b").layers is None


@pytest.mark.parametrize(
    ("typed", "layers"),
    [
        ((), None),
        (("all",), "all"),
        (("a=all",), {"a": "all"}),
        (("last", "local-dir:x=y=all"), {"*": "last", "local-dir:x=y": "all"}),
    ],
)
def test_layers_are_typed_for_all_models_or_for_one(typed: tuple[str, ...], layers: object) -> None:
    assert parse_layers(*_context(), typed) == layers


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("all", "last"), "of all models are given twice, as 'all' and 'last'"),
        (("a=all", "a=last"), "of model a are given twice, as 'all' and 'last'"),
    ],
)
def test_layers_are_typed_once(typed: tuple[str, ...], message: str) -> None:
    with pytest.raises(click.BadParameter, match=re.escape(message)):
        parse_layers(*_context(), typed)


def test_an_update_keeps_its_models(tmp_path: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    words = ["train", "--store", str(tmp_path), "--update", str(tmp_path / "run"), "--out", "new"]
    done = CliRunner().invoke(toptune, [*words, "--model", "a"])
    assert done.exit_code == 2
    assert "--model has no meaning with --update" in done.output


def _context() -> tuple[click.Context, click.Parameter]:
    return click.Context(click.Command("train")), click.Option(["--layers"])


def test_advice_on_several_models_is_refused_with_what_answers(tmp_path: Path) -> None:
    words = ["advise", "digits", "--store", str(tmp_path / "s"), "--model", "a", "--model", "b"]
    result = CliRunner().invoke(toptune, words)
    assert result.exit_code == 2
    assert "2 models are given (a, b)" in result.stderr
    assert "advise on each by itself" in result.stderr
    assert not (tmp_path / "s").exists()
