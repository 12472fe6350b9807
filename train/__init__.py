"""Features in, heads out: splits, preprocessing, the one-pass solver, heads, RUN folders.

Names are imported when first used, so that ``import toptune.train`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toptune.train.estimators.discriminant import ShrinkageDiscriminantClassifier
    from toptune.train.estimators.falkon import FalkonClassifier
    from toptune.train.estimators.falkon_logistic import FalkonLogisticClassifier
    from toptune.train.estimators.fit_report import FitReport
    from toptune.train.estimators.head2toe import Head2ToeClassifier
    from toptune.train.estimators.logistic import StreamingLogisticClassifier
    from toptune.train.estimators.nearest_mean import NearestMeanClassifier
    from toptune.train.estimators.nearest_neighbors import NearestNeighborClassifier
    from toptune.train.estimators.ridge import StreamingRidgeClassifier
    from toptune.train.heads.heads import HEADS, Head, load_head, make_head
    from toptune.train.layers.choices import LayerChoice, LayerSearch
    from toptune.train.layers.search import search_layers
    from toptune.train.layers.stored_layers import choose_arrays
    from toptune.train.preprocessing.fitting import fit_preprocessing
    from toptune.train.preprocessing.preprocessing import PreprocessedBlocks, Preprocessing
    from toptune.train.reports.comparison import compare_heads
    from toptune.train.reports.comparison_report import Comparison
    from toptune.train.reports.layer_report import LayerReport, report_layers
    from toptune.train.rows.folds import FoldsReducedWarning
    from toptune.train.rows.splits import Split, split_manifest
    from toptune.train.rows.torch_dataset import FeatureDataset
    from toptune.train.runs.evaluation import evaluate_run
    from toptune.train.runs.metrics import compute_metrics
    from toptune.train.runs.record import RunArray, RunRecord
    from toptune.train.runs.run import Run
    from toptune.train.runs.training import train
    from toptune.train.runs.update import update_run

_HOMES = {
    "Comparison": "toptune.train.reports.comparison_report",
    "FalkonClassifier": "toptune.train.estimators.falkon",
    "FalkonLogisticClassifier": "toptune.train.estimators.falkon_logistic",
    "FeatureDataset": "toptune.train.rows.torch_dataset",
    "FitReport": "toptune.train.estimators.fit_report",
    "FoldsReducedWarning": "toptune.train.rows.folds",
    "HEADS": "toptune.train.heads.heads",
    "Head": "toptune.train.heads.heads",
    "Head2ToeClassifier": "toptune.train.estimators.head2toe",
    "LayerChoice": "toptune.train.layers.choices",
    "LayerReport": "toptune.train.reports.layer_report",
    "LayerSearch": "toptune.train.layers.choices",
    "PreprocessedBlocks": "toptune.train.preprocessing.preprocessing",
    "Preprocessing": "toptune.train.preprocessing.preprocessing",
    "NearestMeanClassifier": "toptune.train.estimators.nearest_mean",
    "NearestNeighborClassifier": "toptune.train.estimators.nearest_neighbors",
    "Run": "toptune.train.runs.run",
    "RunArray": "toptune.train.runs.record",
    "RunRecord": "toptune.train.runs.record",
    "ShrinkageDiscriminantClassifier": "toptune.train.estimators.discriminant",
    "Split": "toptune.train.rows.splits",
    "StreamingLogisticClassifier": "toptune.train.estimators.logistic",
    "StreamingRidgeClassifier": "toptune.train.estimators.ridge",
    "choose_arrays": "toptune.train.layers.stored_layers",
    "compare_heads": "toptune.train.reports.comparison",
    "compute_metrics": "toptune.train.runs.metrics",
    "evaluate_run": "toptune.train.runs.evaluation",
    "fit_preprocessing": "toptune.train.preprocessing.fitting",
    "load_head": "toptune.train.heads.heads",
    "make_head": "toptune.train.heads.heads",
    "report_layers": "toptune.train.reports.layer_report",
    "search_layers": "toptune.train.layers.search",
    "split_manifest": "toptune.train.rows.splits",
    "train": "toptune.train.runs.training",
    "update_run": "toptune.train.runs.update",
}

__all__ = [
    "HEADS",
    "Comparison",
    "FalkonClassifier",
    "FalkonLogisticClassifier",
    "FeatureDataset",
    "FitReport",
    "FoldsReducedWarning",
    "Head",
    "Head2ToeClassifier",
    "LayerChoice",
    "LayerReport",
    "LayerSearch",
    "NearestMeanClassifier",
    "NearestNeighborClassifier",
    "PreprocessedBlocks",
    "Preprocessing",
    "Run",
    "RunArray",
    "RunRecord",
    "ShrinkageDiscriminantClassifier",
    "Split",
    "StreamingLogisticClassifier",
    "StreamingRidgeClassifier",
    "choose_arrays",
    "compare_heads",
    "compute_metrics",
    "evaluate_run",
    "fit_preprocessing",
    "load_head",
    "make_head",
    "report_layers",
    "search_layers",
    "split_manifest",
    "train",
    "update_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
