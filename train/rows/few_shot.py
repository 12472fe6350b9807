"""Training on a few images: k of each class, or a stratified sample of a given size."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.text import named
from toptune.train.rows.options import RowOptions
from toptune.train.rows.splits import Split, hash_of, held_out
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION


def draw_training_rows(
    split: Split,
    manifest: Manifest,
    *,
    shots: int | None = None,
    train_size: int | None = None,
    seed: int = 0,
    task: str = CLASSIFICATION,
) -> Split:
    """Keep a sample of the training rows; the test rows stay as they are.

    Within each class, rows are taken in the order of a hash of (seed, id). So the sample of k shots is part
    of the sample of k + 1 shots, and images added to one class do not change the sample of another class.

    Parameters
    ----------
    split : Split
        Split whose training rows are sampled; groups that the split keeps on one side stay there.
    manifest : Manifest
        Labels and ids of the rows.
    shots : int, optional
        Rows of each class.
    train_size : int, optional
        Rows of all classes together, in proportion to the rows of the classes (largest remainders).
    seed : int
        Seed of the hash; another seed draws another sample.
    task : str
        Of another task than classification, `train_size` rows are drawn evenly from its strata; no class
        is there of which `shots` could count rows.

    Returns
    -------
    Split
        The split with the sample; ``n_not_drawn`` counts the training rows that are left out.

    Raises
    ------
    InputError
        If both are given, or either is not above 0; for classes with fewer rows than `shots`; for a
        `train_size` above the training rows or below the classes.
    """
    RowOptions(shots=shots, train_size=train_size)  # refuses values out of range
    if shots is None and train_size is None:
        return split
    if task not in (AUTO_TASK, CLASSIFICATION):
        return _spread_sample(split, manifest, shots=shots, train_size=train_size, seed=seed, task=task)
    members: dict[str, list[int]] = {}
    for row in split.train.tolist():
        members.setdefault(str(manifest.labels[row]), []).append(row)
    if shots is not None:
        wanted = _shots_of(members, shots)
        what = f"{shots} of each class"
    else:
        assert train_size is not None
        wanted = _shares_of(members, train_size)
        what = f"{train_size} in proportion to the classes"
    drawn: list[int] = []
    for label, rows in members.items():
        order = sorted(rows, key=lambda row: (hash_of(seed, f"sample\0{manifest.ids[row]}"), row))
        drawn += order[: wanted[label]]
    return replace(
        split,
        train=np.array(sorted(drawn), dtype=np.int64),
        n_not_drawn=len(split.train) - len(drawn),
        rule=f"{split.rule}; of its {len(split.train)} training rows {what} by a hash of (seed {seed}, id)",
    )


def _spread_sample(
    split: Split, manifest: Manifest, *, shots: int | None, train_size: int | None, seed: int, task: str
) -> Split:
    """Do what `draw_training_rows` does, for a task other than classification."""
    n = len(split.train)
    if shots is not None or train_size is None:
        raise InputError(
            f"shots is {shots}, which --task {task} does not know: a row has no one class; give --train-size",
            option="shots",
        )
    if not 2 <= train_size <= n:
        raise InputError(f"train_size is {train_size}; it must be from 2 to {n}, the training rows there are")
    if train_size == n:
        return split
    rows = split.train.tolist()
    is_drawn = held_out(
        [f"sample\0{manifest.ids[row]}" for row in rows], [str(manifest.labels[row]) for row in rows],
        seed=seed, test_fraction=train_size / n, task=task,
    )  # fmt: skip
    # Strata are spread evenly, by which a sample may have a row or two more or less than was asked for.
    order = sorted(range(n), key=lambda at: (hash_of(seed, f"sample\0{manifest.ids[rows[at]]}"), rows[at]))
    ranked = [at for at in order if is_drawn[at]] + [at for at in order if not is_drawn[at]]
    return replace(
        split,
        train=np.sort(split.train[np.array(ranked[:train_size], dtype=np.int64)]),
        n_not_drawn=n - train_size,
        rule=f"{split.rule}; of its {n} training rows {train_size} by a hash of (seed {seed}, id)",
    )


def _shots_of(members: dict[str, list[int]], shots: int) -> dict[str, int]:
    short = {label: len(rows) for label, rows in sorted(members.items()) if len(rows) < shots}
    if short:
        raise InputError(
            f"{len(short)} of {len(members)} classes have fewer than {shots} training rows: "
            f"{named(list(short.items()))}; "
            f"ask for at most {min(short.values())} shots, or add images of these classes"
        )
    return dict.fromkeys(members, shots)


def _shares_of(members: dict[str, list[int]], train_size: int) -> dict[str, int]:
    """Return the rows of each class: the exact share rounded down, plus one for the largest remainders."""
    n = sum(map(len, members.values()))
    if not len(members) <= train_size <= n:
        raise InputError(
            f"train_size is {train_size}; it must be from {len(members)}, one for each class, to {n}, the "
            "training rows there are"
        )
    labels = sorted(members)
    shares: npt.NDArray[np.float64] = np.array([train_size * len(members[label]) / n for label in labels])
    counts = np.maximum(np.floor(shares).astype(np.int64), 1)
    # Rare classes were rounded up to one row each. The classes with most rows give these rows.
    while counts.sum() > train_size:
        counts[np.argmax(counts)] -= 1
    for at in np.argsort(-(shares - counts), kind="stable")[: train_size - int(counts.sum())]:
        counts[at] += 1
    return dict(zip(labels, counts.tolist(), strict=True))
