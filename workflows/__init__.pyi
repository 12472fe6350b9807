"""Public names: type checkers read them here, and `lazy_loader` loads each one at its first use."""

import toptune.machine.doctor as _doctor
import toptune.machine.progress as _progress
import toptune.machine.stop_signals as _stop_signals

from .advice.advising import advise as advise
from .advice.report import AdviceReport as AdviceReport
from .demonstration import (
    DemoReport as DemoReport,
    demo as demo,
)
from .deploy.exporting import (
    ExportReport as ExportReport,
    export as export,
)
from .feature_files import (
    export_stored as export_stored,
    import_files as import_files,
)
from .finetuning.finetune import finetune as finetune
from .finetuning.options import FineTuneOptions as FineTuneOptions
from .finetuning.plan import (
    FineTunePlan as FineTunePlan,
    plan_finetune as plan_finetune,
)
from .finetuning.progress import finetune_progress as finetune_progress
from .finetuning.run import FineTunedRun as FineTunedRun
from .inspection.findings import (
    Finding as Finding,
    ImageGroup as ImageGroup,
    check_kinds as check_kinds,
)
from .inspection.inspecting import inspect as inspect
from .inspection.options import InspectOptions as InspectOptions
from .inspection.report import Inspection as Inspection
from .jobs.job_array import choose_shard as choose_shard
from .jobs.slurm_jobs import (
    SlurmJobs as SlurmJobs,
    write_slurm_jobs as write_slurm_jobs,
)
from .jobs.slurm_options import SlurmOptions as SlurmOptions
from .jobs.slurm_plan import (
    SlurmPlan as SlurmPlan,
    size_jobs as size_jobs,
)
from .jobs.slurm_submission import (
    check_sbatch as check_sbatch,
    submit_slurm_jobs as submit_slurm_jobs,
)
from .likeness.finding import similar as similar
from .likeness.options import SimilarOptions as SimilarOptions
from .likeness.result import (
    Likeness as Likeness,
    Similarity as Similarity,
    check_similar_file as check_similar_file,
)
from .predict.classifier import Classifier as Classifier
from .predict.evaluation import (
    describe_metrics as describe_metrics,
    evaluate as evaluate,
)
from .predict.images import find_images as find_images
from .predict.predictions import (
    Prediction as Prediction,
    check_predictions_file as check_predictions_file,
    save_predictions as save_predictions,
    write_predictions as write_predictions,
)
from .report.page import (
    ReportSummary as ReportSummary,
    write_report as write_report,
)
from .run_files import (
    RunCheck as RunCheck,
    verify_run as verify_run,
)
from .sharing.pushing import (
    Pushed as Pushed,
    push as push,
)
from .study.study import (
    plan_study as plan_study,
    run_study as run_study,
)

examine_machine = _doctor.examine_machine
extraction_progress = _progress.extraction_progress
work_progress = _progress.work_progress
stop_on_signals = _stop_signals.stop_on_signals
