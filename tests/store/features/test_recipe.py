"""Recipe: equal means interchangeable, different never collides."""

import pickle
from typing import Any

import pytest
from small_store import make_recipe

from toptune.store import CorruptError, FormatVersionError, InputError, Recipe
from toptune.store.features.recipe import ROUTES

# Changing this value means that no cache ever made is found again.
PINNED = "d79a95bb51d8aa419b8b7b6e03b11637545a3a6c988c7216f3dd52b596219d3e"

CHANGES: list[dict[str, Any]] = [
    {"architecture": "resnet10"},
    {"model_kwargs": {"drop_rate": 0.1}},
    {"weights": "cd" * 32},
    {"transform": {"input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "crop_pct": 0.95}},
    {"decode": "pillow-2"},
    {"precision": "bf16"},
]


def test_digest_is_pinned() -> None:
    assert make_recipe().digest == PINNED


def test_every_field_counts() -> None:
    digests = {make_recipe(**change).digest for change in CHANGES} | {make_recipe().digest}
    assert len(digests) == len(CHANGES) + 1


@pytest.mark.parametrize("change", CHANGES)
def test_round_trip(change: dict[str, Any]) -> None:
    recipe = make_recipe(**change)
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert again.to_json() == recipe.to_json()
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_order_and_sequence_type_do_not_count() -> None:
    one = make_recipe(transform={"mean": (0.5, 0.25), "crop_pct": 1.0})
    other = make_recipe(transform={"crop_pct": 1.0, "mean": [0.5, 0.25]})
    assert one == other
    assert one.digest == other.digest


def test_equality_is_that_of_the_digest() -> None:
    assert make_recipe(model_kwargs={"k": 1}) != make_recipe(model_kwargs={"k": 1.0})
    assert make_recipe() != "a recipe"


def test_recipe_does_not_follow_its_caller() -> None:
    kwargs = {"k": [1]}
    recipe = make_recipe(model_kwargs=kwargs)
    before = recipe.digest
    kwargs["k"].append(2)
    assert recipe.digest == before


def test_differences_are_words() -> None:
    lines = make_recipe().differences(make_recipe(**CHANGES[3]))
    assert lines == ["transform.crop_pct 0.875 against 0.95"]
    assert make_recipe().differences(make_recipe()) == []
    exact, fast = (make_recipe(decode=ROUTES[name]) for name in ("exact", "fast"))
    assert exact.differences(fast) == [
        "decode pillow-rgb-upright-2 (--decode exact) against "
        "pillow-rgb-upright-2+torch-resize-1 (--decode fast)"
    ]


@pytest.mark.parametrize("value", [{"k": float("nan")}, {"k": object()}])
def test_values_that_are_not_json_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="model_kwargs"):
        make_recipe(model_kwargs=value)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"version":1}', '{"version":1,"color":"red"}'])
def test_what_is_no_recipe_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptError):
        Recipe.from_json(text)


def test_newer_version_is_refused() -> None:
    with pytest.raises(FormatVersionError, match=r"version 2.*supports version 1"):
        Recipe.from_json(make_recipe().to_json().replace('"version":1', '"version":2'))
