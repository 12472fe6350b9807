"""What was measured besides the figures of all images, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

# Figures of things that are printed, of the tasks that have them.
_OF_THINGS = (
    "accuracy", "macro_f1", "mean_average_precision", "f1_micro", "subset_accuracy", "log_loss", "r2", "mae",
    "quadratic_kappa",
)  # fmt: skip


def describe_asked(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was measured besides the figures of all images, a line each."""
    if sets := metrics.get("label_sets"):
        yield f"sets of labels: {_sets(sets)}"
    for level in metrics.get("levels", []):
        yield (
            f"level {level['level']} ({level['n_classes']} classes): accuracy {_figure(level['accuracy'])}, "
            f"macro f1 {_figure(level['macro_f1'])}"
        )
    if backed := metrics.get("back_off"):
        yield (
            f"back off {backed['least']:g}: {_figure(backed['accuracy'])} of the answers hold, "
            f"{_figure(backed['share_of_classes'])} are classes of the run; {backed['n_unanswered']} images "
            "without an answer"
        )
    if novelty := metrics.get("novelty"):
        yield _novelty(novelty)
    if intervals := metrics.get("prediction_intervals"):
        yield from _intervals(intervals, of="")
    if things := metrics.get("things"):
        figures = ", ".join(
            f"{name.replace('_', ' ')} {_figure(things[name])}" for name in _OF_THINGS if name in things
        )
        by = f"by {things['answer_by']!r} from {things['answer_from']}"
        yield f"{things['n_things']} things {by}: {figures}"
        if sets := things.get("label_sets"):
            yield f"sets of labels of things: {_sets(sets)}"
        if intervals := things.get("prediction_intervals"):
            yield from _intervals(intervals, of=" of things")
    if detection := metrics.get("detection"):
        measured = ", ".join(
            f"{name.replace('_', ' ')} {value:.4f}"
            for name, value in detection["auroc"].items()
            if value is not None
        )
        yield f"{detection['n_outside']} images of {detection['dataset']}: AUROC {measured}"
        yield from (f"note: {note}" for note in detection["notes"])


def _intervals(intervals: Mapping[str, Any], *, of: str) -> Iterator[str]:
    for name, each in intervals["targets"].items():
        width = "no end" if each["half_width"] is None else f"half width {each['half_width']:.4g}"
        yield (
            f"intervals of {name}{of}: coverage {each['coverage']:.4f} of {intervals['asked']:g} asked "
            f"(standard error {intervals['standard_error']:.4f}), {width}"
        )


def _novelty(novelty: Mapping[str, Any]) -> str:
    line = f"novelty: mean {novelty['mean']:.4f}, {novelty['share_above_0.99']:.4f} of the images above 0.99"
    if "abstain_above" not in novelty:
        return line
    line += f"; above {novelty['abstain_above']:g} {novelty['n_abstained']} images get no answer"
    if "accuracy_of_answered" in novelty:
        line += f", accuracy of the others {_figure(novelty['accuracy_of_answered'])}"
    return line


def _sets(sets: Mapping[str, Any]) -> str:
    empty = f", {sets['n_empty']} empty" if sets["n_empty"] else ""
    if "contain_all" in sets:
        empty += f"; {sets['contain_all']:.4f} hold all that apply"
    return (
        f"coverage {sets['coverage']:.4f} of {sets['asked']:g} asked (standard error "
        f"{sets['standard_error']:.4f}), {sets['mean_size']:.2f} labels on average{empty}"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
