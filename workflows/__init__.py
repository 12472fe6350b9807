"""What needs both stages: pictures in, labels out; the demo; what this machine offers.

Names are loaded when they are first used, so that a finished extraction is recognised without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toptune.workflows.classifier import Classifier, Prediction, write_predictions
    from toptune.workflows.demonstration import DemoReport, demo
    from toptune.workflows.evaluation import describe_metrics, evaluate
    from toptune.workflows.feature_files import export_stored, import_files
    from toptune.workflows.machine import examine_machine
    from toptune.workflows.progress import extraction_progress, work_progress

_WHERE = {
    "Classifier": "classifier",
    "DemoReport": "demonstration",
    "Prediction": "classifier",
    "demo": "demonstration",
    "describe_metrics": "evaluation",
    "evaluate": "evaluation",
    "examine_machine": "machine",
    "extraction_progress": "progress",
    "export_stored": "feature_files",
    "import_files": "feature_files",
    "work_progress": "progress",
    "write_predictions": "classifier",
}

__all__ = [
    "Classifier",
    "DemoReport",
    "Prediction",
    "demo",
    "describe_metrics",
    "evaluate",
    "examine_machine",
    "export_stored",
    "extraction_progress",
    "import_files",
    "work_progress",
    "write_predictions",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
