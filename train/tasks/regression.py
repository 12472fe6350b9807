"""`Regression`: every row teaches one number, or several.

The text of a row names the targets with their values, ``age=41.5|weight=70``; a row without numbers has no
text.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from toptune.errors import InputError
from toptune.options import choices
from toptune.store.datasets.manifest import LABEL_SEPARATOR, Manifest
from toptune.text import counted, named
from toptune.train.tasks.names import REGRESSION
from toptune.train.tasks.task import AnyMatrix, Codes, TargetMatrix, Task, Wanted

# Between the name of a target and its value.
EQUALS = "="
# Folds and splits spread this many parts of a target's range evenly, each of as many rows as the others.
PARTS = 10
# Rows of a part, at least: fewer could not be in every fold.
_PART_ROWS = 10
_SHOWN = 5
# The squared error of a million rows of such numbers is still a number.
_LARGEST = 1e150


class Regression(Task):
    """Every row teaches numbers; the targets are these numbers."""

    name = REGRESSION
    figures = ("r2", "mae", "rmse", "spearman")
    loss = "left-out squared error of standardized targets"

    def labeled(self, manifest: Manifest, wanted: Wanted) -> Manifest:
        names = columns_of(wanted.target, manifest)
        columns = [_numbers(manifest, name) for name in names]
        _refuse_missing(manifest, names, columns, drop_missing=wanted.drop_missing)
        return manifest.with_label_column(
            [
                target_text(names, row) if all(map(math.isfinite, row)) else None
                for row in zip(*columns, strict=True)
            ]
        )

    def names(self, texts: Sequence[str]) -> list[str]:
        return [part.rpartition(EQUALS)[0] for part in texts[0].split(LABEL_SEPARATOR)] if texts else []

    def targets(self, texts: Sequence[str], names: Sequence[str]) -> TargetMatrix:
        values = np.full((len(texts), len(names)), np.nan)
        position = {name: at for at, name in enumerate(names)}
        for row, text in enumerate(texts):
            for part in text.split(LABEL_SEPARATOR):
                name, _, value = part.rpartition(EQUALS)
                if name in position:
                    values[row, position[name]] = float(value)
        return TargetMatrix(values=values, names=tuple(names))

    def members(self, texts: Sequence[str]) -> Mapping[str, int]:
        return dict.fromkeys(self.names(texts), len(texts))

    def strata(self, values: AnyMatrix) -> tuple[Codes, Codes]:
        n, k = values.shape
        n_parts = max(1, min(PARTS, n // _PART_ROWS))
        edges = np.arange(1, n_parts) / n_parts
        # Rows of equal targets are in one part, whatever their order.
        codes = np.stack(
            [
                at * n_parts + np.searchsorted(np.quantile(values[:, at], edges), values[:, at], side="right")
                for at in range(k)
            ],
            axis=1,
        )
        rows = np.repeat(np.arange(n), k)
        return rows.astype(np.int64), codes.reshape(-1).astype(np.int64)

    def check(self, texts: Sequence[str]) -> None:
        targets = self.targets(texts, self.names(texts))
        if len(texts) < 2:
            raise InputError(f"the training rows are {len(texts)}; a regression needs at least 2")
        for name, values in zip(targets.names, targets.values.T, strict=True):
            if (values == values[0]).all():
                raise InputError(
                    f"target {name!r} is {values[0]:g} in all {len(texts)} training rows, so that there is "
                    "nothing to learn; name another column with --target, or add images with other values",
                    option="target",
                )
            largest = float(np.abs(values).max())
            if largest > _LARGEST:
                raise InputError(
                    f"target {name!r} reaches {largest:g} in a training row, and squares of numbers above "
                    f"{_LARGEST:g} cannot be added up; write the column in a larger unit",
                    option="target",
                )


def target_text(names: Sequence[str], values: Sequence[float]) -> str:
    """Return the text of a row with these targets; equal numbers have equal texts."""
    return LABEL_SEPARATOR.join(
        f"{name}{EQUALS}{float(value)!r}" for name, value in zip(names, values, strict=True)
    )


def columns_of(target: str | None, manifest: Manifest) -> list[str]:
    """Return the columns that ``--target`` names.

    Raises
    ------
    InputError
        For no column, one that the data set has not, one that is named twice, or one whose name has a sign
        that parts targets.
    """
    names = [name.strip() for name in (target or "").split(",") if name.strip()]
    known = ["label", *manifest.extra_names]
    if not names:
        raise InputError(
            f"--task {REGRESSION} needs --target COLUMN, a numeric column of the data set; it has "
            f"{named(known)}",
            option="target",
        )
    for name in names:
        if name not in known:
            raise InputError(
                f"no column {name!r} in the data set; {choices(name, known)}: name one with --target",
                option="target",
            )
        if names.count(name) > 1:
            raise InputError(f"target {name!r} is given twice; name each column once", option="target")
        if LABEL_SEPARATOR in name or EQUALS in name:
            raise InputError(
                f"column {name!r} has {LABEL_SEPARATOR!r} or {EQUALS!r} in its name, which part targets in a "
                "run; rename it in the manifest",
                option="target",
            )
    return names


def _numbers(manifest: Manifest, name: str) -> list[float]:
    """Return the numbers of a column, NaN where a cell is empty.

    Raises
    ------
    InputError
        If a cell is text.
    """
    cells = manifest.column(name)
    texts = [(row, cell) for row, cell in enumerate(cells) if cell is not None and not _is_number(cell)]
    if texts:
        shown = ", ".join(f"{cell!r} in row {row} ({manifest.ids[row]!r})" for row, cell in texts[:_SHOWN])
        more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        raise InputError(
            f"column {name!r} holds text, not numbers, in {counted(len(texts), 'row')} of {len(cells)}: "
            f"{shown}{more}; name a numeric column with --target, or correct these cells in the manifest",
            option="target",
        )
    return [math.nan if cell is None else float(cell) for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    # Python reads 1_000, which no table means as a number.
    return "_" not in cell


def _refuse_missing(
    manifest: Manifest, names: Sequence[str], columns: Sequence[Sequence[float]], *, drop_missing: bool
) -> None:
    """Refuse missing and infinite targets, unless rows without a number are to be left out."""
    if not drop_missing:
        for name, values in zip(names, columns, strict=True):
            missing = [row for row, value in enumerate(values) if math.isnan(value)]
            infinite = [row for row, value in enumerate(values) if math.isinf(value)]
            told = [
                f"{what} in {counted(len(rows), 'row')} (rows {named(rows, most=_SHOWN)}; the first is "
                f"{manifest.ids[rows[0]]!r})"
                for what, rows in (("missing", missing), ("infinite", infinite))
                if rows
            ]
            if told:
                raise InputError(
                    f"target {name!r} is {' and '.join(told)} of {len(values)}; leave these images out with "
                    "--drop-missing, or complete the column in the manifest",
                    option="drop_missing",
                )
    if not any(all(map(math.isfinite, row)) for row in zip(*columns, strict=True)):
        raise InputError(
            f"no image has numbers in {'all of ' * (len(names) > 1)}{named(names)}; name another column with "
            "--target",
            option="target",
        )
