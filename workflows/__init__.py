"""What needs both stages: pictures in, labels out; the demo; what this machine offers.

Names are loaded when they are first used, so that a finished extraction is recognised without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toptune.workflows.classifier import Classifier, Prediction, write_predictions
    from toptune.workflows.demo import DemoReport, demo
    from toptune.workflows.evaluation import describe_metrics, evaluate
    from toptune.workflows.machine import examine_machine
    from toptune.workflows.progress import extraction_progress

_WHERE = {
    "Classifier": "classifier",
    "DemoReport": "demo",
    "Prediction": "classifier",
    "demo": "demo",
    "describe_metrics": "evaluation",
    "evaluate": "evaluation",
    "examine_machine": "machine",
    "extraction_progress": "progress",
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
    "extraction_progress",
    "write_predictions",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    # Importing the module `demo` puts it in place of the function of that name; this puts it back.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
