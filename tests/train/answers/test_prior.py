"""Other class frequencies: read from files, refused where they are none, and believed by Bayes' rule."""

from pathlib import Path

import numpy as np
import pytest

from toptune.errors import InputError
from toptune.train.answers.prior import read_prior, trained_prior, with_prior

CLASSES = ["cat", "dog"]


@pytest.mark.parametrize(
    "text",
    ["cat,3\ndog,1\n", "class,prior\ncat,0.75\ndog,0.25\n", '{"dog": 25, "cat": 75}', "dog;1\ncat;3\n"],
)
def test_counts_and_shares_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "prior.csv").write_text(text)
    assert read_prior(tmp_path / "prior.csv", CLASSES).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cat,1\n", r"lacks 1 class of the 2 of the run: 'dog'; give each a frequency"),
        ("cat,1\ndog,1\ncow,1\n", r"names class 'cow', which the run does not have; "),
        ("cat,1\ndog,1\ncat,2\n", r"names class 'cat' twice"),
        ("cat,1\ndog,-1\n", r"gives class 'dog' the frequency '-1'; give a number from 0 on"),
        ("cat,1\ndog,nan\n", r"gives class 'dog' the frequency 'nan'"),
        ("cat,1\ndog,many\n", r"gives class 'dog' the frequency 'many'"),
        ("cat,0\ndog,0\n", r"gives every class the frequency 0"),
        ('{"cat": true, "dog": 1}', r"has True for 'cat'"),
    ],
)
def test_what_is_no_prior_is_told(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "prior.csv").write_text(text)
    with pytest.raises(InputError, match=told) as raised:
        read_prior(tmp_path / "prior.csv", CLASSES)
    assert raised.value.option == "prior"


def test_a_prior_corrects_probabilities_by_the_rule_of_bayes() -> None:
    # One measurement of two normal classes, trained as 1 to 1 and used as 9 to 1.
    x = np.linspace(-3, 3, 50)
    likelihood = np.stack([np.exp(-((x - 1) ** 2) / 2), np.exp(-((x + 1) ** 2) / 2)], axis=1)
    trained = likelihood / likelihood.sum(axis=1, keepdims=True)
    expected = likelihood * [0.9, 0.1]
    expected /= expected.sum(axis=1, keepdims=True)
    found = with_prior(trained, trained=np.array([0.5, 0.5]), given=np.array([0.9, 0.1]))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    certain = with_prior(np.array([[1.0, 0.0]]), trained=np.array([0.5, 0.5]), given=np.array([0.0, 1.0]))
    assert certain.tolist() == [[0, 1]]


def test_balanced_weights_train_with_equal_frequencies() -> None:
    assert trained_prior({"cat": 3, "dog": 1}, class_weight=None).tolist() == [0.75, 0.25]
    assert trained_prior({"cat": 3, "dog": 1}, class_weight="balanced").tolist() == [0.5, 0.5]
