"""What ``train --best`` may try: sets of layers that no label chose, heads, and ways to share a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.stored_layers import ALL, by_depth, tap_of
from toptune.train.runs.best_record import TriedRecord
from toptune.train.runs.options import FUSIONS, JOIN, LATE, TrainOptions

# The first one is the default of `train`.
HEADS = ("falkon", "lda", "logistic", "falkon-logistic", "ridge")
ALL_STORED, UPPER_HALF, LAST_LAYER, GIVEN = "all stored", "upper half", "last", "as given"
Arrays = Sequence[ArraySpec]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One training that may become the run.

    Attributes
    ----------
    layers : str
        Name of the set of layers.
    arrays : mapping of str to sequence of ArraySpec
        The stored arrays of each model.
    head : str
    fusion : str or None
        ``late`` or ``join`` of several models.
    """

    layers: str
    arrays: Mapping[str, Arrays]
    head: str
    fusion: str | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in their order."""
        return tuple(self.arrays)

    def alone(self) -> "list[Candidate]":
        """Return the same head on each model alone, of which a late fusion is made."""
        return [replace(self, arrays={name: own}, fusion=None) for name, own in self.arrays.items()]

    def options(self, given: TrainOptions) -> TrainOptions:
        """Return the options of `train` that train this candidate."""
        layers: Any = given.layers
        if self.layers in (UPPER_HALF, LAST_LAYER):
            of_models = {name: ",".join(each.name for each in own) for name, own in self.arrays.items()}
            layers = of_models if len(of_models) > 1 else of_models[self.models[0]]
        elif isinstance(layers, Mapping):
            layers = {name: given.for_model(name).layers for name in self.models}
        head = replace(given.head, head=self.head, best=False, budget=None)
        return replace(given, head=head, layers=layers, fusion=self.fusion)

    def record(self, **figures: Any) -> TriedRecord:
        """Return what the run says of the candidate."""
        return TriedRecord(
            models=self.models, layers=self.layers, head=self.head, fusion=self.fusion, **figures
        )


def layer_sets(arrays: Mapping[str, Arrays], *, are_given: bool) -> dict[str, dict[str, list[ArraySpec]]]:
    """Return the sets of layers that are compared, by name and model: all, the deeper half, the last.

    No label has a part in these sets, so that their left-out figures are as honest as those of one set. A
    model has a set only if it differs from the larger ones.

    Parameters
    ----------
    arrays : mapping of str to sequence of ArraySpec
        What is stored of each model.
    are_given : bool
        Whether the layers were asked for, so that there is one set.

    Examples
    --------
    >>> sizes = {"dim": 8, "dtype": "float16", "unit_rows": 2, "chunk_rows": 2, "n_rows": 2}
    >>> arrays = [ArraySpec(name=f"blocks.{i}.mean", **sizes) for i in range(4)]
    >>> found = layer_sets({"vit": arrays, "small": arrays[:1]}, are_given=False)
    >>> {name: {model: len(own) for model, own in of_models.items()} for name, of_models in found.items()}
    {'all stored': {'vit': 4, 'small': 1}, 'upper half': {'vit': 2}, 'last': {'vit': 1}}
    """
    if are_given:
        return {GIVEN: {model: list(own) for model, own in arrays.items()}}
    found: dict[str, dict[str, list[ArraySpec]]] = {ALL_STORED: {}, UPPER_HALF: {}, LAST_LAYER: {}}
    for model, own in arrays.items():
        deep = by_depth(own)
        taps = list(dict.fromkeys(map(tap_of, deep)))
        found[ALL_STORED][model] = list(own)
        if len(taps) > 2:
            found[UPPER_HALF][model] = [each for each in deep if tap_of(each) in taps[len(taps) // 2 :]]
        if len(taps) > 1:
            found[LAST_LAYER][model] = [each for each in deep if tap_of(each) == taps[-1]]
    return {name: of_models for name, of_models in found.items() if of_models}


def candidates(arrays: Mapping[str, Arrays], options: TrainOptions) -> Iterator[Candidate]:
    """Yield what is tried, in order: the default first, and what takes longer for less later.

    Of several models, a candidate with late fusion stands for the same head on each model alone, too.

    Parameters
    ----------
    arrays : mapping of str to sequence of ArraySpec
        What is stored of each model.
    options : TrainOptions
        A fusion that is asked for is the only one that is tried.
    """
    sets = layer_sets(arrays, are_given=options.layers not in (None, ALL))
    wanted = FUSIONS if options.fusion is None else (options.fusion,)
    for number, (name, of_models) in enumerate(sets.items()):
        is_several = len(of_models) > 1
        for fusion in wanted if is_several else (None,):
            # The widest fits are made of one set only, because more would take as long as all the rest.
            if fusion == JOIN and number > 0:
                continue
            for head in HEADS:
                yield Candidate(layers=name, arrays=of_models, head=head, fusion=fusion)


def tried_together(candidate: Candidate, options: TrainOptions) -> list[Candidate]:
    """Return a candidate and, of a late fusion, the heads alone that are fitted for it anyway.

    Whoever asks for late fusion gets late fusion: the heads alone are then none of the candidates.
    """
    if candidate.fusion == LATE and options.fusion is None:
        return [candidate, *candidate.alone()]
    return [candidate]
