"""Public names: type checkers read them here, and `lazy_loader` loads each one at its first use."""

import toptune.errors as _errors

from .arrays.ledger_entry import LedgerEntry as LedgerEntry
from .arrays.spec import ArraySpec as ArraySpec
from .arrays.units import (
    choose_unit_rows as choose_unit_rows,
    format_units as format_units,
    shard_units as shard_units,
)
from .datasets.manifest import Manifest as Manifest
from .datasets.registration import (
    Difference as Difference,
    find_version as find_version,
)
from .datasets.versions import (
    DatasetVersion as DatasetVersion,
    read_dataset_version as read_dataset_version,
)
from .exchange.copying import (
    CopyReport as CopyReport,
    copy_store as copy_store,
)
from .exchange.exporting import (
    EXPORT_FORMATS as EXPORT_FORMATS,
    export_features as export_features,
)
from .exchange.importing import import_features as import_features
from .features.blocks import (
    ArrayBlocks as ArrayBlocks,
    Blocks as Blocks,
)
from .features.dask_arrays import as_dask_array as as_dask_array
from .features.feature_cache import (
    CONTENT_ARRAY as CONTENT_ARRAY,
    FeatureCache as FeatureCache,
)
from .features.feature_store import (
    FeatureStore as FeatureStore,
    load_features as load_features,
)
from .features.feature_view import (
    FeatureView as FeatureView,
    StoredFeatures as StoredFeatures,
)
from .features.growth import (
    Growth as Growth,
    grow as grow,
    plan_growth as plan_growth,
)
from .features.image_digests import (
    GONE as GONE,
    KnownDigests as KnownDigests,
    known_digests as known_digests,
)
from .features.listing import (
    CacheSummary as CacheSummary,
    describe as describe,
    only_dataset as only_dataset,
    only_features as only_features,
    stored_features as stored_features,
    summarize as summarize,
)
from .features.recipe import Recipe as Recipe
from .files.json_values import canonical_json as canonical_json
from .files.names import plain_model_name as plain_model_name
from .files.place import place_of as place_of
from .files.provenance import provenance as provenance
from .upkeep.garbage import (
    Garbage as Garbage,
    collect_garbage as collect_garbage,
    find_garbage as find_garbage,
)
from .upkeep.removal import (
    Removal as Removal,
    plan_removal as plan_removal,
    plan_removals as plan_removals,
    remove as remove,
    remove_arrays as remove_arrays,
)
from .upkeep.repair import (
    RepairReport as RepairReport,
    repair as repair,
)
from .upkeep.usage import (
    Usage as Usage,
    measure as measure,
)
from .upkeep.verification import (
    VerifyReport as VerifyReport,
    verify as verify,
)

ConflictError = _errors.ConflictError
CorruptError = _errors.CorruptError
DeviceMemoryError = _errors.DeviceMemoryError
FormatVersionError = _errors.FormatVersionError
FoldsError = _errors.FoldsError
IncompleteError = _errors.IncompleteError
InputError = _errors.InputError
InterruptedRunError = _errors.InterruptedRunError
NumericalError = _errors.NumericalError
StoreError = _errors.StoreError
StoreNotFoundError = _errors.StoreNotFoundError
ToptuneError = _errors.ToptuneError
UnreadableImageError = _errors.UnreadableImageError
WeightsError = _errors.WeightsError
