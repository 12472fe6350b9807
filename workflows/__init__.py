"""What needs both stages: pictures in, labels out; the demo; what this machine offers.

Names are loaded when they are first used, so that a finished extraction is recognised without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toptune.machine.doctor import examine_machine
    from toptune.machine.progress import extraction_progress, work_progress
    from toptune.machine.stop_signals import stop_on_signals
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
    from toptune.workflows.report_page import ReportSummary, write_report
    from toptune.workflows.slurm_jobs import SlurmJobs, write_slurm_jobs
    from toptune.workflows.slurm_plan import SlurmPlan, size_jobs
    from toptune.workflows.slurm_submission import check_sbatch, submit_slurm_jobs
    from toptune.workflows.study import plan_study, run_study

_WHERE = {
    "AdviceReport": "toptune.workflows.advice_report",
    "Classifier": "toptune.workflows.classifier",
    "DemoReport": "toptune.workflows.demonstration",
    "FineTuneOptions": "toptune.workflows.finetune_options",
    "FineTunePlan": "toptune.workflows.finetune_plan",
    "FineTunedRun": "toptune.workflows.finetune_run",
    "ExportReport": "toptune.workflows.exporting",
    "Prediction": "toptune.workflows.classifier",
    "ReportSummary": "toptune.workflows.report_page",
    "SlurmJobs": "toptune.workflows.slurm_jobs",
    "SlurmPlan": "toptune.workflows.slurm_plan",
    "advise": "toptune.workflows.advising",
    "check_sbatch": "toptune.workflows.slurm_submission",
    "choose_shard": "toptune.workflows.array_task",
    "demo": "toptune.workflows.demonstration",
    "describe_metrics": "toptune.workflows.evaluation",
    "evaluate": "toptune.workflows.evaluation",
    "examine_machine": "toptune.machine.doctor",
    "export": "toptune.workflows.exporting",
    "extraction_progress": "toptune.machine.progress",
    "export_stored": "toptune.workflows.feature_files",
    "finetune": "toptune.workflows.finetuning",
    "finetune_progress": "toptune.workflows.finetune_reports",
    "import_files": "toptune.workflows.feature_files",
    "plan_finetune": "toptune.workflows.finetune_plan",
    "plan_study": "toptune.workflows.study",
    "run_study": "toptune.workflows.study",
    "size_jobs": "toptune.workflows.slurm_plan",
    "stop_on_signals": "toptune.machine.stop_signals",
    "submit_slurm_jobs": "toptune.workflows.slurm_submission",
    "work_progress": "toptune.machine.progress",
    "write_predictions": "toptune.workflows.classifier",
    "write_report": "toptune.workflows.report_page",
    "write_slurm_jobs": "toptune.workflows.slurm_jobs",
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
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
