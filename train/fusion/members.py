"""The stored features of several models over one version of a data set, and rows that all of them have."""

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence

from toptune.errors import ConflictError, IncompleteError, InputError, StoreNotFoundError
from toptune.machine.memory import check_memory, left_bytes
from toptune.store.arrays.stored_layers import AUTO
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import ModelFeatures, StoredFeatures
from toptune.text import named
from toptune.train.heads.kind import NativeForm
from toptune.train.heads.kinds import KINDS
from toptune.train.runs.options import TrainOptions


def open_members(
    store: FeatureStore, dataset: str, options: Mapping[str, TrainOptions]
) -> dict[str, ModelFeatures]:
    """Open the features of several models over the same version of a data set.

    Parameters
    ----------
    store : FeatureStore
    dataset : str
    options : mapping of str to TrainOptions
        Options by model.

    Raises
    ------
    StoreNotFoundError
        For models without features over the data set, with the command that extracts them.
    InputError
        If two names mean the same features.
    ConflictError
        If a name means several caches, or the features are of different images.
    """
    opened: dict[str, ModelFeatures] = {}
    missing: dict[str, StoreNotFoundError] = {}
    for model, of_model in options.items():
        try:
            opened[model] = store.features(
                model,
                dataset,
                version=of_model.dataset_version,
                **of_model.rows.reading(of_model.rows.decisions.relabel),
            )
        except StoreNotFoundError as error:
            missing[model] = error
    if missing:
        # A data set that is not there, and names that are all unknown, are told with what there is.
        if not opened:
            raise next(iter(missing.values()))
        raise StoreNotFoundError(_what_is_missing(store, dataset, missing, options, opened), option="model")
    first, *others = opened
    for model in others:
        digest = opened[model].digest
        same = next((each for each in opened if each != model and opened[each].digest == digest), None)
        if same is not None:
            raise InputError(
                f"models {same!r} and {model!r} are the same features, {opened[model].name}; give one of "
                "these names",
                option="model",
            )
        if opened[model].manifest.pictures_digest != opened[first].manifest.pictures_digest:
            raise ConflictError(
                f"the features of {first!r} and of {model!r} over {dataset!r} are of different images "
                f"({opened[first].n_rows} and {opened[model].n_rows} rows); toptune store verify says which "
                "are damaged"
            )
    return opened


def check_complete(
    store: FeatureStore, features: Mapping[str, ModelFeatures], arrays: Mapping[str, Sequence[str]]
) -> None:
    """Refuse models that were not extracted over all images, before any feature is read.

    Parameters
    ----------
    store : FeatureStore
    features : mapping of str to FeatureCache or FeatureView
        By model, as `open_members` gives them.
    arrays : mapping of str to sequence of str
        The arrays that are needed, by model.

    Raises
    ------
    IncompleteError
        With the command that extracts what is missing.
    """
    lacking = [model for model in features if not features[model].is_complete(list(arrays[model]))]
    if not lacking:
        return
    first = features[lacking[0]]
    whole = [model for model in features if model not in lacking]
    # Without layers and precision, an extraction goes on as it was begun.
    words = ["--store", str(store.root), "--dataset", first.dataset]
    words += [word for model in lacking for word in ("--model", model)]
    raise IncompleteError(
        f"the features of {named(lacking)} over {first.dataset!r}, version {first.dataset_version}, lack "
        f"some of the {first.n_rows} images"
        + (f" that {named(whole)} {'has' if len(whole) == 1 else 'have'}" if whole else "")
        + "; extract them with DATA in the place of the images: "
        f"toptune extract DATA {shlex.join(words)}"
    )


def failed_in_any(
    features: Mapping[str, StoredFeatures], arrays: Mapping[str, Sequence[str]]
) -> dict[int, str]:
    """Return the rows whose image failed for one model or several, with the reasons."""
    failed: dict[int, str] = {}
    for model, stored in features.items():
        for row, reason in stored.failed_rows(list(arrays[model])).items():
            failed.setdefault(row, reason)
    return failed


def check_together(options: TrainOptions, dims: Sequence[int], *, n: int, n_classes: int) -> None:
    """Refuse heads that do not fit into the memory limit together; each fit checks its own peak besides.

    Parameters
    ----------
    options : TrainOptions
    dims : sequence of int
        Columns of each model.
    n, n_classes : int
        Training rows and classes.

    Raises
    ------
    InputError
        With the projected bytes and the limit.
    """
    from toptune.train.numerics.calibration import CALIBRATION_ROWS

    held = sum(_held_bytes(options, d, n=n, n_classes=n_classes) for d in dims)
    # The left-out log-probabilities of all members, and the work of weighing them beside.
    weighing = 8 * min(n, CALIBRATION_ROWS) * n_classes * (len(dims) + 3)
    check_memory(
        held + weighing,
        limit_bytes=left_bytes(options.limits.memory_limit_bytes),
        what=f"{len(dims)} heads of {options.head.head!r} on {', '.join(map(str, dims))} features, together,",
        instead="take fewer models, --layers or --centers, or give a higher --memory-limit",
    )


def _held_bytes(options: TrainOptions, d: int, *, n: int, n_classes: int) -> int:
    """Project what a fitted head keeps: its centers, its rows, or its coefficients."""
    kind = KINDS.get(options.head.head)
    arrays = kind.form.arrays if kind is not None and isinstance(kind.form, NativeForm) else ()
    if "dual_coef" in arrays or options.head.is_auto:
        return 8 * min(n, options.head.n_centers) * (d + n_classes)
    if "rows" in arrays or options.head.head == "svm":
        return 8 * n * d
    return 8 * d * n_classes if arrays else 0


def _what_is_missing(
    store: FeatureStore,
    dataset: str,
    missing: Mapping[str, StoreNotFoundError],
    options: Mapping[str, TrainOptions],
    opened: Mapping[str, StoredFeatures],
) -> str:
    """Say which models have no features, and write the command that extracts them."""
    # Layers that were asked for by name must be stored; a search looks among all.
    by_layers: dict[str, list[str]] = {}
    for model in missing:
        asked = options[model].layers
        words = asked if isinstance(asked, str) else ",".join(asked) if isinstance(asked, Sequence) else ""
        by_layers.setdefault("all" if words == AUTO else words, []).append(model)
    commands = []
    for layers, models in by_layers.items():
        of_models = [word for model in models for word in ("--model", model)]
        chosen = ["--layers", layers] if layers else []
        options_of_command = ["--store", str(store.root), "--dataset", dataset, *of_models, *chosen]
        commands.append(f"toptune extract DATA {shlex.join(options_of_command)}")
    return (
        f"the store {store.root} has features of {', '.join(opened)} over {dataset!r}, and none of "
        f"{', '.join(missing)}; extract them with DATA in the place of its images: {' && '.join(commands)}"
    )


@contextlib.contextmanager
def told_of(model: str) -> Iterator[None]:
    """Name the model in an error of what was given."""
    try:
        yield
    except InputError as error:
        raise InputError(f"model {model!r}: {error}", option=error.option) from error
