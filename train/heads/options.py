"""Options of `train` that belong to some heads only."""

from collections.abc import Mapping, Sequence
from typing import Any

from toptune.errors import InputError
from toptune.train.heads.trials import AUTO_HEAD

_FALKON_DEFAULTS = {"kernel": "gaussian", "n_centers": 1000, "solver": "auto"}


def head_params(
    head: str,
    params: Mapping[str, Any] | None,
    *,
    penalty: float | Sequence[float] | None,
    sigma: float | Sequence[float] | None,
    kernel: str,
    n_centers: int,
    solver: str,
) -> dict[str, Any]:
    """Put the options that a head takes among its parameters; refuse those that it does not."""
    given = dict(params or {})
    options = {"kernel": kernel, "sigma": sigma, "penalty": penalty, "n_centers": n_centers}
    if head == "falkon":
        return options | {"solver": solver} | given
    if head == "falkon-logistic" and solver == _FALKON_DEFAULTS["solver"]:
        return options | given
    takes_penalty = head in ("ridge", "logistic", "head2toe")
    if takes_penalty and penalty is not None:
        given = {"penalty": penalty} | given
    strange = {
        "solver": solver != _FALKON_DEFAULTS["solver"],
        "sigma": sigma is not None,
        "penalty": penalty is not None and not takes_penalty,
        "kernel": kernel != _FALKON_DEFAULTS["kernel"],
        "n_centers": n_centers != _FALKON_DEFAULTS["n_centers"],
    }
    for name, is_given in strange.items():
        if is_given:
            raise InputError(f"{name} has no meaning for head {head!r}; leave it out, or use head 'falkon'")
    return given


def check_auto(
    head: str, given: Mapping[str, Any], *, budget: float | None, cv: int | str | None, dask: str | None
) -> None:
    """Refuse what head auto cannot do, and a budget for any other head."""
    if head != AUTO_HEAD:
        if budget is not None:
            raise InputError(f"budget has no meaning for head {head!r}; leave it out, or use head 'auto'")
        return
    if budget is not None and not budget > 0:
        raise InputError(f"budget is {budget:g} seconds; give more than 0")
    if given:
        raise InputError(
            f"params {', '.join(given)} have no meaning for head 'auto', which takes every head by its "
            "defaults; name the head"
        )
    if cv is None:
        raise InputError("cv is None, but head 'auto' compares by cross-validation; give a number of folds")
    if dask is not None:
        raise InputError(f"dask is {dask!r}, which head 'auto' does not know; use falkon or ridge")
