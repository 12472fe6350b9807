"""Costs of extracting the features of all members of a run."""

from toptune.store.features.extraction_costs import added_costs, extraction_costs
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.joined.joined_features import members_of, split_name


def member_costs(features: StoredFeatures, names: list[str]) -> dict[str, float]:
    """Add up what extracting arrays took over all members; see `extraction_costs` for the keys.

    Parameters
    ----------
    features : StoredFeatures
        Of one model, or of several.
    names : list of str
        Arrays, by their names in `features`.
    """
    own: dict[str, list[str]] = {}
    for member, name in map(split_name, names):
        own.setdefault(member, []).append(name)
    members = members_of(features)
    return added_costs([extraction_costs(members[member], arrays) for member, arrays in own.items()])
