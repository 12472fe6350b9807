"""What needs both stages: images in, labels out; the demo; what this machine offers.

Names are loaded when they are first used, so that a finished extraction is recognized without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toptune.machine.doctor import examine_machine
    from toptune.machine.progress import extraction_progress, work_progress
    from toptune.machine.stop_signals import stop_on_signals
    from toptune.workflows.advice.advising import advise
    from toptune.workflows.advice.report import AdviceReport
    from toptune.workflows.demonstration import DemoReport, demo
    from toptune.workflows.deploy.exporting import ExportReport, export
    from toptune.workflows.feature_files import export_stored, import_files
    from toptune.workflows.finetuning.options import FineTuneOptions
    from toptune.workflows.finetuning.plan import FineTunePlan, plan_finetune
    from toptune.workflows.finetuning.progress import finetune_progress
    from toptune.workflows.finetuning.run import FineTunedRun
    from toptune.workflows.finetuning.session import finetune
    from toptune.workflows.jobs.job_array import choose_shard
    from toptune.workflows.jobs.slurm_jobs import SlurmJobs, write_slurm_jobs
    from toptune.workflows.jobs.slurm_options import SlurmOptions
    from toptune.workflows.jobs.slurm_plan import SlurmPlan, size_jobs
    from toptune.workflows.jobs.slurm_submission import check_sbatch, submit_slurm_jobs
    from toptune.workflows.predict.classifier import Classifier
    from toptune.workflows.predict.evaluation import describe_metrics, evaluate
    from toptune.workflows.predict.predictions import Prediction, write_predictions
    from toptune.workflows.report.page import ReportSummary, write_report
    from toptune.workflows.study.study import plan_study, run_study

_WHERE = {
    "AdviceReport": "toptune.workflows.advice.report",
    "Classifier": "toptune.workflows.predict.classifier",
    "DemoReport": "toptune.workflows.demonstration",
    "FineTuneOptions": "toptune.workflows.finetuning.options",
    "FineTunePlan": "toptune.workflows.finetuning.plan",
    "FineTunedRun": "toptune.workflows.finetuning.run",
    "ExportReport": "toptune.workflows.deploy.exporting",
    "Prediction": "toptune.workflows.predict.predictions",
    "ReportSummary": "toptune.workflows.report.page",
    "SlurmJobs": "toptune.workflows.jobs.slurm_jobs",
    "SlurmOptions": "toptune.workflows.jobs.slurm_options",
    "SlurmPlan": "toptune.workflows.jobs.slurm_plan",
    "advise": "toptune.workflows.advice.advising",
    "check_sbatch": "toptune.workflows.jobs.slurm_submission",
    "choose_shard": "toptune.workflows.jobs.job_array",
    "demo": "toptune.workflows.demonstration",
    "describe_metrics": "toptune.workflows.predict.evaluation",
    "evaluate": "toptune.workflows.predict.evaluation",
    "examine_machine": "toptune.machine.doctor",
    "export": "toptune.workflows.deploy.exporting",
    "extraction_progress": "toptune.machine.progress",
    "export_stored": "toptune.workflows.feature_files",
    "finetune": "toptune.workflows.finetuning.session",
    "finetune_progress": "toptune.workflows.finetuning.progress",
    "import_files": "toptune.workflows.feature_files",
    "plan_finetune": "toptune.workflows.finetuning.plan",
    "plan_study": "toptune.workflows.study.study",
    "run_study": "toptune.workflows.study.study",
    "size_jobs": "toptune.workflows.jobs.slurm_plan",
    "stop_on_signals": "toptune.machine.stop_signals",
    "submit_slurm_jobs": "toptune.workflows.jobs.slurm_submission",
    "work_progress": "toptune.machine.progress",
    "write_predictions": "toptune.workflows.predict.predictions",
    "write_report": "toptune.workflows.report.page",
    "write_slurm_jobs": "toptune.workflows.jobs.slurm_jobs",
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
    "SlurmOptions",
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
