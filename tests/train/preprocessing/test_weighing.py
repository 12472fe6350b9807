"""Weights of layers: learned by rows that are left out, and used by the kernel heads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad

from toptune.store import ArrayBlocks, FeatureCache, InputError
from toptune.train import Run, fit_preprocessing, train
from toptune.train.preprocessing.steps import Weigh
from toptune.train.preprocessing.weighing import _LeftOutLoss, learn_layer_weights, weighed_rows

Build = Callable[..., FeatureCache]
OPTIONS: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 3}


def drawn(n: int = 40, *, seed: int = 0) -> tuple[Any, Any]:
    """Rows whose first layer, of three columns, tells two classes apart; the second, of four, is noise."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 2
    return np.hstack([rng.normal(size=(n, 3)) + 1.5 * codes[:, None], 3 * rng.normal(size=(n, 4))]), codes


def test_the_loss_is_that_of_fits_without_each_row() -> None:
    values, codes = drawn(12)
    parts = np.split(values, [3], axis=1)
    distances = np.stack([((part[:, None] - part[None]) ** 2).sum(axis=2) for part in parts])
    point = np.array([-0.5, 0.3, -2.0, 0.7])
    told, _ = _LeftOutLoss(torch.from_numpy(distances), torch.from_numpy(codes), 2)(point)

    kernel = np.exp(-np.tensordot(np.exp(point[:2]) / 2, distances, axes=1) / 2)
    targets = np.eye(2)[codes] - 0.5
    losses = []
    for row in range(12):
        rest = np.arange(12) != row
        # The ridge keeps the share of all rows, so that it is a number of rows times the penalty.
        ridge = kernel[np.ix_(rest, rest)] + 12 * np.exp(-2.0) * np.eye(11)
        scores = (kernel[row, rest] @ np.linalg.solve(ridge, targets[rest]) + 0.5) * np.exp(0.7)
        losses.append(np.log(np.exp(scores).sum()) - scores[codes[row]])
    spread = np.var(point[:2])
    assert told == pytest.approx(np.mean(losses) + 0.05 * spread, rel=1e-9)


def test_the_gradient_is_that_of_the_loss() -> None:
    values, codes = drawn(20)
    parts = [torch.from_numpy(part) for part in np.split(values, [3], axis=1)]
    loss = _LeftOutLoss(torch.stack([torch.cdist(x, x) ** 2 for x in parts]), torch.from_numpy(codes), 2)
    off = check_grad(lambda at: loss(at)[0], lambda at: loss(at)[1], np.array([0.1, -0.4, -3.0, 1.0]))
    assert off < 1e-5


def test_a_layer_of_noise_weighs_less_whatever_its_scale() -> None:
    values, codes = drawn(80)
    told, noise = learn_layer_weights(values, codes, (3, 4))
    shares = [
        factor**2 * part.var(axis=0).sum()
        for factor, part in zip((told, noise), np.split(values, [3], axis=1), strict=True)
    ]
    assert shares[0] > 1.3 * shares[1]
    # It is the labels that decide: by those that follow the second layer, it is the other way round.
    of_noise = learn_layer_weights(values, (values[:, 3:].sum(axis=1) > 0).astype(int), (3, 4))
    assert of_noise[1] / of_noise[0] > 1.3 * noise / told
    scaled = learn_layer_weights(values * np.repeat([10.0, 0.1], [3, 4]), codes, (3, 4))
    np.testing.assert_allclose(scaled, [told / 10, 10 * noise], rtol=1e-3)


def test_rows_to_learn_from_have_the_shares_of_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toptune.train.preprocessing.weighing.MOST_ROWS", 20)
    codes = np.repeat([0, 1, 0], [100, 20, 80])
    rows = weighed_rows(codes, n_layers=3)
    assert len(rows) == 20
    assert (np.diff(rows) > 0).all()
    assert np.bincount(codes[rows]).tolist() == [18, 2]
    monkeypatch.setattr("toptune.train.preprocessing.weighing._DISTANCE_BYTES", 8 * 3 * 5**2)
    assert len(weighed_rows(codes, n_layers=3)) == 5


def test_one_layer_and_no_classes_are_refused() -> None:
    values, codes = drawn()
    with pytest.raises(InputError, match=r"1 layers and 2 classes.*extract more layers"):
        learn_layer_weights(values, codes, (7,))
    with pytest.raises(InputError, match="learns from one class an image"):
        fit_preprocessing("standardise,weigh", ArrayBlocks(values), (3, 4))


@pytest.mark.parametrize("head", ["falkon", "falkon-logistic"])
def test_a_run_keeps_its_weights(head: str, build: Build, tmp_path: Path) -> None:
    cache = build()
    run = train(
        tmp_path / "store",
        out=tmp_path / "run",
        head=head,
        preprocess="standardise,weigh",
        layers="all",
        **OPTIONS,
    )
    weigh = run.preprocessing.steps[-1]
    assert isinstance(weigh, Weigh)
    assert (weigh.n_rows, weigh.scale.shape) == (72, (3,))
    assert run.config["report"]["sigma"] == 1.0
    assert run.metrics["accuracy"] > 0.8
    # The run is trained anew with the options that it records.
    assert run.config["options"]["sigma"] is None
    loaded = Run.load(run.folder)
    names = [array.name for array in loaded.arrays]
    labels, _ = loaded.predict_blocks(cache.blocks(names, loaded.test_rows))
    truth = np.array(cache.manifest.labels)[loaded.test_rows]
    assert (labels == truth).mean() == pytest.approx(run.metrics["accuracy"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "ridge"}, "head 'ridge' with kernel 'gaussian' does not take; give --head falkon or"),
        ({"kernel": "laplacian"}, "kernel 'laplacian' does not take"),
        ({"layers": "auto"}, "one chooses layers, the other weighs them"),
    ],
    ids=["head", "kernel", "layers"],
)
def test_what_does_not_go_with_weights_is_refused(
    options: dict[str, Any], message: str, build: Build, tmp_path: Path
) -> None:
    build()
    with pytest.raises(InputError, match=message):
        train(tmp_path / "store", out=tmp_path / "run", preprocess="standardise,weigh", **OPTIONS | options)
