"""Costs of extracting stored features, from the ledgers: paid once, and shared by every run on them."""

from collections.abc import Callable, Mapping, Sequence

from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_view import FeatureView, ModelFeatures

_ADDED = {"extract_cpu_seconds": "cpu_seconds", "extract_joules": "energy_joules"}


def added_costs(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Add up what extracting the features of several models over the same images took.

    Parameters
    ----------
    costs : sequence of mapping
        `extraction_costs` of each model; those of imported features are empty and add nothing.

    Returns
    -------
    dict
        The keys of `extraction_costs`. A key that any extraction lacks is missing in the sum. Images count
        once.
    """
    known = [each for each in costs if each]
    if not known:
        return {}
    shared = set.intersection(*({*each} for each in known))
    one_of: dict[str, Callable[[list[float]], float]] = {
        "extract_pictures": max,
        "extract_peak_memory_bytes": max,
        "extract_energy_estimate": any,
    }
    return {
        name: one_of.get(name, sum)([each[name] for each in known]) for name in known[0] if name in shared
    }


def extraction_costs(features: ModelFeatures, names: list[str]) -> dict[str, float]:
    """Add up what extracting arrays took, by their ledger entries.

    Arrays that one job wrote share the costs of the job, which count once. If one command extracted several
    models, each model counts the wall-clock seconds in full, and its share of CPU seconds and energy.

    Parameters
    ----------
    features : FeatureCache or FeatureView
    names : list of str
        Arrays.

    Returns
    -------
    dict
        ``extract_seconds`` (wall clock), ``extract_pictures``, ``extract_bytes`` stored; where every unit's
        entry has them, also ``extract_cpu_seconds``, ``extract_joules``, ``extract_energy_estimate`` (whether
        any of these joules is an estimate) and ``extract_peak_memory_bytes``; and ``extract_device_seconds``
        where CUDA devices computed. Empty for imported features.
    """
    if features.recipe.is_imported:
        return {}
    caches: list[FeatureCache]
    if isinstance(features, FeatureView):
        caches = list(features.caches.values())
    else:
        assert isinstance(features, FeatureCache)
        caches = [features]
    seconds, images, n_bytes = 0.0, 0, 0
    known: list[Mapping[str, float] | None] = []
    for cache in caches:
        jobs: dict[tuple[int, str, float], Mapping[str, float] | None] = {}
        for name in names:
            for unit, entry in cache.entries(name).items():
                # All arrays that were committed together carry the same host and seconds, which tells the
                # job.
                jobs[unit, entry.host, entry.seconds] = entry.costs
                n_bytes += entry.n_bytes
        seconds += sum(job[2] for job in jobs)
        images += cache.n_rows
        known += jobs.values()
    found: dict[str, float] = {
        "extract_seconds": seconds,
        "extract_pictures": images,
        "extract_bytes": n_bytes,
    }
    told = [costs for costs in known if costs is not None]
    # A sum that lacks the units of older versions of toptune would look like a low cost.
    if told and len(told) == len(known):
        found |= {name: sum(costs[key] for costs in told) for name, key in _ADDED.items()}
        found["extract_energy_estimate"] = any(costs["energy_estimate"] for costs in told)
        if any("device_seconds" in costs for costs in told):
            found["extract_device_seconds"] = sum(costs.get("device_seconds", 0.0) for costs in told)
        found["extract_peak_memory_bytes"] = max(costs["peak_memory_bytes"] for costs in told)
    return found
