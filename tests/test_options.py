"""Frozen values of options made from keyword arguments."""

import dataclasses
import importlib
import inspect
from typing import get_type_hints, is_typeddict

import pytest
from house import ROOT, sources

from toptune.machine.limits import RunLimits
from toptune.options import check_choice, choices, flat_options, nearest, option_names, options_of
from toptune.store import InputError
from toptune.train.rows.options import RowOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Both:
    """Options of two rooms and one of its own."""

    rows: RowOptions
    limits: RunLimits
    name: str = "x"


def test_flat_keywords_make_nested_values_and_come_back() -> None:
    made = options_of(Both, {"seed": 3, "memory_limit": "1GiB", "name": "y"}, call="both")
    assert (made.rows.seed, made.limits.memory_limit_bytes, made.name) == (3, 2**30, "y")
    flat = flat_options(made)
    assert list(flat) == option_names(Both)
    assert options_of(Both, flat, call="both") == made


def test_a_misspelled_keyword_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"both has no option 'sed'; did you mean 'seed'\?"):
        options_of(Both, {"sed": 3}, call="both")
    with pytest.raises(InputError, match="both has no option 'zzzz'; choose among allow_failed, answer_by"):
        options_of(Both, {"zzzz": 3}, call="both")


def test_values_are_checked_when_they_are_made() -> None:
    with pytest.raises(InputError, match="2 apples"):
        options_of(Both, {"memory_limit": "2 apples"}, call="both")


def keyword_types() -> list[tuple[type, type]]:
    """Each ``...Arguments`` of the package with the dataclass of options that stands in the same file."""
    pairs = []
    for path in sources():
        if "Arguments(" not in path.read_text(encoding="utf-8"):
            continue
        module = importlib.import_module("toptune." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
        own = [v for v in vars(module).values() if inspect.isclass(v) and v.__module__ == module.__name__]
        typed = [each for each in own if is_typeddict(each) and each.__name__.endswith("Arguments")]
        values = [each for each in own if dataclasses.is_dataclass(each)]
        stem = {each.__name__.removesuffix("Arguments"): each for each in typed}
        for value in values:
            for name, arguments in stem.items():
                if value.__name__ in (f"{name}Options", f"Run{name}s", f"{name}Spec"):
                    pairs.append((arguments, value))
        assert len([pair for pair in pairs if pair[0] in typed]) == len(typed), f"{path}: one without a value"
    return pairs


@pytest.mark.parametrize(("arguments", "value"), keyword_types(), ids=lambda each: each.__name__)
def test_typed_keywords_are_the_fields(arguments: type, value: type) -> None:
    assert sorted(get_type_hints(arguments)) == sorted(option_names(value))
    types = get_type_hints(value)
    for name, hint in get_type_hints(arguments).items():
        # A nested value may have the name of one of its fields: `TrainOptions.head` holds `HeadOptions.head`.
        own = types.get(name, hint)
        assert own == hint or dataclasses.is_dataclass(own), f"{arguments.__name__}.{name}"


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("rbf", ["gaussian", "linear"], "gaussian"),
        ("RBF", ["svm", "knn"], "svm"),
        ("Gaussian", ["gaussian", "linear"], "gaussian"),
        ("k-NN", ["ridge", "knn"], "knn"),
        ("logistic_regression", ["ridge", "logistic"], "logistic"),
        ("bfloat16", ["fp32", "bf16"], "bf16"),
        ("resnet50", ["vit", "resnet50.a1_in1k"], "resnet50.a1_in1k"),
        ("validation", ["train", "val", "test"], "val"),
    ],
)
def test_the_nearest_name_is_found(given: str, known: list[str], meant: str) -> None:
    assert nearest(given, known)[0] == meant


def test_a_word_that_is_like_no_name_gets_all_names() -> None:
    assert nearest("zzzz", ["gaussian", "linear"]) == []
    assert choices("zzzz", ["gaussian", "linear"]) == "choose one of gaussian, linear"
    assert choices("zzzz", []) == "there are none"
    assert choices("zzzz", map(str, range(30))).endswith("18, 19 and 10 more")
    with pytest.raises(InputError) as refused:
        check_choice("zzzz", ["a"], option="kernel")
    assert refused.value.option == "kernel"
