"""`Preprocessing`: fitted steps between the stored features and the head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import Blocks, IndexedBlocks, row_slices
from toptune.train.preprocessing.files import read_steps, write_steps
from toptune.train.preprocessing.principal_components import PrincipalComponents
from toptune.train.preprocessing.steps import Layers, LayerStep, Select, Step, apply_steps

# Bytes of the rows in float64 that are transformed at a time, however many rows a reader asks for and
# however wide they were before the steps.
_PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Steps in order, applied to the rows of some layers side by side.

    Attributes
    ----------
    spec : str
        The text that named the steps.
    layer_dims : tuple of int
        Columns of each input layer.
    steps : tuple of Step
        The fitted steps, in order.

    Raises
    ------
    ValueError
        If a step was fitted to other columns than the step before gives.
    """

    spec: str
    layer_dims: Layers
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        _ = self.layers_between

    @property
    def layers_between(self) -> list[Layers]:
        """Columns of each layer before every step, and after the last step."""
        return list(accumulate(self.steps, lambda dims, step: step.layers(dims), initial=self.layer_dims))

    @property
    def n_inputs(self) -> int:
        return sum(self.layer_dims)

    @property
    def n_outputs(self) -> int:
        return sum(self.layers_between[-1])

    @property
    def warnings(self) -> list[str]:
        """What could not be done as it was asked for."""
        components = [step for step in self.steps if isinstance(step, PrincipalComponents)]
        return [warning for step in components for warning in step.warnings]

    def apply(self, values: npt.NDArray[np.number]) -> npt.NDArray[np.float32]:
        """Turn rows (b, n_inputs) into rows (b, n_outputs); computed in float64."""
        return apply_steps(self.steps, values).astype(np.float32, copy=False)

    def used_layers(self, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Tell, with one entry for each input layer, which layers some of the outputs depend on."""
        if not all(isinstance(step, LayerStep) for step in self.steps):
            return np.ones(len(self.layer_dims), dtype=bool)
        return np.array(Select(columns=columns).layers(self.layer_dims)) > 0

    def restricted(self, columns: npt.NDArray[np.int64]) -> "Preprocessing":
        """Return the preprocessing that gives only some of the outputs, from the layers that these depend on.

        Parameters
        ----------
        columns : ndarray of int64, shape (d',)
            Positions of the outputs, ascending.
        """
        kept = self.used_layers(columns)
        if kept.all():
            return replace(self, steps=(*self.steps, Select(columns=columns)))
        # Here all steps keep layers apart, so that each output has the position of its input.
        steps = [step.restricted(kept, self.layer_dims) for step in self.steps if isinstance(step, LayerStep)]
        place = np.cumsum(np.repeat(kept, self.layer_dims), dtype=np.int64) - 1
        return Preprocessing(
            spec=self.spec,
            layer_dims=tuple(np.array(self.layer_dims)[kept].tolist()),
            steps=(*steps, Select(columns=place[columns])),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return an account of the fit in JSON values."""
        return {
            "spec": self.spec,
            "n_inputs": self.n_inputs,
            "n_outputs": self.n_outputs,
            "steps": [step.to_dict() for step in self.steps],
        }

    def save(self, folder: Path) -> None:
        """Write ``preprocessing.safetensors`` into a folder."""
        write_steps(folder, self.steps, spec=self.spec, layer_dims=self.layer_dims)

    @classmethod
    def load(cls, folder: Path) -> "Preprocessing":
        """Read the file that `save` wrote.

        Raises
        ------
        CorruptError
            If the file is missing or damaged.
        """
        return read_steps(folder, lambda spec, dims, steps: cls(spec=spec, layer_dims=dims, steps=steps))


class PreprocessedBlocks(IndexedBlocks):
    """A view of other `Blocks` that preprocesses rows as they are read.

    Attributes
    ----------
    layer_dims : tuple of int
        Columns of each layer after preprocessing; one entry where a step has mixed the layers.
    layer_names : tuple of str
        Names of the input layers, where names are given.
    """

    def __init__(self, blocks: Blocks, preprocessing: Preprocessing, layer_names: Sequence[str] = ()) -> None:
        self.blocks = blocks
        self.preprocessing = preprocessing
        self.layer_names = tuple(layer_names)
        self.layer_dims = preprocessing.layers_between[-1]

    @property
    def shape(self) -> tuple[int, int]:
        return (self.blocks.shape[0], sum(self.layer_dims))

    @property
    def dtype(self) -> np.dtype[np.number]:
        return np.dtype(np.float32)

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        if self.shape[1] >= self.blocks.shape[1]:
            for rows, values in self.blocks.iterate(block_rows):
                yield rows, self._applied(values)
            return
        pieces = (self.preprocessing.apply(values) for _, values in self.blocks.iterate(self._piece_rows))
        held = np.empty((0, self.shape[1]), dtype=self.dtype)
        for rows in row_slices(self.shape, self.dtype, block_rows):
            parts, missing = [], rows.stop - rows.start
            while missing:
                held = held if len(held) else next(pieces)
                parts.append(held[:missing])
                held, missing = held[missing:], missing - len(parts[-1])
            yield rows, np.concatenate(parts)

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        return self._applied(self.blocks.take(rows))

    def _applied(self, values: npt.NDArray[np.number]) -> npt.NDArray[np.number]:
        """Preprocess piece by piece: the float64 values in between are of a piece only."""
        result = np.empty((len(values), self.shape[1]), dtype=self.dtype)
        for piece in row_slices(values.shape, self.dtype, self._piece_rows):
            result[piece] = self.preprocessing.apply(values[piece])
        return result

    @property
    def _piece_rows(self) -> int:
        return max(1, _PIECE_BYTES // (8 * self.blocks.shape[1]))
