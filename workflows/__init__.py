"""What needs both stages: pictures in, labels out; the demo; what this machine offers.

Names are loaded when they are first used, so that a finished extraction is recognised without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toptune.workflows.advice_report import AdviceReport
    from toptune.workflows.advising import advise
    from toptune.workflows.array_task import choose_shard
    from toptune.workflows.classifier import Classifier, Prediction, write_predictions
    from toptune.workflows.demonstration import DemoReport, demo
    from toptune.workflows.evaluation import describe_metrics, evaluate
    from toptune.workflows.exporting import ExportReport, export
    from toptune.workflows.feature_files import export_stored, import_files
    from toptune.workflows.finetune_options import FineTuneOptions
    from toptune.workflows.finetune_plan import FineTunePlan, plan_finetune
    from toptune.workflows.finetune_reports import finetune_progress
    from toptune.workflows.finetune_run import FineTunedRun
    from toptune.workflows.finetuning import finetune
    from toptune.workflows.machine import examine_machine
    from toptune.workflows.progress import extraction_progress, work_progress
    from toptune.workflows.report_page import ReportSummary, write_report
    from toptune.workflows.slurm_jobs import SlurmJobs, write_slurm_jobs
    from toptune.workflows.slurm_plan import SlurmPlan, size_jobs
    from toptune.workflows.slurm_submission import check_sbatch, submit_slurm_jobs
    from toptune.workflows.stop_signals import stop_on_signals
    from toptune.workflows.study import plan_study, run_study

_WHERE = {
    "AdviceReport": "advice_report",
    "Classifier": "classifier",
    "DemoReport": "demonstration",
    "FineTuneOptions": "finetune_options",
    "FineTunePlan": "finetune_plan",
    "FineTunedRun": "finetune_run",
    "ExportReport": "exporting",
    "Prediction": "classifier",
    "ReportSummary": "report_page",
    "SlurmJobs": "slurm_jobs",
    "SlurmPlan": "slurm_plan",
    "advise": "advising",
    "check_sbatch": "slurm_submission",
    "choose_shard": "array_task",
    "demo": "demonstration",
    "describe_metrics": "evaluation",
    "evaluate": "evaluation",
    "examine_machine": "machine",
    "export": "exporting",
    "extraction_progress": "progress",
    "export_stored": "feature_files",
    "finetune": "finetuning",
    "finetune_progress": "finetune_reports",
    "import_files": "feature_files",
    "plan_finetune": "finetune_plan",
    "plan_study": "study",
    "run_study": "study",
    "size_jobs": "slurm_plan",
    "stop_on_signals": "stop_signals",
    "submit_slurm_jobs": "slurm_submission",
    "work_progress": "progress",
    "write_predictions": "classifier",
    "write_report": "report_page",
    "write_slurm_jobs": "slurm_jobs",
}

__all__ = [
    "AdviceReport",
    "Classifier",
    "DemoReport",
    "ExportReport",
    "FineTuneOptions",
    "FineTunePlan",
    "FineTunedRun",
    "Prediction",
    "ReportSummary",
    "SlurmJobs",
    "SlurmPlan",
    "advise",
    "check_sbatch",
    "choose_shard",
    "demo",
    "describe_metrics",
    "evaluate",
    "examine_machine",
    "export",
    "export_stored",
    "extraction_progress",
    "finetune",
    "finetune_progress",
    "import_files",
    "plan_finetune",
    "plan_study",
    "run_study",
    "size_jobs",
    "stop_on_signals",
    "submit_slurm_jobs",
    "work_progress",
    "write_predictions",
    "write_report",
    "write_slurm_jobs",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
