"""Images get two coordinates: by principal components, or by UMAP."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError, NumericalError
from toptune.options import check_choice
from toptune.store.features.blocks import Blocks, row_slices
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks

PCA, UMAP = "pca", "umap"
MAPS = (PCA, UMAP)
# UMAP is fitted to this many rows at most, and a page shows as many points.
MOST_POINTS = 20_000
# UMAP compares rows by so many principal components at most, which hold nearly all of what it sees.
_COMPONENTS = 50
# A neighborhood of UMAP, as its authors have it by default.
_NEIGHBORS = 15

Points = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Coordinates:
    """Where each row lies in two dimensions.

    Attributes
    ----------
    points : ndarray of float32, shape (n, 2)
        NaN where a row has no coordinates.
    method : {"pca", "umap"}
    """

    points: Points
    method: str


def check_map(method: str) -> str:
    """Return the name of a map that can be drawn here.

    Raises
    ------
    InputError
        For a name that does not exist, or ``umap`` where umap-learn is not installed.
    """
    check_choice(method, MAPS, option="map")
    if method == UMAP:
        _umap()
    return method


def sampled(n: int, most: int, seed: int) -> Rows:
    """Return `most` of n rows, drawn without replacement and sorted, or all rows if there are no more."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def map_rows(
    blocks: Blocks,
    *,
    method: str = PCA,
    seed: int = 0,
    memory_limit_bytes: int | None = None,
    notify: Callable[[str], None] = lambda _line: None,
) -> Coordinates:
    """Give each row two coordinates.

    Principal components are those of all rows, which are streamed. UMAP (McInnes, Healy & Melville 2018) is
    fitted to at most 20,000 rows, drawn by the seed and reduced to their first 50 principal components; the
    other rows are put where their neighbors among the fitted rows lie.

    Parameters
    ----------
    blocks : Blocks
        Finite rows, shape (n, d).
    method : {"pca", "umap"}
    seed : int
        Seed of the sample and of UMAP.
    memory_limit_bytes : int, optional
        Limit for the matrices of the principal components.
    notify : callable, optional
        Called with a line of text if another map than the one asked for is made.

    Raises
    ------
    InputError
        For an unknown method, one that is not installed, or matrices above the memory limit.

    Examples
    --------
    >>> from toptune.store import ArrayBlocks
    >>> rows = np.array([[0.0, 0, 0], [4.0, 0, 0], [0.0, 2, 0], [4.0, 2, 0]], dtype=np.float32)
    >>> found = map_rows(ArrayBlocks(rows)).points
    >>> np.abs(found).round(6).tolist()
    [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]
    """
    n, d = blocks.shape
    n_components = min(n, d, 2 if method == PCA else _COMPONENTS)
    try:
        steps, _ = fit_preprocessing(
            f"pca:{n_components}", blocks, (d,), memory_limit_bytes=memory_limit_bytes
        )
    except NumericalError as error:
        notify(f"the map shows one point: {error} [TT508]")
        return Coordinates(points=np.zeros((n, 2), dtype=np.float32), method=method)
    reduced = np.empty((n, steps.n_outputs), dtype=np.float32)
    for where, values in PreprocessedBlocks(blocks, steps).iterate():
        reduced[where] = values
    if method == UMAP and n > _NEIGHBORS:
        return Coordinates(points=_neighborly(reduced, seed), method=UMAP)
    if method == UMAP:
        notify(f"the map is by pca: umap needs more than {_NEIGHBORS} images, and there are {n} [TT508]")
    # Rows on a line have one component.
    points = np.zeros((n, 2), dtype=np.float32)
    points[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    return Coordinates(points=points, method=PCA)


def _neighborly(values: Points, seed: int) -> Points:
    """Return the points (n, 2) of UMAP."""
    fitted = sampled(len(values), MOST_POINTS, seed)
    # One thread, because several give other points each time.
    mapper = _umap().UMAP(n_neighbors=_NEIGHBORS, random_state=seed, n_jobs=1)
    points = np.empty((len(values), 2), dtype=np.float32)
    points[fitted] = mapper.fit_transform(values[fitted])
    others = np.setdiff1d(np.arange(len(values)), fitted)
    for some in row_slices((len(others), values.shape[1]), values.dtype):
        points[others[some]] = mapper.transform(values[others[some]])
    return points


def _umap() -> ModuleType:
    try:
        import umap
    except ImportError as error:
        raise InputError(
            "map umap needs umap-learn, not installed here: pip install 'toptune[umap]', or take --map pca",
            option="map",
        ) from error
    module: ModuleType = umap
    return module
