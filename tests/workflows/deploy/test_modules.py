"""Torch modules of exported models against the numpy steps and the heads that they stand for."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import make_classification

from toptune.store import ArrayBlocks, InputError
from toptune.train import HEADS, Preprocessing, fit_preprocessing, make_head
from toptune.train.kernels.names import KERNELS
from toptune.train.preprocessing.files import _TYPES
from toptune.train.tasks.task import TargetMatrix
from toptune.workflows.deploy.check import ExportCheck
from toptune.workflows.deploy.exporting import _on_decoding, _on_precision
from toptune.workflows.deploy.head_modules import HeadModule, check_exportable, exportable_heads
from toptune.workflows.deploy.preprocessing_modules import STEP_MODULES, PreprocessingModule
from toptune.workflows.predict.finetuned_network import FineTunedNetwork

Values = npt.NDArray[Any]
DIMS = (3, 5, 2)
SPECS = [
    "none", "standardise", "l2", "power:0.3", "ternary", "pca:0.9", "whiten:4", "l2,standardise",
    "standardise,weigh", "standardise,pca:4,power,l2", "l2,whiten:3,ternary",
]  # fmt: skip


@pytest.fixture
def values() -> Values:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(200, 10)) @ rng.normal(size=(10, 10))
    mixed[3] = 0
    return (mixed * np.logspace(-2, 2, 10)).astype(np.float32)


def preprocessed(preprocessing: Preprocessing, values: Values, dtype: torch.dtype) -> Values:
    result: Values = PreprocessingModule(preprocessing, dtype)(torch.from_numpy(values)).numpy()
    return result


@pytest.mark.parametrize("spec", SPECS)
def test_steps_give_what_the_preprocessing_gives(spec: str, values: Values) -> None:
    # Several backbones add a step of their own; the last spec shows that one has none.
    members = () if spec == SPECS[-1] else ("a", "a", "b")
    labels = [str(each) for each in values[:, 4] > np.median(values[:, 4])]
    fitted = fit_preprocessing(spec, ArrayBlocks(values), DIMS, members=members, labels=labels)[0]
    expected = fitted.apply(values)
    result = preprocessed(fitted, values, torch.float64)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)
    if "ternary" not in spec:
        np.testing.assert_allclose(
            preprocessed(fitted, values, torch.float32), expected, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("spec", ["l2,standardise", "pca:4"])
def test_selected_columns_are_those_of_the_restricted_preprocessing(spec: str, values: Values) -> None:
    fitted = fit_preprocessing(spec, ArrayBlocks(values), DIMS)[0].restricted(np.array([1, 3]))
    inputs = values[:, : fitted.n_inputs]
    np.testing.assert_allclose(
        preprocessed(fitted, inputs, torch.float64), fitted.apply(inputs), rtol=1e-6, atol=1e-6
    )


def test_every_saved_step_has_a_module() -> None:
    assert set(STEP_MODULES) == set(_TYPES.values())


CASES: list[tuple[str, dict[str, Any], int]] = [
    *(("falkon", {"kernel": kernel, "n_centers": 60}, 3) for kernel in KERNELS),
    *((name, {}, n_classes) for name in exportable_heads() for n_classes in (2, 3)),
    ("falkon", {"solver": "falkon"}, 2),
    ("ncm", {"metric": "cosine"}, 3),
    ("ncm", {"metric": "euclidean"}, 3),
    ("knn", {"metric": "euclidean", "n_neighbors": 5}, 3),
    ("knn", {"weights": "uniform", "n_neighbors": 7}, 2),
    ("head2toe", {"final": "logistic", "fraction": 0.6}, 3),
    ("head2toe", {"final": "falkon", "fraction": 0.6}, 3),
]


@pytest.mark.parametrize(("name", "params", "n_classes"), CASES)
def test_softmax_of_logits_are_the_head_s_probabilities(
    name: str, params: dict[str, Any], n_classes: int
) -> None:
    X, y = make_classification(
        260, 8, n_informative=6, n_redundant=0, n_classes=n_classes, class_sep=0.7, random_state=0
    )
    X = X.astype(np.float32)
    head = make_head(name, params=params, cv=3).fit(X[:200], [f"class {code}" for code in y[:200]])
    # Rows that were trained on too: of the same place as centers.
    expected = head.predict_proba(X)
    assert expected.std() > 0.1, "the comparison would show little"
    # Nearest neighbors are searched in float32 where training and prediction are.
    for dtype, tolerance in ((torch.float64, 1e-4 if name == "knn" else 1e-6), (torch.float32, 2e-3)):
        logits = HeadModule(head, dtype)(torch.from_numpy(X))
        assert logits.dtype == dtype
        np.testing.assert_allclose(logits.softmax(dim=1).numpy(), expected, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("falkon", {"n_centers": 60}),
        ("ridge", {}),
        ("knn", {"metric": "euclidean", "n_neighbors": 5}),
        ("knn", {"weights": "similarity", "n_neighbors": 7}),
    ],
)
@pytest.mark.parametrize("ordinal", [False, True])
def test_outputs_are_the_numbers_of_a_regression(name: str, params: dict[str, Any], ordinal: bool) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 8)).astype(np.float32)
    y = np.rint(3 * X[:, :2] + rng.normal(size=(200, 2)))
    targets = TargetMatrix(values=y.astype(np.float64), names=("age", "size"))
    head = make_head(name, params=params, cv=3, task="regression", ordinal=ordinal).fit(X, targets)
    numbers = HeadModule(head, torch.float64)(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(numbers, head.predict_proba(X), atol=1e-4)
    assert bool((numbers == numbers.round()).all()) == ordinal


@pytest.mark.parametrize("name", ["falkon", "ridge", "head2toe"])
def test_sigmoid_of_logits_are_the_probabilities_of_labels(name: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 8)).astype(np.float32)
    y = (X[:, :3] + 0.5 * rng.normal(size=(200, 3)) > 0.3).astype(np.float64)
    targets = TargetMatrix(values=y, names=("blue", "old", "round"))
    head = make_head(name, cv=3, task="multilabel").fit(X, targets)
    logits = HeadModule(head, torch.float64)(torch.from_numpy(X))
    np.testing.assert_allclose(logits.sigmoid().numpy(), head.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("name", ["svm", "forest", "sklearn:sklearn.ensemble.ExtraTreesClassifier"])
def test_other_heads_are_refused_with_those_that_can_be_exported(name: str) -> None:
    assert set(exportable_heads()) == set(HEADS) - {"svm", "forest"}
    with pytest.raises(
        InputError, match=f"head '{name}' cannot be exported.*falkon, falkon-logistic, ridge, logistic"
    ):
        check_exportable(name)


@pytest.mark.parametrize(
    ("precision", "difference", "other_labels", "network", "step"),
    [
        ("fp32", 0.5, 3, SimpleNamespace(), None),
        ("bf16", 0.009, 0, SimpleNamespace(), None),
        ("bf16", 0.01, 0, SimpleNamespace(), "extract again with --precision fp32, train on these features"),
        ("bf16", 0.001, 1, SimpleNamespace(), "extract again with --precision fp32"),
        ("bf16", 0.03, 0, object.__new__(FineTunedNetwork), "fine-tune again with --precision fp32 and"),
    ],
)
def test_a_file_that_differs_from_predict_by_percents_comes_with_advice(
    precision: str, difference: float, other_labels: int, network: Any, step: str | None
) -> None:
    check = ExportCheck(
        data="photos", n_pictures=8, batch_sizes=(1, 2), difference=1e-6,
        difference_from_predict=difference, n_other_labels=other_labels, spread=0.5, doubt=0.5,
    )  # fmt: skip
    classifier: Any = SimpleNamespace(precision=precision, network=network)
    said = _on_precision(classifier, check)
    if precision == "fp32":
        assert said == []
        return
    (line,) = said
    assert f"{difference:.1e} from toptune predict's, {other_labels} of 8 labels do" in line
    if step is None:
        assert "again" not in line
    else:
        assert f"Where file and predict must agree: {step}" in line
        assert "measure both by evaluate --data" in line


def test_notes_on_a_file_of_a_regression_speak_of_numbers() -> None:
    check = ExportCheck(
        data="photos", n_pictures=8, batch_sizes=(1, 2), difference=1e-6, difference_from_predict=0.01,
        n_other_labels=0, spread=0.5, doubt=1.0, what="predictions",
    )  # fmt: skip
    backbone = SimpleNamespace(transform=SimpleNamespace(route="draft 2"))
    classifier: Any = SimpleNamespace(precision="bf16", network=SimpleNamespace(), backbones=[backbone])
    for (line,) in (_on_precision(classifier, check), _on_decoding(classifier, check)):
        assert "numbers differ by up to 1.0e-02 standard deviations of their target" in line
        assert "probabilities" not in line
        assert "label" not in line
