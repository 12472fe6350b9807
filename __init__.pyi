"""Public names: type checkers read them here, and `lazy_loader` loads each one at its first use."""

from . import (
    extract as extract,
    store as store,
    train as train,
    workflows as workflows,
)
from .errors import (
    InputError as InputError,
    InterruptedRunError as InterruptedRunError,
    NumericalError as NumericalError,
    StoreError as StoreError,
    StoreNotFoundError as StoreNotFoundError,
    ToptuneError as ToptuneError,
)
from .extract.sources.arrays.image_list import source_of_images as source_of_images
from .extract.sources.opening import open_source as open_source
from .store.features.feature_cache import FeatureCache as FeatureCache
from .store.features.feature_store import (
    FeatureStore as FeatureStore,
    load_features as load_features,
)
from .train.estimators.discriminant import ShrinkageDiscriminantClassifier as ShrinkageDiscriminantClassifier
from .train.estimators.falkon import FalkonClassifier as FalkonClassifier
from .train.estimators.falkon_logistic import FalkonLogisticClassifier as FalkonLogisticClassifier
from .train.estimators.head2toe import Head2ToeClassifier as Head2ToeClassifier
from .train.estimators.logistic import StreamingLogisticClassifier as StreamingLogisticClassifier
from .train.estimators.nearest_mean import NearestMeanClassifier as NearestMeanClassifier
from .train.estimators.nearest_neighbors import NearestNeighborClassifier as NearestNeighborClassifier
from .train.estimators.ridge import StreamingRidgeClassifier as StreamingRidgeClassifier
from .train.fusion.fused_run import (
    FusedRun as FusedRun,
    load_run as load_run,
)
from .train.regressors.falkon import FalkonRegressor as FalkonRegressor
from .train.regressors.nearest_neighbors import NearestNeighborRegressor as NearestNeighborRegressor
from .train.regressors.ridge import RidgeRegressor as RidgeRegressor
from .train.runs.run import Run as Run
from .workflows.predict.classifier import Classifier as Classifier
from .workflows.predict.predictions import Prediction as Prediction

__version__: str
