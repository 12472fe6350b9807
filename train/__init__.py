"""Features in, heads out: splits, preprocessing, the one-pass solver, heads, RUN folders.

Names are imported when first used, so that ``import toptune.train`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toptune.train.comparison import compare_heads
    from toptune.train.comparison_report import Comparison
    from toptune.train.discriminant_classifier import ShrinkageDiscriminantClassifier
    from toptune.train.evaluation import evaluate_run
    from toptune.train.falkon_classifier import FalkonClassifier
    from toptune.train.folds import FoldsReducedWarning
    from toptune.train.head2toe import Head2ToeClassifier
    from toptune.train.heads import HEADS, Head, load_head, make_head
    from toptune.train.layer_choices import LayerChoice, LayerSearch
    from toptune.train.layer_report import LayerReport, report_layers
    from toptune.train.layer_search import search_layers
    from toptune.train.layers import choose_arrays
    from toptune.train.linear_logistic import StreamingLogisticClassifier
    from toptune.train.logistic_classifier import FalkonLogisticClassifier
    from toptune.train.metrics import compute_metrics
    from toptune.train.nearest_mean import NearestMeanClassifier
    from toptune.train.nearest_neighbors import NearestNeighborClassifier
    from toptune.train.preprocessing import PreprocessedBlocks, Preprocessing
    from toptune.train.preprocessing_fit import fit_preprocessing
    from toptune.train.report import FitReport
    from toptune.train.ridge_classifier import StreamingRidgeClassifier
    from toptune.train.run import Run, RunArray
    from toptune.train.run_update import update_run
    from toptune.train.splits import Split, split_manifest
    from toptune.train.torch_dataset import FeatureDataset
    from toptune.train.training import train

_HOMES = {
    "Comparison": "toptune.train.comparison_report",
    "FalkonClassifier": "toptune.train.falkon_classifier",
    "FalkonLogisticClassifier": "toptune.train.logistic_classifier",
    "FeatureDataset": "toptune.train.torch_dataset",
    "FitReport": "toptune.train.report",
    "FoldsReducedWarning": "toptune.train.folds",
    "HEADS": "toptune.train.heads",
    "Head": "toptune.train.heads",
    "Head2ToeClassifier": "toptune.train.head2toe",
    "LayerChoice": "toptune.train.layer_choices",
    "LayerReport": "toptune.train.layer_report",
    "LayerSearch": "toptune.train.layer_choices",
    "PreprocessedBlocks": "toptune.train.preprocessing",
    "Preprocessing": "toptune.train.preprocessing",
    "NearestMeanClassifier": "toptune.train.nearest_mean",
    "NearestNeighborClassifier": "toptune.train.nearest_neighbors",
    "Run": "toptune.train.run",
    "RunArray": "toptune.train.run",
    "ShrinkageDiscriminantClassifier": "toptune.train.discriminant_classifier",
    "Split": "toptune.train.splits",
    "StreamingLogisticClassifier": "toptune.train.linear_logistic",
    "StreamingRidgeClassifier": "toptune.train.ridge_classifier",
    "choose_arrays": "toptune.train.layers",
    "compare_heads": "toptune.train.comparison",
    "compute_metrics": "toptune.train.metrics",
    "evaluate_run": "toptune.train.evaluation",
    "fit_preprocessing": "toptune.train.preprocessing_fit",
    "load_head": "toptune.train.heads",
    "make_head": "toptune.train.heads",
    "report_layers": "toptune.train.layer_report",
    "search_layers": "toptune.train.layer_search",
    "split_manifest": "toptune.train.splits",
    "train": "toptune.train.training",
    "update_run": "toptune.train.run_update",
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
