"""`BestRecord`: what ``train --best`` tried, and what left-out rows say of the choice."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from toptune.text import named, printed_records
from toptune.train.runs.sources import JsonObject

# So many candidates are printed; run.json has all of them.
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class TriedRecord:
    """One candidate.

    Attributes
    ----------
    models : tuple of str
        The backbones, spelled as for ``train --model``.
    layers : str
        Name of the set of stored layers, the same for each backbone.
    head : str
    fusion : str, optional
        How several backbones share the run; None for one backbone.
    accuracy, log_loss : float, optional
        Figures of the left-out rows; None for a candidate that was not fitted.
    seconds : float, optional
        Seconds that its fits took.
    skipped : str, optional
        Why the candidate was not fitted.
    """

    models: tuple[str, ...]
    layers: str
    head: str
    fusion: str | None = None
    accuracy: float | None = None
    log_loss: float | None = None
    seconds: float | None = None
    skipped: str | None = None
    others: JsonObject = field(default_factory=dict)

    def __str__(self) -> str:
        how = f"{self.fusion}: " if self.fusion else ""
        return f"{self.head}, {self.layers}, {how}{' + '.join(self.models)}"


@dataclass(frozen=True, kw_only=True)
class BestRecord:
    """What was tried within a budget, and the figures of the choice.

    Attributes
    ----------
    budget_seconds, seconds : float
        The budget, and what the trials took. The chosen candidate is trained once more for the run.
    tried : tuple of TriedRecord
        The candidates in their order; the first is the default.
    chosen : int
        Position of the chosen candidate.
    next_best : int, optional
        Position of the candidate that would have been chosen without the chosen one.
    accuracy, log_loss : float
        Figures of the choice itself: for each fold, the candidate that the rows of the other folds choose
        answers for the rows of the fold.
    n_rows : int
        Left-out rows behind all figures.
    """

    budget_seconds: float
    seconds: float
    tried: tuple[TriedRecord, ...]
    chosen: int
    next_best: int | None = None
    accuracy: float
    log_loss: float
    n_rows: int
    others: JsonObject = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield what was tried, what was chosen and what came next, as text."""
        fitted = [at for at, each in enumerate(self.tried) if each.accuracy is not None]
        yield (
            f"tried {len(fitted)} of {len(self.tried)} candidates in {self.seconds:.1f} s of "
            f"{self.budget_seconds:g} s, compared by {self.n_rows} left-out rows:"
        )
        # The chosen one and the next are shown whatever their log-loss; equal ones stay in their order.
        first = [at for at in (self.chosen, self.next_best) if at is not None]
        rest = sorted(set(fitted) - {*first}, key=lambda at: (self.tried[at].log_loss or 0.0, at))
        yield printed_records([self._cells(at) for at in [*first, *rest][:_SHOWN]])
        if len(fitted) > _SHOWN:
            yield f"and {len(fitted) - _SHOWN} more in run.json"
        if self.next_best is not None:
            yield f"next best: {self.tried[self.next_best]}"
        yield (
            f"left-out accuracy {self.accuracy:.4f}, log loss {self.log_loss:.4f}, each row by the candidate "
            "that the other folds choose"
        )
        if skipped := [(str(each), each.skipped) for each in self.tried if each.skipped]:
            yield f"not tried: {named(skipped, most=3)}"

    def _cells(self, at: int) -> dict[str, str]:
        tried = self.tried[at]
        return {
            "": "*" if at == self.chosen else "",
            "log loss": f"{tried.log_loss:.4f}",
            "accuracy": f"{tried.accuracy:.4f}",
            "seconds": f"{tried.seconds:.1f}",
            "head": tried.head,
            "layers": tried.layers,
            "fusion": tried.fusion or "",
            "models": " + ".join(tried.models) + (" (default)" if at == 0 else ""),
        }
