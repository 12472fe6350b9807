"""The training images that carried the mistakes of a kernel head, where the store of the run is at hand."""

from collections.abc import Sequence
from dataclasses import dataclass

from toptune.errors import ToptuneError
from toptune.store.features.feature_store import FeatureStore
from toptune.train.runs.evidence import Evidence, check_kernel_head, evidence_of
from toptune.train.runs.run import Run
from toptune.train.runs.sources import open_sources
from toptune.workflows.report.runs import ReportedRun

# Training images that are told of each mistake.
N_CARRIERS = 3
_KERNEL_HEADS = ("falkon", "falkon-logistic", "auto")


@dataclass(frozen=True)
class Carried:
    """Evidence by image, or the reason why there is none.

    Attributes
    ----------
    evidence : dict of str to Evidence
    reason : str or None
        None also for heads that are not asked, because their scores are no sums over training images.
    """

    evidence: dict[str, Evidence]
    reason: str | None = None


def carriers_of(run: ReportedRun, ids: Sequence[str]) -> Carried:
    """Tell what carried the predictions of some test images of a run.

    Parameters
    ----------
    run : ReportedRun
    ids : sequence of str
        Images of the data set of the run.
    """
    record = run.record
    if record.is_finetuned or record.is_fused or record.options.get("head") not in _KERNEL_HEADS or not ids:
        return Carried({})
    # A report is of runs, and the store may be elsewhere or gone by now.
    try:
        opened = Run.load(run.folder)
        if record.options.get("head") == "auto" and opened.head.name not in _KERNEL_HEADS:
            return Carried({})
        check_kernel_head(opened)
        features = open_sources(
            FeatureStore.open(opened.store), opened.sources, run.dataset, version=opened.dataset_version
        )
        row_of = {identity: row for row, identity in enumerate(features.manifest.ids)}
        known = sorted((row_of[each], each) for each in ids if each in row_of)
        blocks = features.blocks([array.name for array in opened.arrays], [row for row, _ in known])
        found = evidence_of(opened, blocks, k=N_CARRIERS)
    except ToptuneError as error:
        return Carried({}, f"{run.folder}: {error}")
    return Carried({each: told for (_, each), told in zip(known, found, strict=True)})
