"""``--dataset`` and ``--model`` may be left out where the store holds one; ``--model`` may be several."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from toptune.commands.options.parsing import listed
from toptune.commands.options.printing import echo


def fill_names(root: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return options whose data set and model are named, after saying which ones were left out.

    Parameters
    ----------
    root : str
        The store.
    options : dict
        Options of a command, with ``dataset`` and ``model``.

    Raises
    ------
    InputError
        If the store holds several that the options leave open; the message lists them.
    StoreNotFoundError
        If the store holds none.
    """
    from toptune.store import FeatureStore, only_features

    given = {"dataset": options["dataset"], "model": options["model"]}
    found = dict(zip(given, only_features(FeatureStore.open(root), **given), strict=True))
    _tell_left_out({name: found[name] for name, value in given.items() if value is None})
    return options | found


def _only_dataset(root: str, dataset: str | None) -> str:
    """Return the name of the data set, after saying which one was left out."""
    from toptune.store import FeatureStore, only_dataset

    if dataset is not None:
        return dataset
    found = only_dataset(FeatureStore.open(root))
    _tell_left_out({"dataset": found})
    return found


def _tell_left_out(found: Mapping[str, str]) -> None:
    """Say which names were left out and taken from the store."""
    if found:
        # Where results go to standard output, a program may read them; this line is for people.
        words = " and ".join(f"--{name} {value}" for name, value in found.items())
        echo(f"taken from the store, which holds no other: {words}", err=True)


@contextmanager
def filled_models(root: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield options as `fill_names` gives them, of a command that takes ``--model`` several times.

    Errors within the context tell of names in a file as `listed` does.

    Parameters
    ----------
    root : str
        The store.
    options : dict
        Options of a command, with ``dataset`` and ``models``. In place of ``models``, the result has
        ``model`` where at most one is given. With ``best``, models that are not given stay so: all are meant.
    """
    given: Sequence[str] = options["models"]
    others = {name: value for name, value in options.items() if name != "models"}
    with listed(given, "models") as models:
        if options.get("best"):
            yield others | {"dataset": _only_dataset(root, options["dataset"]), "models": models or None}
            return
        # Fewer than two models are the one model that the name, or the store, gives.
        filled = fill_names(root, others | {"model": models[0] if models else None})
        yield filled | {"model": None, "models": models} if len(models) > 1 else filled
