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
from toptune.store.arrays.ledger_entry import LedgerEntry
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.units import choose_unit_rows, format_units, shard_units
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.registration import Difference, find_version
from toptune.store.datasets.versions import DatasetVersion, read_dataset_version
from toptune.store.exchange.copying import CopyReport, copy_store
from toptune.store.exchange.exporting import EXPORT_FORMATS, export_features
from toptune.store.exchange.importing import import_features
from toptune.store.features.blocks import ArrayBlocks, Blocks
from toptune.store.features.dask_arrays import as_dask_array
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import FeatureView, StoredFeatures
from toptune.store.features.growth import Growth, grow, plan_growth
from toptune.store.features.image_digests import GONE, KnownDigests, known_digests
from toptune.store.features.listing import CacheSummary, describe, stored_features, summarize
from toptune.store.features.recipe import Recipe
from toptune.store.files.json_values import canonical_json
from toptune.store.files.names import plain_model_name
from toptune.store.files.place import place_of
from toptune.store.files.provenance import provenance
from toptune.store.upkeep.garbage import Garbage, collect_garbage, find_garbage
from toptune.store.upkeep.removal import Removal, plan_removal, remove, remove_arrays
from toptune.store.upkeep.repair import RepairReport, repair
from toptune.store.upkeep.usage import Usage, measure
from toptune.store.upkeep.verification import VerifyReport, verify

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
