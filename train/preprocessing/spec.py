"""The steps that a text such as ``l2,standardise`` or ``standardise,pca:256`` names."""

from dataclasses import dataclass

from toptune.errors import InputError
from toptune.options import choices

NONE = "none"
STEPS = ("standardise", "l2", "power", "pca", "whiten", "ternary", "weigh")
WEIGH = "weigh"
# Width of the Gaussian kernel with which weights of layers are learned.
WEIGHED_WIDTH = 1.0
# After these steps the columns of a layer are no longer its own.
MIXING = ("pca", "whiten")

# The store and the runs have the British spelling, which American readers need not know.
_SPELLINGS = {"standardize": "standardise"}


@dataclass(frozen=True)
class StepSpec:
    """A step to fit: its name, and its argument if the text gives one."""

    name: str
    value: int | float | None = None


def parse_preprocessing(spec: str) -> tuple[StepSpec, ...]:
    """Read the names of steps, in order, with commas between; ``none`` is no step.

    Raises
    ------
    InputError
        For an unknown step, or an argument that a step does not take; the message lists the steps.
    """
    words = [word.strip() for word in spec.split(",")]
    if words == [NONE]:
        return ()
    steps = tuple(_step(word, spec) for word in words)
    names = [step.name for step in steps]
    if WEIGH in names[:-1] or (WEIGH in names and set(names) & set(MIXING)):
        raise InputError(
            f"preprocessing {spec!r}: {WEIGH} learns a weight for each layer, so that it is the last step "
            f"and goes with none that mixes layers ({', '.join(MIXING)}); give standardise,{WEIGH}",
            option="preprocess",
        )
    return steps


def is_weighed(spec: str) -> bool:
    """Tell whether the last step learns weights of layers."""
    return any(step.name == WEIGH for step in parse_preprocessing(spec))


def _step(word: str, spec: str) -> StepSpec:
    name, colon, argument = word.partition(":")
    name = _SPELLINGS.get(name, name)
    if name not in STEPS:
        raise InputError(
            f"preprocessing {spec!r}: step {word!r} is unknown; {choices(name, STEPS)}, with commas between "
            f"several, or {NONE}",
            option="preprocess",
        )
    if name in ("pca", "whiten"):
        return StepSpec(name, _components(argument, word) if colon else None)
    if name == "power":
        return StepSpec(name, _exponent(argument, word) if colon else None)
    if colon:
        raise InputError(
            f"preprocessing {spec!r}: step {name} takes no argument, and {argument!r} was given",
            option="preprocess",
        )
    return StepSpec(name)


def _components(argument: str, word: str) -> int | float:
    value = int(argument) if argument.isdecimal() else _number(argument)
    if value is None or not (value >= 1 if isinstance(value, int) else 0 < value <= 1):
        raise InputError(
            f"preprocessing step {word!r}: give a number of components (pca:256) or a share of the variance "
            "above 0 and up to 1 (pca:0.95)",
            option="preprocess",
        )
    return value


def _exponent(argument: str, word: str) -> float:
    value = _number(argument)
    if value is None or not 0 < value <= 1:
        raise InputError(
            f"preprocessing step {word!r}: give an exponent above 0 and at most 1 (0.5 is the signed root)",
            option="preprocess",
        )
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
