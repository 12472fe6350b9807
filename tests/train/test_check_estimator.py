import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from toptune.train.falkon_classifier import FalkonClassifier


@parametrize_with_checks([FalkonClassifier(n_centers=50)])
@pytest.mark.filterwarnings("ignore::toptune.train.folds.FoldsReducedWarning")
def test_estimators_keep_to_scikit_learns_conventions(estimator, check):
    check(estimator)
