"""Groups of rows that stay on one side of a split and in one fold: by a column, by a pattern, by copies."""

import re
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from toptune.errors import InputError
from toptune.options import choices
from toptune.store.datasets.manifest import Manifest
from toptune.text import counted
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION

Rows = npt.NDArray[np.int64]


def row_keys(
    manifest: Manifest, *, group_by: str | None, together: Sequence[Sequence[str]] = ()
) -> list[str] | None:
    """Return the key of each row; rows of equal keys stay together. None where every row is on its own.

    Parameters
    ----------
    manifest : Manifest
    group_by : str, optional
        As of `group_keys`.
    together : sequence of sequence of str
        Ids of further groups. A group that shares a row with another one is joined to it, so that copies in
        two groups of `group_by` join both.

    Raises
    ------
    InputError
        As of `group_keys`.

    Examples
    --------
    >>> from toptune.store import Manifest
    >>> manifest = Manifest.from_columns(ids=["a1", "a2", "b1", "c1"], labels=list("xyxy"), sizes=[1] * 4)
    >>> row_keys(manifest, group_by="^(.)", together=[["a2", "b1"]])
    ['a', 'a', 'a', 'c']
    """
    keys = None if group_by is None else group_keys(manifest, group_by)
    if not together:
        return keys
    names = keys or manifest.ids
    # Rows without a label neither train nor test, and their key may be that nothing is known of their group.
    row_of = {image: row for row, image in enumerate(manifest.ids) if manifest.labels[row] is not None}
    rows = [[row_of[image] for image in group if image in row_of] for group in together]
    pairs = [(group[0], other) for group in rows for other in group[1:]]
    key_of = {name: at for at, name in enumerate(dict.fromkeys(names))}
    links = np.array([(key_of[names[one]], key_of[names[other]]) for one, other in pairs], dtype=np.int64)
    codes = components(links.reshape(-1, 2), len(key_of))
    # The first of the joined names is the key, so that the order of the rows has no effect.
    first: dict[int, str] = {}
    for name, code in zip(key_of, codes.tolist(), strict=True):
        first[code] = min(name, first.get(code, name))
    return [first[codes[key_of[name]]] for name in names]


def components(pairs: Rows, n: int) -> Rows:
    """Return the number of the connected component of each row (n,), of pairs of rows (p, 2)."""
    ones = np.ones(len(pairs), dtype=np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    found: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return found.astype(np.int64)


def group_keys(manifest: Manifest, group_by: str, *, option: str = "group_by") -> list[str]:
    """Return the key of the group of each row: a column of the manifest, or the first group of a pattern.

    Raises
    ------
    InputError
        If `group_by` is neither a column nor a pattern with a group, if an id does not match the pattern, or
        if a labeled row has no value in the column.
    """
    try:
        values = manifest.column(group_by)
    except (KeyError, InputError):
        pass
    else:
        _refuse_missing(values, manifest, group_by, option)
        return [str(value) for value in values]
    columns = choices(group_by, ["label", *manifest.extra_names])
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(
            f"{option} {group_by!r} is neither a column of the manifest nor a regular expression ({error}); "
            f"{columns}",
            option=option,
        ) from error
    if pattern.groups < 1:
        raise InputError(
            f"{option} {group_by!r} is no column that was kept with the images (text and whole numbers are "
            f"kept); {columns}, or give a pattern on the id whose group in parentheses is the key, such as "
            "'^([^_]+)_'",
            option=option,
        )
    matches = [pattern.search(identity) for identity in manifest.ids]
    keys = [None if match is None else match.group(1) for match in matches]
    # Rows without a label neither train nor test, and need no group.
    known = zip(manifest.ids, keys, manifest.labels, strict=True)
    missed = [identity for identity, key, label in known if key is None and label is not None]
    if missed:
        raise InputError(
            f"{option} pattern {group_by!r} does not match {counted(len(missed), 'id')}, for instance "
            f"{missed[0]!r}; widen it",
            option=option,
        )
    return [str(key) for key in keys]


def check_things(
    manifest: Manifest,
    answer_by: str,
    *,
    group_by: str | None,
    task: str,
    excluded: Collection[str] = (),
) -> None:
    """Refuse things that no single answer can be given for.

    Parameters
    ----------
    manifest : Manifest
    answer_by : str
        Column, or pattern on the id, of the thing that each row shows.
    group_by : str, optional
        As of `group_keys`, where rows are kept together by larger groups than things.
    task : str
        Name of the task.
    excluded : collection of str
        Ids of images that are left out.

    Raises
    ------
    InputError
        As of `group_keys`; if images of one thing carry different labels, or are of different groups.
    """
    keys = group_keys(manifest, answer_by, option="answer_by")
    known = zip(manifest.labels, manifest.ids, strict=True)
    rows = [row for row, (label, image) in enumerate(known) if label is not None and image not in excluded]
    things = [keys[row] for row in rows]
    labels_of_things(things, [str(manifest.labels[row]) for row in rows], by=answer_by, task=task)
    if group_by is None:
        return
    groups = group_keys(manifest, group_by)
    of_thing: dict[str, str] = {}
    for thing, row in zip(things, rows, strict=True):
        if of_thing.setdefault(thing, groups[row]) != groups[row]:
            raise InputError(
                f"thing {thing!r} by answer_by {answer_by!r} has images in the groups {of_thing[thing]!r} "
                f"and {groups[row]!r} by group_by {group_by!r}; group by what holds whole things, or leave "
                "--group-by out, because things stay together by themselves",
                option="group_by",
            )


def labels_of_things(
    things: Sequence[str], labels: Sequence[str], *, by: str, task: str = CLASSIFICATION
) -> dict[str, str]:
    """Return the label of each thing, of rows with the names of their things and their labels (n,).

    Raises
    ------
    InputError
        For things whose images carry different labels.
    """
    found: dict[str, str] = {}
    strange: dict[str, str] = {}
    for thing, label in zip(things, labels, strict=True):
        if found.setdefault(thing, label) != label:
            strange.setdefault(thing, label)
    if strange:
        first = next(iter(strange))
        what = "labels" if task in (CLASSIFICATION, AUTO_TASK) else "targets"
        raise InputError(
            f"{counted(len(strange), 'thing')} of {len(found)} by {by!r} with images of different {what}, "
            f"for instance {first!r} with {found[first]!r} and {strange[first]!r}; correct the {what}, "
            "take images out with --exclude, or answer by another column",
            option="answer_by",
        )
    return found


def _refuse_missing(values: Sequence[str | None], manifest: Manifest, group_by: str, option: str) -> None:
    """Raise an `InputError` that counts the labeled rows without a group, if there are any."""
    # They are neither one group nor many: images of one patient whose name is missing would lie on both sides
    # of a split, or those of all such patients on one side.
    known = zip(values, manifest.labels, manifest.ids, strict=True)
    missing = [identity for value, label, identity in known if not value and label is not None]
    if missing:
        raise InputError(
            f"{counted(len(missing), 'labeled row')} of {len(values)} rows have no value in the column "
            f"{group_by!r} that they are grouped by, for instance {missing[0]!r}; fill them in, or write a "
            "value of its own into each row that is a group of its own, and extract with --update, which "
            "computes nothing anew for columns",
            option=option,
        )
