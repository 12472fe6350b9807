"""Each step against scikit-learn or numpy, and what every preprocessing must hold."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler, normalize

from toptune.store import ArrayBlocks, CorruptError, InputError, NumericalError
from toptune.train import LayerScaler, PreprocessedBlocks, Preprocessing, fit_preprocessing
from toptune.train.heads.kinds import default_preprocessing
from toptune.train.preprocessing.spec import parse_preprocessing
from toptune.train.preprocessing.steps import Balance

Values = npt.NDArray[Any]
DIMS = (3, 5, 2)
SPECS = [
    "none", "standardise", "l2", "power", "power:0.3", "ternary", "pca", "pca:4", "pca:0.9", "whiten",
    "whiten:0.8", "l2,standardise", "power,l2", "standardise,pca:4", "l2,whiten:3,ternary",
    "standardise,pca,l2", "standardise,weigh",
]  # fmt: skip
KEEP_LAYERS = [spec for spec in SPECS if "pca" not in spec and "whiten" not in spec]


@pytest.fixture
def values() -> Values:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(300, 10)) @ rng.normal(size=(10, 10))
    return (mixed * np.logspace(-2, 2, 10) + np.arange(10)).astype(np.float32)


def fit(spec: str, values: Values, dims: tuple[int, ...] = DIMS) -> Preprocessing:
    return fit_preprocessing(spec, ArrayBlocks(values), dims, labels=labels_of(values))[0]


def labels_of(values: Values) -> list[str]:
    """Three classes that the second layer tells apart."""
    return [str(each) for each in np.digitize(values[:, 5], np.nanquantile(values[:, 5], (0.3, 0.6)))]


def layers(values: Values) -> list[Values]:
    return np.split(values.astype(np.float64), np.cumsum(DIMS)[:-1], axis=1)


def test_standardize_is_that_of_scikit_learn_on_one_layer(values: Values) -> None:
    values[:, 2] = 0.1
    fitted = fit("standardise", values, (10,))
    result = fitted.apply(values)
    assert result.dtype == np.float32
    expected = StandardScaler().fit_transform(values.astype(np.float64))
    np.testing.assert_allclose(np.delete(result, 2, 1), np.delete(expected, 2, 1), rtol=1e-5, atol=1e-5)
    assert (result[:, 2] == 0).all(), "a constant column carries nothing"
    assert fitted.to_dict()["steps"][0]["n_constant"] == 1


def test_standardized_layers_weigh_the_same_whatever_their_size(values: Values) -> None:
    totals = [part.var(axis=0).sum() for part in layers(fit("standardise", values).apply(values))]
    np.testing.assert_allclose(totals, [10 / 3] * 3, rtol=1e-5)


def test_the_transformer_is_the_step(values: Values) -> None:
    values[:, 2] = 0.1
    scaler = LayerScaler(layer_dims=DIMS).fit(values)
    scaled = scaler.transform(values)
    np.testing.assert_array_equal(scaled.astype(np.float32), fit("standardise", values).apply(values))
    np.testing.assert_allclose(scaler.inverse_transform(scaled), values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("dims", "message"),
    [([], "at least 1"), ([5, 0, 5], "at least 1"), ([4, 4], "8 columns together, and X has 10")],
)
def test_the_transformer_refuses_layers_that_x_does_not_have(
    values: Values, dims: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        LayerScaler(layer_dims=dims).fit(values)


def test_l2_is_that_of_scikit_learn_layer_by_layer(values: Values) -> None:
    expected = np.concatenate([normalize(part) for part in layers(values)], axis=1)
    np.testing.assert_allclose(fit("l2", values).apply(values), expected, rtol=1e-6)


def test_l2_leaves_a_layer_of_zeros_as_it_is(values: Values) -> None:
    values[7, 3:8] = 0.0
    result = fit("l2", values).apply(values)
    assert (result[7, 3:8] == 0).all()
    assert np.isfinite(result).all()


def test_power_keeps_the_sign(values: Values) -> None:
    for spec, exponent in (("power", 0.5), ("power:0.25", 0.25)):
        expected = np.sign(values) * np.abs(values.astype(np.float64)) ** exponent
        np.testing.assert_allclose(fit(spec, values).apply(values), expected, rtol=1e-6)


def test_ternary_takes_thresholds_in_deviations_of_the_training_rows(values: Values) -> None:
    values[:, 4] = 3.0
    train, test = values[:200], values[200:] + 1.0
    scaler = StandardScaler().fit(train.astype(np.float64))
    standard = scaler.transform(test.astype(np.float64))
    expected = np.where(standard > 0.15, 1, np.where(standard < -0.25, -1, 0))
    expected[:, 4] = 0
    result = fit("ternary", train).apply(test)
    np.testing.assert_array_equal(result, expected)
    assert set(np.unique(np.delete(result, 4, 1))) == {-1, 0, 1}


@pytest.mark.parametrize("asked", [4, 0.9, None])
def test_pca_is_that_of_scikit_learn(asked: Any, values: Values) -> None:
    wide = values.astype(np.float64)
    reference = PCA(n_components=asked, svd_solver="full").fit(wide)
    suffix = "" if asked is None else f":{asked}"
    fitted = fit(f"pca{suffix}", values)
    theirs, ours = reference.transform(wide), fitted.apply(values)
    assert ours.shape == theirs.shape
    signs = np.sign((theirs * ours).sum(axis=0))
    np.testing.assert_allclose(ours * signs, theirs, rtol=1e-3, atol=1e-4)
    report = fitted.to_dict()["steps"][0]
    assert report["variance_share"] == pytest.approx(reference.explained_variance_ratio_.sum())
    assert (report["rank"], report["n_dropped_rank"]) == (10, 0)
    whitened = fit(f"whiten{suffix}", values).apply(values).astype(np.float64)
    np.testing.assert_allclose(
        np.cov(whitened.T, bias=True).reshape(ours.shape[1], -1), np.eye(ours.shape[1]), atol=1e-4
    )


def test_pca_drops_the_rank_that_is_not_there(values: Values) -> None:
    values[:, 9] = values[:, 0] + values[:, 1]
    values[:, 5] = 2.0
    few = values.astype(np.float64)
    few[:, 9] = few[:, 0] + few[:, 1]
    fitted = fit("whiten:64", few)
    report = fitted.to_dict()["steps"][0]
    assert (report["n_components"], report["rank"], report["n_dropped_rank"]) == (8, 8, 2)
    assert report["variance_share"] == pytest.approx(1)
    assert any("64 principal components" in warning for warning in fitted.warnings)
    assert fit("pca", few[:4]).n_outputs == 3, "four rows span three directions about their mean"
    with pytest.raises(NumericalError, match="no feature varies"):
        fit("pca", np.ones((20, 10)))


def test_pca_is_refused_where_its_matrices_are_above_the_limit(values: Values) -> None:
    with pytest.raises(InputError, match=r"covariance of 10 features \(step whiten\).*fewer layers"):
        fit_preprocessing("whiten", ArrayBlocks(values), DIMS, memory_limit_bytes=2**20)


MEASURED = """
import sys
import numpy as np
from toptune.store import ArrayBlocks
from toptune.train import fit_preprocessing
from toptune.train.preprocessing.principal_components import peak_bytes
def kernel_says(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
values = np.random.default_rng(0).normal(size=(1500, 1500)).astype(np.float32)
fit_preprocessing("pca", ArrayBlocks(values[:, :50].copy()), (50,))  # libraries and their workspaces
before = kernel_says("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
fit_preprocessing("standardise,pca", ArrayBlocks(values), (1500,))
print(kernel_says("VmHWM") - before, peak_bytes(1500, 1500))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process's memory")
def test_memory_of_pca_stays_below_what_is_projected() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    measured, projected = map(int, done.stdout.split())
    assert projected / 3 < measured < projected


def test_steps_are_fitted_in_order(values: Values) -> None:
    first = fit("l2", values).apply(values)
    np.testing.assert_allclose(
        fit("l2,standardise", values).apply(values),
        fit("standardise", first).apply(first),
        rtol=1e-4,
        atol=1e-5,
    )
    result = fit("power,pca:4,standardise", values)
    assert result.layers_between == [DIMS, DIMS, (4,), (4,)]
    np.testing.assert_allclose(result.apply(values).std(axis=0), 1, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_block_size_changes_nothing(spec: str, values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(spec, values)
    expected = whole.apply(values)
    for name in ("finite_rows._BLOCK_BYTES", "principal_components._BLOCK_BYTES"):
        monkeypatch.setattr(f"toptune.train.preprocessing.{name}", 700)
    parts = fit(spec, values)
    np.testing.assert_allclose(parts.apply(values), expected, rtol=1e-4, atol=1e-5)
    # Pieces of three rows are put together to blocks of the size asked for.
    monkeypatch.setattr("toptune.train.preprocessing.preprocessing._PIECE_BYTES", 8 * 10 * 3)
    blocks = PreprocessedBlocks(ArrayBlocks(values), whole)
    assert blocks.shape == expected.shape
    for block_rows in (None, 1, 7, 64, 1000):
        seen = list(blocks.iterate(block_rows))
        assert [rows.start for rows, _ in seen[1:]] == [rows.stop for rows, _ in seen[:-1]]
        assert {len(part) for _, part in seen[:-1]} <= {block_rows}
        result = np.concatenate([part for _, part in seen])
        assert result.dtype == blocks.dtype
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        blocks.take([30, 1, 1, 5, 7]), expected[[30, 1, 1, 5, 7]], rtol=1e-5, atol=1e-6
    )
    assert blocks.take([]).shape == (0, expected.shape[1])


@pytest.mark.parametrize("spec", SPECS)
def test_rows_that_are_not_finite_are_told_and_left_out(spec: str, values: Values) -> None:
    broken = np.insert(values, [5, 100], np.nan, axis=0)
    broken[5, 4:] = 0.0
    broken[101, 0] = np.inf
    labels = np.insert(labels_of(values), [5, 100], "0").tolist()
    fitted, bad = fit_preprocessing(spec, ArrayBlocks(broken), DIMS, labels=labels)
    assert bad.tolist() == [5, 101]
    good = np.delete(broken, bad, axis=0)
    np.testing.assert_allclose(fitted.apply(good), fit(spec, values).apply(values), rtol=1e-5, atol=1e-6)
    # They stay what they are, so that whoever reads on can refuse them by number.
    assert not np.isfinite(fitted.apply(broken)[bad]).all(axis=1).any()


@pytest.mark.parametrize("spec", SPECS)
def test_saved_and_loaded_is_the_same(spec: str, values: Values, tmp_path: Path) -> None:
    fitted = fit(spec, values)
    for each in (fitted, fitted.restricted(np.array([0]))):
        each.save(tmp_path)
        loaded = Preprocessing.load(tmp_path)
        np.testing.assert_array_equal(
            loaded.apply(values[:, : each.n_inputs]), each.apply(values[:, : each.n_inputs])
        )
        assert loaded.to_dict() == each.to_dict() == json.loads(json.dumps(each.to_dict()))


def test_a_damaged_file_is_refused(values: Values, tmp_path: Path) -> None:
    path = tmp_path / "preprocessing.safetensors"
    with pytest.raises(CorruptError, match=path.name):
        Preprocessing.load(tmp_path)
    fit("standardise,pca:4", values).save(tmp_path)
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for changed in (
        {**tensors, "1.axes": tensors["1.axes"][1:]},
        {**tensors, "0.mean": tensors["0.mean"][1:]},
    ):
        save_file(
            {name: np.ascontiguousarray(value) for name, value in changed.items()}, path, metadata=header
        )
        with pytest.raises(CorruptError, match="columns, not 10"):
            Preprocessing.load(tmp_path)
    path.write_bytes(b"no")
    with pytest.raises(CorruptError, match=path.name):
        Preprocessing.load(tmp_path)


@pytest.mark.parametrize("spec", KEEP_LAYERS)
def test_restricted_to_some_columns_needs_their_layers_only(spec: str, values: Values) -> None:
    fitted = fit(spec, values)
    for columns, used in (([1, 8, 9], [0, 2]), ([4], [1]), (list(range(10)), [0, 1, 2])):
        wanted = np.array(columns)
        mask = fitted.used_layers(wanted)
        assert np.flatnonzero(mask).tolist() == used
        less = fitted.restricted(wanted)
        np.testing.assert_array_equal(
            less.apply(values[:, np.repeat(mask, DIMS)]), fitted.apply(values)[:, columns]
        )
        assert less.layer_dims == tuple(DIMS[layer] for layer in used)
        assert less.n_outputs == len(columns)


def test_restricted_after_components_keeps_all_layers(values: Values) -> None:
    fitted = fit("standardise,pca:4", values)
    less = fitted.restricted(np.array([0, 3]))
    assert less.layer_dims == DIMS
    np.testing.assert_array_equal(less.apply(values), fitted.apply(values)[:, [0, 3]])
    with pytest.raises(ValueError, match="ascending positions among 4"):
        fitted.restricted(np.array([3, 3]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("standardice", "'standardice' is unknown; did you mean 'standardise'.*standardise, l2"),
        ("", "is unknown"),
        ("l2,", "'' is unknown"),
        ("none,l2", "'none' is unknown"),
        ("l2:3", "l2 takes no argument"),
        ("pca:0", "number of components"),
        ("pca:", "number of components"),
        ("whiten:1.5", "share of the variance"),
        ("pca:-3", "number of components"),
        ("power:0", "exponent above 0"),
        ("power:many", "exponent above 0"),
        ("weigh,l2", "weigh learns a weight for each layer, so that it is the last step.*standardise,weigh"),
        ("pca:4,weigh", "goes with none that mixes layers"),
    ],
)
def test_what_a_spec_cannot_be(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_preprocessing(spec)


def test_spec_is_read_in_order() -> None:
    found = [(step.name, step.value) for step in parse_preprocessing("l2, pca:256,pca:0.95,power:1,whiten")]
    assert found == [("l2", None), ("pca", 256), ("pca", 0.95), ("power", 1.0), ("whiten", None)]
    assert default_preprocessing("falkon") == "standardise"


@pytest.mark.parametrize("spec", ["none", "standardise", "l2", "l2,standardise", "ternary"])
def test_backbones_side_by_side_have_the_same_share_of_variance(spec: str, values: Values) -> None:
    members = ["a", "b", "b"]
    fitted, _ = fit_preprocessing(spec, ArrayBlocks(values), DIMS, members=members)
    alone = layers(fit(spec, values).apply(values))
    result = layers(fitted.apply(values))
    totals = [part.var(axis=0).sum() for part in result]
    assert totals[0] == pytest.approx(totals[1] + totals[2], rel=1e-5)
    assert sum(totals) == pytest.approx(sum(part.var(axis=0).sum() for part in alone), rel=1e-5)
    # Layers of one backbone keep the weights that they have among themselves.
    balance = fitted.steps[-1]
    assert isinstance(balance, Balance)
    for part, before, layer in zip(result[1:], alone[1:], (1, 2), strict=True):
        np.testing.assert_allclose(part, before * balance.scale[layer], rtol=1e-4, atol=1e-5)
    one = fit_preprocessing(spec, ArrayBlocks(values), DIMS, members=["a", "a", "a"])[0]
    assert [step.name for step in one.steps] == [step.name for step in fitted.steps[:-1]]


def test_backbones_are_balanced_before_layers_are_mixed(values: Values) -> None:
    fitted, _ = fit_preprocessing("standardise,pca:4", ArrayBlocks(values), DIMS, members=["a", "b", "b"])
    assert [step.name for step in fitted.steps] == ["standardise", "balance", "pca"]


def test_a_constant_backbone_is_left_as_it_is(values: Values) -> None:
    values[:, :3] = 2
    fitted, _ = fit_preprocessing("none", ArrayBlocks(values), DIMS, members=["a", "b", "c"])
    result = layers(fitted.apply(values))
    assert (result[0] == 2).all()
    assert result[1].var(axis=0).sum() == pytest.approx(result[2].var(axis=0).sum(), rel=1e-5)


def test_a_balance_outlasts_saving_and_dropping_layers(values: Values, tmp_path: Path) -> None:
    fitted, _ = fit_preprocessing("l2", ArrayBlocks(values), DIMS, members=["a", "b", "b"])
    fitted.save(tmp_path)
    columns = np.array([0, 2, 8])
    np.testing.assert_array_equal(
        Preprocessing.load(tmp_path).restricted(columns).apply(values[:, [0, 1, 2, 8, 9]]),
        fitted.apply(values)[:, columns],
    )
