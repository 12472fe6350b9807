"""What is on disk and how it is cut; knows nothing of images or kernels."""

from toptune.errors import (
    ConflictError,
    CorruptError,
    FormatVersionError,
    IncompleteError,
    InputError,
    InterruptedRunError,
    NumericalError,
    StoreError,
    StoreNotFoundError,
    ToptuneError,
    UnreadableImageError,
    WeightsError,
)
from toptune.store.array_spec import ArraySpec
from toptune.store.blocks import ArrayBlocks, Blocks
from toptune.store.collection import Garbage, collect_garbage, find_garbage
from toptune.store.content import GONE, KnownDigests, known_digests
from toptune.store.copying import CopyReport, copy_store
from toptune.store.dask_arrays import as_dask_array
from toptune.store.exporting import EXPORT_FORMATS, export_features
from toptune.store.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.feature_store import FeatureStore
from toptune.store.feature_view import FeatureView, StoredFeatures
from toptune.store.growth import Growth, grow, plan_growth
from toptune.store.importing import import_features
from toptune.store.ledger import LedgerEntry
from toptune.store.listing import CacheSummary, describe, stored_features, summarize
from toptune.store.manifest import Manifest
from toptune.store.names import plain_model_name
from toptune.store.object_path import place_of
from toptune.store.provenance import provenance
from toptune.store.recipe import Recipe, canonical_json
from toptune.store.registration import Difference, find_version
from toptune.store.removal import Removal, plan_removal, remove, remove_arrays
from toptune.store.repair import RepairReport, repair
from toptune.store.units import choose_unit_rows, format_units, shard_units
from toptune.store.usage import Usage, measure
from toptune.store.verification import VerifyReport, verify
from toptune.store.versions import DatasetVersion, read_dataset_version

__all__ = [
    "CONTENT_ARRAY",
    "EXPORT_FORMATS",
    "GONE",
    "ArrayBlocks",
    "ArraySpec",
    "Blocks",
    "CacheSummary",
    "ConflictError",
    "CopyReport",
    "CorruptError",
    "DatasetVersion",
    "Difference",
    "FeatureCache",
    "FeatureStore",
    "FeatureView",
    "FormatVersionError",
    "Garbage",
    "Growth",
    "IncompleteError",
    "InputError",
    "InterruptedRunError",
    "KnownDigests",
    "LedgerEntry",
    "Manifest",
    "NumericalError",
    "Recipe",
    "Removal",
    "RepairReport",
    "StoreError",
    "StoreNotFoundError",
    "StoredFeatures",
    "ToptuneError",
    "UnreadableImageError",
    "Usage",
    "VerifyReport",
    "WeightsError",
    "as_dask_array",
    "canonical_json",
    "choose_unit_rows",
    "collect_garbage",
    "copy_store",
    "describe",
    "export_features",
    "find_garbage",
    "find_version",
    "format_units",
    "grow",
    "import_features",
    "known_digests",
    "measure",
    "place_of",
    "plain_model_name",
    "plan_growth",
    "plan_removal",
    "provenance",
    "read_dataset_version",
    "remove",
    "remove_arrays",
    "repair",
    "shard_units",
    "stored_features",
    "summarize",
    "verify",
]
