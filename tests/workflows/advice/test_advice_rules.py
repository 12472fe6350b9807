"""The rules of advice: each alone, at its borders, and what more evidence can and cannot turn."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from toptune.store import InputError
from toptune.workflows.advice import evidence as advice_evidence, rules
from toptune.workflows.advice.evidence import Evidence, adjusted_standard_error
from toptune.workflows.advice.rules import (
    CERTAINTIES,
    FROZEN,
    RULES,
    TUNE,
    Share,
    advise_on,
    cost,
    duration,
    few_images,
    headroom,
    remaining_error,
)

SHIPPED = {name: getattr(rules, name) for name in ("SHARE_OF_FEW", "SHARE_OF_NEAR", "SHARE_OF_FAR")}
# The shipped figures are written from studies and change with them; the rules do not.
FEW_IMAGES, FAR_GAIN = 10, 0.03
SHARE_OF_FEW, SHARE_OF_FAR, SHARE_OF_NEAR = (
    Share(-0.5, -0.1, 0.2),
    Share(0.0, 0.4, 0.7),
    Share(-0.2, 0.2, 0.5),
)
LEAST_OF_NEAR = 0.01 / SHARE_OF_NEAR.usual


@pytest.fixture(autouse=True)
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice_evidence, "FAR_GAIN", FAR_GAIN)
    for name in ("FEW_IMAGES", "SHARE_OF_FEW", "SHARE_OF_FAR", "SHARE_OF_NEAR"):
        monkeypatch.setattr(rules, name, globals()[name])


def evidence(**changes: Any) -> Evidence:
    """Plenty of images of ten classes, half of them wrong, inner layers of no use, an hour of tuning."""
    values: dict[str, Any] = {
        "n_train": 5000, "n_classes": 10, "pictures_per_class": 500.0, "last_accuracy": 0.5,
        "inner_accuracy": 0.5, "frozen_seconds": 60.0, "finetune_seconds": (1800.0, 3600.0),
    }  # fmt: skip
    return Evidence(**values | changes)


def test_nothing_is_left_to_gain() -> None:
    sure = advise_on(evidence(last_accuracy=0.999))
    assert (sure.recommendation, sure.rule, sure.certainty, sure.gain) == (FROZEN, "headroom", "high", None)
    assert "0.1 points" in sure.reasons[0]
    # As accurate, but of so few images that it could be much worse.
    few = advise_on(evidence(last_accuracy=1.0, n_train=60, pictures_per_class=FEW_IMAGES))
    assert (few.rule, few.certainty) == ("headroom", "moderate")


def test_headroom_ends_a_standard_error_above_the_margin() -> None:
    def excess(error: float) -> float:
        return error - evidence().margin - adjusted_standard_error(error, 5000)

    border = next(error for error in np.linspace(0.01, 0.03, 20_001) if excess(error) > 0)
    assert headroom(evidence(last_accuracy=1 - border + 1e-5)) is not None
    assert headroom(evidence(last_accuracy=1 - border - 1e-5)) is None


def test_the_standard_error_adds_two_of_each() -> None:
    assert adjusted_standard_error(0.0, 96) == pytest.approx(np.sqrt(0.02 * 0.98 / 100))
    assert adjusted_standard_error(0.3, 10**8) == pytest.approx(np.sqrt(0.3 * 0.7 / 10**8), rel=1e-6)


def test_few_images_stay_frozen() -> None:
    found = advise_on(evidence(pictures_per_class=FEW_IMAGES - 0.5, inner_accuracy=0.7))
    assert (found.recommendation, found.rule) == (FROZEN, "few images")
    shares = (SHARE_OF_FEW.least, SHARE_OF_FEW.usual, SHARE_OF_FEW.most)
    assert found.gain == pytest.approx([share * 0.3 for share in shares])
    assert few_images(evidence(pictures_per_class=FEW_IMAGES)) is None


def test_tuning_that_takes_too_long() -> None:
    found = advise_on(evidence(finetune_limit=1799.0))
    assert (found.recommendation, found.rule, found.certainty) == (FROZEN, "cost", "high")
    assert found.gain is not None
    assert "30 min" in found.reasons[0]
    perhaps = advise_on(evidence(finetune_limit=1800.0))
    assert perhaps.recommendation == TUNE
    assert "may be more than the limit of 30 min" in perhaps.reasons[-2]
    assert cost(evidence(finetune_limit=3600.0)) is None
    assert cost(evidence(finetune_limit=1.0, finetune_seconds=None)) is None


def test_inner_layers_that_add_much_say_what_share_to_expect() -> None:
    found = advise_on(evidence(inner_accuracy=0.5 + FAR_GAIN))
    assert (found.recommendation, found.rule) == (TUNE, "remaining error")
    assert found.gain is not None
    assert found.gain[1] == pytest.approx(SHARE_OF_FAR.usual * (0.5 - FAR_GAIN))
    assert found.reasons[0].startswith("inner layers add 3.0 points to the last one")
    for inner in (0.5 + FAR_GAIN - 1e-6, None):
        near = advise_on(evidence(inner_accuracy=inner))
        assert near.gain is not None
        assert near.gain[1] == pytest.approx(SHARE_OF_NEAR.usual * (1 - (inner or 0.5)))


def test_the_remaining_error_decides_last() -> None:
    below, above = (1 - LEAST_OF_NEAR + step for step in (1e-4, -1e-4))
    for accuracy, expected in ((below, FROZEN), (above, TUNE)):
        found = remaining_error(evidence(last_accuracy=accuracy, inner_accuracy=accuracy))
        assert found is not None
        assert (found.recommendation, found.certainty) == (expected, "low")
    assert advise_on(evidence()).rule == "remaining error"
    # Much less wrong, or much more, and it is surer.
    assert advise_on(evidence(last_accuracy=0.97, inner_accuracy=0.97)).certainty == "moderate"
    assert advise_on(evidence()).certainty == "moderate"


def test_certainty_is_high_where_the_whole_range_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SHARE_OF_NEAR", Share(0.1, 0.2, 0.3))
    assert advise_on(evidence()).certainty == "high"
    # A least gain of 0.1 * 0.12 is above the margin, and that of an error two standard errors lower is not.
    near = evidence(last_accuracy=0.88, inner_accuracy=0.88, n_train=200)
    assert advise_on(near).certainty == "moderate"
    monkeypatch.setattr(rules, "SHARE_OF_NEAR", Share(-0.4, -0.2, 0.01))
    assert (advise_on(evidence()).recommendation, advise_on(evidence()).certainty) == (FROZEN, "high")


def test_what_no_rule_decides_by_is_said_too() -> None:
    first, costs, record = advise_on(evidence(inner_accuracy=None)).reasons[1:]
    assert first.startswith("no head on inner layers was tried")
    assert costs == (
        "fine-tuning would take 30 min to 60 min, 30 to 60 times the 60 s of extraction and the best head"
    )
    assert f"in {rules.N_CASES} studied cases the rules were right {rules.N_RIGHT} times" in record
    assert advise_on(evidence(finetune_seconds=None)).reasons[-1] == "fine-tuning was not timed"


def drawn(rng: np.random.Generator) -> Evidence:
    accuracy = rng.uniform(0.4, 1)
    return evidence(
        n_train=int(rng.integers(20, 20_000)),
        pictures_per_class=float(rng.choice([5, 20, 200])),
        last_accuracy=accuracy,
        inner_accuracy=None if rng.random() < 0.2 else min(1.0, accuracy + rng.uniform(-0.05, 0.1)),
        finetune_limit=None if rng.random() < 0.5 else 1000.0,
        margin=float(rng.choice([0.0, 0.01, 0.05])),
    )


def test_more_to_gain_never_turns_the_advice_to_staying_frozen() -> None:
    rng, n_turned = np.random.default_rng(0), 0
    for _ in range(2000):
        less = drawn(rng)
        drop = rng.uniform(0, 0.3)
        more = replace(
            less,
            last_accuracy=less.last_accuracy - drop,
            inner_accuracy=None if less.inner_accuracy is None else less.inner_accuracy - drop,
        )
        before, after = advise_on(less).recommendation, advise_on(more).recommendation
        assert not (before == TUNE and after == FROZEN), (less, more)
        n_turned += before != after
    assert n_turned > 50


@pytest.mark.parametrize("change", ["margin", "few images", "limit"])
def test_what_speaks_against_tuning_never_turns_the_advice_to_it(change: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(1000):
        before = drawn(rng)
        changes: dict[str, Any] = {
            "margin": {"margin": before.margin + rng.uniform(0, 0.1)},
            "few images": {"pictures_per_class": before.pictures_per_class * rng.uniform(0.01, 1)},
            "limit": {"finetune_limit": 1.0},
        }[change]
        after = replace(before, **changes)
        assert not (advise_on(before).recommendation == FROZEN and advise_on(after).recommendation == TUNE)


def test_every_evidence_gets_one_advice_with_reasons() -> None:
    rng = np.random.default_rng(2)
    names = set()
    for _ in range(500):
        found = advise_on(drawn(rng))
        names.add(found.rule)
        assert found.recommendation in (FROZEN, TUNE)
        assert found.certainty in CERTAINTIES
        assert len(found.reasons) >= 2
        assert found.to_dict()["reasons"] == list(found.reasons)
    assert len(names) == len(RULES)


def test_shipped_shares_are_in_order() -> None:
    for share in SHIPPED.values():
        assert share.least <= share.usual <= share.most <= 1


@pytest.mark.parametrize("change", [{"last_accuracy": 1.2}, {"margin": -0.1}, {"n_train": 0}])
def test_impossible_evidence_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        evidence(**change)


def test_times_for_people() -> None:
    assert [duration(each) for each in (0.84, 35.2, 99.7, 720, 12_600)] == [
        "0.8 s", "35 s", "100 s", "12 min", "3.5 h",
    ]  # fmt: skip
