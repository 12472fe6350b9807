"""Classifiers take an indicator matrix and then are scikit-learn's multilabel classifiers."""

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, log_loss

from toptune.errors import InputError
from toptune.train import FalkonClassifier, NearestMeanClassifier, StreamingRidgeClassifier

X, Y = make_multilabel_classification(n_samples=400, n_classes=4, n_labels=2, random_state=0)
TRAIN, TEST = slice(None, 300), slice(300, None)
CLASSIFIERS = [
    FalkonClassifier(n_centers=60, random_state=0),
    FalkonClassifier(n_centers=60, random_state=0, solver="falkon"),
    StreamingRidgeClassifier(random_state=0),
]


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_labels_are_predicted_by_their_probabilities(classifier: Any) -> None:
    head = clone(classifier).fit(X[TRAIN], Y[TRAIN])
    probabilities = head.predict_proba(X[TEST])
    assert probabilities.shape == (100, 4)
    np.testing.assert_array_equal(head.predict(X[TEST]), probabilities > 0.5)
    np.testing.assert_array_equal(head.decision_function(X[TEST]) > 0, probabilities > 0.5)
    assert average_precision_score(Y[TEST], probabilities) > 0.75
    shares = np.broadcast_to(Y[TRAIN].mean(axis=0), (100, 4))
    of_labels = [
        (log_loss(Y[TEST, at], probabilities[:, at]), log_loss(Y[TEST, at], shares[:, at])) for at in range(4)
    ]
    # Calibrated by left-out rows: surer than the labels' shares are, and with right.
    assert all(found < known for found, known in of_labels)


def test_a_label_is_fitted_as_it_would_be_alone() -> None:
    both = StreamingRidgeClassifier(penalty=1e-2, cv=None).fit(X, Y)
    for label in range(4):
        alone = Ridge(alpha=1e-2 * len(X)).fit(X, Y[:, label])
        np.testing.assert_allclose(both.scores(X)[:, label], alone.predict(X), atol=1e-9)


def test_sparse_and_boolean_matrices_are_taken() -> None:
    dense = StreamingRidgeClassifier(random_state=0).fit(X, Y).predict(X)
    for labels in (csr_array(Y), Y.astype(bool), Y.tolist()):
        np.testing.assert_array_equal(
            StreamingRidgeClassifier(random_state=0).fit(X, labels).predict(X), dense
        )


def test_another_fit_of_one_label_a_row_forgets_the_sigmoids() -> None:
    head = StreamingRidgeClassifier(random_state=0).fit(X, Y).fit(X, Y[:, 0])
    assert head.predict_proba(X).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("classifier", "labels", "told"),
    [
        (StreamingRidgeClassifier(), Y * 2, "holds 2.0, not only 0 and 1"),
        (StreamingRidgeClassifier(), np.where(Y, "a", "b"), "Unknown label type"),
        (StreamingRidgeClassifier(class_weight="balanced"), Y, "class_weight is 'balanced'"),
        (FalkonClassifier(centers="class-balanced"), Y, "no classes to balance"),
        (NearestMeanClassifier(), Y, "NearestMeanClassifier does not know"),
        (
            StreamingRidgeClassifier(),
            np.where(np.arange(4) == 2, np.nan, Y),
            "label 2 is unknown in all 400 rows",
        ),
    ],
)
def test_other_matrices_are_refused(classifier: Any, labels: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        classifier.fit(X, labels)


UNKNOWN = np.random.default_rng(0).random(Y.shape) < [0.3, 0.0, 0.05, 0.6]
PARTLY = np.where(UNKNOWN, np.nan, Y)


@pytest.mark.parametrize(
    "classifier",
    [
        StreamingRidgeClassifier(penalty=1e-2, cv=None),
        StreamingRidgeClassifier(penalty=1e-2, cv=3, random_state=0),
        FalkonClassifier(centers=X[:50], sigma=20.0, penalty=1e-3, cv=3, random_state=0),
    ],
)
def test_a_label_that_is_unknown_has_no_part_in_its_loss(classifier: Any) -> None:
    found = clone(classifier).fit(X, PARTLY).scores(X)
    for label in range(4):
        known = ~UNKNOWN[:, label]
        # Two columns make a matrix of labels; the fit of a label does not depend on the others.
        twice = np.column_stack([Y[known, label], Y[known, label]])
        alone = clone(classifier).fit(X[known], twice)
        np.testing.assert_allclose(found[:, label], alone.scores(X)[:, 0], atol=1e-6)


def test_left_out_scores_and_sigmoids_are_of_the_known_labels() -> None:
    head = FalkonClassifier(n_centers=60, random_state=0).fit(X[TRAIN], PARTLY[TRAIN])
    assert head.left_out_scores_ is not None
    assert head.left_out_scores_.scores.shape == (300, 4)
    probabilities = head.predict_proba(X[TEST])
    assert average_precision_score(Y[TEST], probabilities) > 0.7
    # The labels' shares are those of the known rows, not of all.
    np.testing.assert_allclose(probabilities.mean(axis=0), np.nanmean(PARTLY[TRAIN], axis=0), atol=0.08)
    # Sums in which means stand for what is unknown are kept for no update.
    assert head.sums_ is None


def test_an_iteration_on_unknown_labels_is_refused() -> None:
    with pytest.raises(InputError, match="solver 'falkon' knows all labels"):
        FalkonClassifier(solver="falkon").fit(X, PARTLY)
