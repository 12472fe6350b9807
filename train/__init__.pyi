"""Public names: type checkers read them here, and `lazy_loader` loads each one at its first use."""

import toptune.store.arrays.stored_layers as _stored_layers

from .best.training import train as train
from .estimators.discriminant import ShrinkageDiscriminantClassifier as ShrinkageDiscriminantClassifier
from .estimators.falkon import FalkonClassifier as FalkonClassifier
from .estimators.falkon_logistic import FalkonLogisticClassifier as FalkonLogisticClassifier
from .estimators.fit_report import FitReport as FitReport
from .estimators.head2toe import Head2ToeClassifier as Head2ToeClassifier
from .estimators.logistic import StreamingLogisticClassifier as StreamingLogisticClassifier
from .estimators.nearest_mean import NearestMeanClassifier as NearestMeanClassifier
from .estimators.nearest_neighbors import NearestNeighborClassifier as NearestNeighborClassifier
from .estimators.ridge import StreamingRidgeClassifier as StreamingRidgeClassifier
from .figures.metrics import compute_metrics as compute_metrics
from .fusion.blending import blend as blend
from .fusion.evaluation import evaluate_run as evaluate_run
from .fusion.fused_run import (
    FusedRun as FusedRun,
    load_run as load_run,
)
from .fusion.update import update_run as update_run
from .heads.heads import (
    HEADS as HEADS,
    Head as Head,
    load_head as load_head,
    make_head as make_head,
)
from .layers.choices import (
    LayerChoice as LayerChoice,
    LayerSearch as LayerSearch,
)
from .layers.search import search_layers as search_layers
from .preprocessing.fitting import fit_preprocessing as fit_preprocessing
from .preprocessing.layer_scaler import LayerScaler as LayerScaler
from .preprocessing.preprocessing import (
    PreprocessedBlocks as PreprocessedBlocks,
    Preprocessing as Preprocessing,
)
from .regressors.falkon import FalkonRegressor as FalkonRegressor
from .regressors.nearest_neighbors import NearestNeighborRegressor as NearestNeighborRegressor
from .regressors.ridge import RidgeRegressor as RidgeRegressor
from .reports.comparison import compare_heads as compare_heads
from .reports.comparison_report import Comparison as Comparison
from .reports.layer_report import (
    LayerReport as LayerReport,
    report_layers as report_layers,
)
from .rows.folds import FoldsReducedWarning as FoldsReducedWarning
from .rows.splits import (
    Split as Split,
    split_manifest as split_manifest,
)
from .rows.torch_dataset import FeatureDataset as FeatureDataset
from .runs.record import RunRecord as RunRecord
from .runs.run import Run as Run
from .runs.sources import RunArray as RunArray

choose_arrays = _stored_layers.choose_arrays
