"""Every head computes on a CUDA device, here a pretended one, what it computes on the CPU."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import Counts, fake_cuda

from toptune.errors import InputError
from toptune.machine.memory import MemoryLimits
from toptune.store.features.blocks import ArrayBlocks
from toptune.train import make_head
from toptune.train.kernels.kernels import Gaussian
from toptune.train.kernels.maps import IdentityMap, NystromMaps
from toptune.train.passes.kernel_rows import CenteredRows, KernelRows
from toptune.train.passes.passes import accumulate, predict_left_out
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import block_rows_for

WIDE = 150  # columns, of 90 rows
CONFIGURATIONS: list[tuple[str, dict[str, Any]]] = [
    ("falkon", {"kernel": "gaussian"}),
    ("falkon", {"kernel": "laplacian"}),
    ("falkon", {"kernel": "matern12"}),
    ("falkon", {"kernel": "matern32"}),
    ("falkon", {"kernel": "matern52"}),
    ("falkon", {"kernel": "linear"}),
    ("falkon", {"centers": "kmeans++", "cv": "leave-one-group-out"}),
    ("falkon", {"solver": "direct", "class_weight": "balanced"}),
    ("falkon", {"solver": "direct", "cv": None, "sigma": 3.0, "penalty": 1e-4}),
    ("falkon", {"solver": "direct", "is_float32": True}),
    ("falkon", {"solver": "falkon"}),
    ("falkon", {"solver": "falkon", "class_weight": "balanced", "kernel": "laplacian"}),
    ("falkon", {"solver": "falkon", "cv": None, "sigma": 3.0, "penalty": 1e-4}),
    ("falkon", {"solver": "falkon", "is_float32": True}),
    ("falkon-logistic", {}),
    ("falkon-logistic", {"kernel": "linear", "class_weight": "balanced"}),
    ("falkon-logistic", {"is_float32": True, "sigma": 3.0}),
    ("ridge", {}),
    ("ridge", {"class_weight": "balanced", "d": WIDE}),
    ("ridge", {"cv": None, "penalty": 1e-3}),
    ("lda", {}),
    ("lda", {"d": WIDE}),
    ("logistic", {"class_weight": "balanced"}),
    ("logistic", {"d": WIDE, "penalty": [1e-3, 1e-2]}),
    ("knn", {}),
    ("knn", {"metric": "euclidean", "is_float32": True}),
    ("head2toe", {"fraction": [0.4, 1.0], "penalty": [1e-3, 1e-2]}),
    ("head2toe", {"solver": "softmax", "final": "falkon", "class_weight": "balanced", "fraction": 0.8}),
    ("head2toe", {"d": 100, "fraction": 0.1, "group_penalty": 0.5, "penalty": 0.01}),
]  # fmt: skip


def data(d: int, *, is_float32: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    X = rng.normal(size=(90, d)) + y[:, None] * (np.arange(d) < 4)
    return X.astype(np.float32 if is_float32 else np.float64), y


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS, ids=str)
def test_a_head_is_the_same_there(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(options)
    is_float32 = options.pop("is_float32", False)
    X, y = data(options.pop("d", 6), is_float32=is_float32)
    if is_float32:  # as of many rows
        monkeypatch.setattr("toptune.train.estimators.kernel_ridge.FLOAT64_WORK", 0)
    groups = [str(row % 4) for row in range(len(y))]
    given: dict[str, Any] = {"cv": 3}
    given |= {key: options.pop(key) for key in ("cv", "class_weight") if key in options}
    given["params"] = options | ({"n_centers": 20} if "falkon" in name else {})

    def scores(device: str) -> tuple[np.ndarray, float]:
        head = make_head(name, device=device, seed=0, **given).fit(X, y, groups=groups)
        return head.decision_function(X), head.estimator.temperature_  # type: ignore[attr-defined]

    expected, temperature = scores("cpu")
    with fake_cuda() as counts:
        before = counts.live_bytes  # Tensors of other tests may live as long as the error that they ended in.
        found, other = scores("cuda")
    assert sum(counts.operations.values()) > 20
    assert counts.live_bytes <= before, "what is left on the device when the head is gone"
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    assert other == pytest.approx(temperature, rel=1e-9)


@pytest.mark.parametrize(("limit_gib", "block_gib"), [(100, 1.0), (8, 0.25)])
@pytest.mark.parametrize(("d", "rank"), [(256, 2000), (1024, 20_000)])
def test_blocks_there_take_a_part_of_its_memory(limit_gib: int, block_gib: float, d: int, rank: int) -> None:
    rows = block_rows_for(d=d, rank=rank, limit_bytes=limit_gib * 2**30, on_cuda=True)
    assert 0.95 < rows * 8 * (d + 3 * rank + 1) / (block_gib * 2**30) <= 1
    # Wide rows of few features fill main memory first.
    wide = block_rows_for(d=d, rank=1, limit_bytes=limit_gib * 2**30, on_cuda=True)
    assert 0.95 < 4 * wide * 3 * 8 * d / (block_gib * 2**30) <= 1


class WatchedBlocks(ArrayBlocks):
    """Blocks that note how many there were."""

    n_read = 0

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        for block in super().iterate(block_rows):
            self.n_read += 1
            yield block


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("falkon", {"solver": "direct", "n_centers": 20}),
        ("falkon", {"solver": "falkon", "n_centers": 20}),
        ("falkon-logistic", {"n_centers": 20}),
        ("ridge", {}),
        ("lda", {}),
        ("logistic", {"penalty": [1e-2]}),
    ],
    ids=str,
)
def test_a_pass_there_has_larger_blocks(
    name: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.train.rows.block_reading.BLOCK_BYTES", 1)  # blocks of 64 rows on the CPU
    monkeypatch.setattr("toptune.train.solvers.solver_choice.KERNEL_CACHE_BYTES", 0)
    monkeypatch.setattr("toptune.train.solvers.one_pass.SUMS_BYTES", 1)  # a pass a width
    X, y = data(6, is_float32=False)

    def blocks(device: str) -> int:
        watched = WatchedBlocks(X)
        make_head(name, device=device, seed=0, cv=3, params=params).fit(watched, y)
        return watched.n_read

    on_cpu = blocks("cpu")
    with fake_cuda():
        assert blocks("cuda") <= on_cpu / 2


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("falkon", {"solver": "direct", "n_centers": 20, "sigma": 3.0}),
        ("falkon", {"solver": "falkon", "n_centers": 20, "sigma": 3.0}),
        ("falkon-logistic", {"n_centers": 20, "sigma": [2.0, 3.0]}),
        ("ridge", {}),
        ("lda", {}),
    ],
    ids=str,
)
def test_rows_are_copied_there_once_where_they_fit(
    name: str, params: dict[str, Any], dtype: str, cuda: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = data(6, is_float32=True)
    X, y = X[:60].astype(dtype), y[:60]  # one block, whatever the limit

    def fitted(device: str) -> tuple[int, dict[str, Any], np.ndarray]:
        watched = WatchedBlocks(X)
        head = make_head(name, device=device, seed=0, cv=3, params=params).fit(watched, y)
        return watched.n_read, head.report, head.decision_function(X)

    n_cpu, _, expected = fitted("cpu")
    n_read, report, found = fitted("cuda")
    assert n_read == 1 < n_cpu
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    # On a device without room for the rows every pass reads them.
    kept_bytes = X.nbytes + len(X)
    peak_bytes = report["plan"]["peak_bytes"] if "plan" in report else report["peak_bytes"]
    for room, is_kept in ((peak_bytes, True), (peak_bytes - 1, False)):
        limits = MemoryLimits(device="cuda", bytes=room, host_bytes=2**30)
        monkeypatch.setattr(MemoryLimits, "on", lambda *_, limits=limits: limits)
        n_read, report, again = fitted("cuda")
        assert (n_read == 1) == is_kept
        now = report["plan"]["peak_bytes"] if "plan" in report else report["peak_bytes"]
        assert now == peak_bytes - (not is_kept) * kept_bytes
        np.testing.assert_allclose(again, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named_there(value: float, cuda: Counts) -> None:
    X, y = data(6, is_float32=True)
    X[[70, 81], 3] = value
    with pytest.raises(InputError, match=r"NaN or infinity in row 70, 81 \(counted from 0\)"):
        make_head("ridge", device="cuda", cv=3).fit(X, y)
    assert cuda.operations["isfinite"] > 0


@pytest.mark.parametrize("name", ["falkon", "falkon-logistic"])
def test_the_centers_stay_there_from_batch_to_batch(name: str, cuda: Counts) -> None:
    X, y = data(6, is_float32=False)
    params = {"n_centers": 20, "sigma": 3.0}
    head = make_head(name, device="cuda", seed=0, cv=3, params=params).fit(X, y)

    def copies() -> int:
        cuda.clear()
        head.predict(X[:5])
        return cuda.waits["copy to the device"]

    assert [copies(), copies()] == [3, 0]
    expected = make_head(name, seed=0, cv=3, params=params).fit(-X, y).decision_function(X[:5])
    np.testing.assert_allclose(head.fit(-X, y).decision_function(X[:5]), expected, rtol=1e-9)


@pytest.mark.parametrize("n_classes", [3, 100])
def test_sums_by_class_are_the_same_there_and_need_no_long_product(n_classes: int, cuda: Counts) -> None:
    rng = np.random.default_rng(0)
    rows = TrainingRows(
        blocks=ArrayBlocks(rng.normal(size=(300, 4))), codes=rng.integers(0, n_classes, 300),
        weights=rng.uniform(0.5, 2, 300), folds=np.arange(300) % 3, n_classes=n_classes, n_folds=3,
    )  # fmt: skip
    (expected,) = accumulate(rows, IdentityMap(4), [0], block_rows=70, device=torch.device("cpu"))
    cuda.clear()
    (found,) = accumulate(rows, IdentityMap(4), [0], block_rows=70, device=torch.device("cuda"))
    assert (cuda.operations["one_hot"] == 0) == (n_classes == 100)
    np.testing.assert_allclose(found.cross.cpu(), expected.cross, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("distance", "n_dropped"),
    # The last center at this distance of the first: apart, equal to rounding, and near enough that the plain
    # factor exists and its last pivot, 4e-12, is within ten times the tolerance.
    [(1.0, 0), (1e-9, 1), (2e-5, 0)],
)
def test_centers_are_factored_there_and_go_to_lapack_only_if_that_fails(
    distance: float, n_dropped: int, cuda: Counts
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 4))
    rows[-1] = rows[0]
    rows[-1, 0] += distance
    centers = torch.from_numpy(rows)
    expected = NystromMaps.on([Gaussian(2.0)], centers)
    there = centers.to("cuda")
    cuda.clear()
    found = NystromMaps.on([Gaussian(2.0)], there)
    assert cuda.operations["linalg_cholesky_ex"] == 1
    assert (cuda.waits["copy to main memory"] > 0) == (distance < 1)
    assert found.factors[0].is_cuda
    assert found.whitenings[0].n_dropped == n_dropped == expected.whitenings[0].n_dropped
    np.testing.assert_array_equal(found.whitenings[0].kept, expected.whitenings[0].kept)
    np.testing.assert_array_equal(found.factors[0].cpu(), expected.factors[0])


def training_rows(n: int) -> TrainingRows:
    rng = np.random.default_rng(0)
    return TrainingRows(
        blocks=ArrayBlocks(rng.normal(size=(n, 8)).astype(np.float32)), codes=rng.integers(0, 3, n),
        weights=np.ones(n), folds=np.arange(n) % 5, n_classes=3, n_folds=5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("what", "most"),
    # Today's numbers: a change may lower them and must not raise them.
    [("sums of one map", 1), ("left-out scores of one fit", 1), ("a product of FALKON", 1)],
)
def test_the_host_waits_no_more_often_for_a_block(what: str, most: int, cuda: Counts) -> None:
    rows = training_rows(640)
    centers = torch.from_numpy(rows.blocks.take(np.arange(20)))
    maps = NystromMaps.on([Gaussian(2.0)], centers.to("cuda"))
    beta = torch.zeros((5, 21, 3), dtype=torch.float64, device="cuda")
    columns = torch.zeros((20, 3), dtype=torch.float64, device="cuda")

    def waits(block_rows: int) -> int:
        product = CenteredRows.of(
            KernelRows(rows, Gaussian(2.0), maps.centers, block_rows=block_rows, is_cached=False),
            maps.factors[0],
        ).product
        cuda.clear()
        device = torch.device("cuda")
        if what == "sums of one map":
            accumulate(rows, maps, [0], block_rows=block_rows, device=device)
        elif what == "left-out scores of one fit":
            predict_left_out(rows, maps, [(0, beta)], block_rows=block_rows, device=device)
        else:
            product(columns)
        return sum(cuda.waits.values())

    assert (waits(64) - waits(640)) / 9 <= most, dict(cuda.places)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("falkon", {"solver": "direct"}),
        ("falkon", {"solver": "falkon", "cv": None, "sigma": 5.0, "penalty": 1e-4}),
        ("falkon-logistic", {"sigma": 5.0}),
        ("ridge", {}),
        ("ridge", {"d": 900}),
        ("lda", {}),
        ("logistic", {"penalty": [1e-2]}),
        ("knn", {}),
        ("head2toe", {"fraction": 0.1, "group_penalty": 0.3}),
    ],
    ids=str,
)
def test_what_lies_on_the_device_at_once_is_what_was_projected(
    name: str, options: dict[str, Any], cuda: Counts
) -> None:
    options = dict(options)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, options.pop("d", 200))).astype(np.float32)
    cv = options.pop("cv", 3)
    params = options | ({"n_centers": 200} if "falkon" in name else {})
    head = make_head(name, device="cuda", seed=0, cv=cv, params=params).fit(X, rng.integers(0, 4, 800))
    report = head.report
    projected = report["plan"]["peak_bytes"] if "plan" in report else report["peak_bytes"]
    assert 0.15 * projected < cuda.peak_bytes <= projected
