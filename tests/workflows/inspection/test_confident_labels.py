"""Confident learning counts as the paper does, and the spacing of neighbors follows its law."""

import numpy as np
import pytest

from toptune.train.rows.groups import components
from toptune.workflows.inspection.duplicates import Spacing, equal_pairs, members
from toptune.workflows.inspection.images import modified_z
from toptune.workflows.inspection.labels import confident_labels, confused_classes
from toptune.workflows.inspection.neighbors import Neighbors


def test_the_confident_joint_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    n, n_classes = 300, 4
    codes = rng.integers(0, n_classes - 1, n)  # the last class is given to nobody
    logits = rng.normal(size=(n, n_classes)) + np.eye(n_classes)[codes]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = confident_labels(probabilities.astype(np.float32), codes)
    # The definitions of eq. 1 to 3, row by row.
    thresholds = [probabilities[codes == j, j].mean() if (codes == j).any() else np.inf for j in range(4)]
    joint = np.zeros((n_classes, n_classes))
    for row in range(n):
        reached = [j for j in range(n_classes) if probabilities[row, j] >= thresholds[j]]
        best = max(reached, key=lambda j: probabilities[row, j]) if reached else -1
        assert found.joint[row] == best
        if reached:
            joint[codes[row], best] += 1
    # As many labels are told as lie off the diagonal, and these are the least likely ones.
    assert found.is_issue.sum() == int(joint.sum() - np.trace(joint)) > 10
    doubtful = probabilities.argmax(axis=1) != codes
    own = probabilities[np.arange(n), codes]
    assert doubtful[found.is_issue].all()
    assert own[found.is_issue].max() <= own[doubtful & ~found.is_issue].min()
    sums = joint.sum(axis=1, keepdims=True)
    sizes = np.bincount(codes, minlength=n_classes)[:, None]
    shares = np.divide(joint, sums, out=np.zeros_like(joint), where=sums > 0) * sizes / n
    names = np.array(list("abcd"))
    told = confused_classes(found, codes, names, most=100)
    assert [each.share for each in told] == sorted((each.share for each in told), reverse=True)
    for each in told:
        place = (ord(each.given) - 97, ord(each.suggested) - 97)
        assert each.share == pytest.approx(shares[place])
        assert each.n_rows == joint[place]
    assert len(told) == int((joint > 0).sum() - (np.diag(joint) > 0).sum())


@pytest.mark.parametrize("dimension", [3, 12])
def test_the_false_alarms_are_those_that_were_asked_for(dimension: int) -> None:
    # Distances to ten neighbors in a Poisson process: volumes are sums of exponential variables.
    rng = np.random.default_rng(1)
    volumes = np.cumsum(rng.exponential(size=(20_000, 10)), axis=1)
    distances = 0.1 * volumes ** (1 / dimension)
    neighbors = Neighbors(
        cosines=(1 - distances**2 / 2).astype(np.float32), rows=np.zeros(distances.shape, dtype=np.int64)
    )
    spacing = Spacing.of(neighbors, false_alarms=0.01)
    assert spacing.dimension == pytest.approx(dimension, rel=0.05)
    alarms = distances[:, 0] / distances[:, -1] <= spacing.ratio
    assert 0.007 < alarms.mean() < 0.013


def test_equal_bytes_are_joined_and_unread_images_are_not() -> None:
    digests = np.zeros((6, 32), dtype=np.uint8)
    digests[[0, 2, 5]] = 7
    digests[1, 0] = 1
    known = np.array([True, True, True, True, True, True])
    found = members(components(equal_pairs(digests, known), 6))
    assert [rows.tolist() for rows in found] == [[0, 2, 5]]
    assert equal_pairs(digests, ~known).shape == (0, 2)


def test_a_modified_score_looks_at_one_side() -> None:
    values = np.array([10.0, 10, 10, 10, 10, 10, 10, 11, 12, 60, -500])
    scores = modified_z(values, least=5.0)
    assert scores[9] > 3.5
    assert not scores[np.arange(11) != 9].any()
