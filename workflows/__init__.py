"""What needs both stages: pictures in, labels out; the demo; what this machine offers."""

from toptune.workflows.classifier import Classifier, Prediction, write_predictions
from toptune.workflows.demo import DemoReport, demo
from toptune.workflows.evaluation import describe_metrics, evaluate
from toptune.workflows.machine import examine_machine
from toptune.workflows.progress import extraction_progress

__all__ = [
    "Classifier",
    "DemoReport",
    "Prediction",
    "demo",
    "describe_metrics",
    "evaluate",
    "examine_machine",
    "extraction_progress",
    "write_predictions",
]
