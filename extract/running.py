"""Requests are carried out; finished requests are recognized from the store alone, without torch."""

from collections.abc import Sequence

from toptune.extract.request.finished import recognize
from toptune.extract.request.plan import ExtractSummary
from toptune.extract.request.request import ExtractRequest


def run_all(requests: Sequence[ExtractRequest]) -> list[ExtractSummary]:
    """Recognize requests that are finished, and carry out the others together.

    Parameters
    ----------
    requests : sequence of ExtractRequest
        Requests for one data set, or for several of its parts; for one model or several.

    Returns
    -------
    list of ExtractSummary
        In the order of `requests`.
    """
    found = [None if each.existing is None else recognize(each.existing, each) for each in requests]
    left = [each for each, summary in zip(requests, found, strict=True) if summary is None]
    if not left:
        return [summary for summary in found if summary is not None]
    # The import waits until here, because torch takes seconds to load and a finished extraction needs no
    # torch.
    from toptune.extract.jobs import run_jobs

    done = iter(run_jobs(left))
    return [next(done) if summary is None else summary for summary in found]
