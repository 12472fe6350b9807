"""What the rows chosen to train and test must be before any head sees them."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.text import counted
from toptune.train.rows.folds import usable_folds
from toptune.train.rows.splits import Split

_SHOWN = 5


def leave_out(
    split: Split,
    bad_rows: npt.NDArray[np.int64],
    manifest: Manifest,
    *,
    allow: bool,
    reasons: Mapping[int, str],
) -> tuple[Split, int]:
    """Leave rows out of a split, or refuse and name them."""
    if len(bad_rows) == 0:
        return split, 0
    used = np.intersect1d(bad_rows, np.concatenate([split.train, split.test]))
    if len(used) and not allow:
        shown = [
            f"{manifest.ids[row]!r}" + (f" ({reasons[row]})" if row in reasons else "")
            for row in used[:_SHOWN].tolist()
        ]
        more = f" and {len(used) - _SHOWN} more" if len(used) > _SHOWN else ""
        raise InputError(
            f"{len(used)} of the images to train and test on have features that are not finite: "
            f"{', '.join(shown)}{more}; leave them out with --skip-failed (allow_failed=True), or repair "
            "them and extract again with --update"
        )
    kept = replace(split, train=np.setdiff1d(split.train, used), test=np.setdiff1d(split.test, used))
    return kept, len(used)


def note_untested(is_known: npt.NDArray[np.bool_]) -> list[str]:
    """Say how many test images (n,) are of classes that were not trained on; nothing where none is."""
    n_unknown = int((~is_known).sum())
    return [f"not tested: {counted(n_unknown, 'image')} of classes without training"] if n_unknown else []


def check_classes(
    manifest: Manifest, split: Split, *, cv: int | str | None, is_cross_validated: bool
) -> tuple[list[str], list[int]]:
    """Refuse training rows that no head could learn from; give classes and their members."""
    classes, counts = np.unique([str(manifest.labels[row]) for row in split.train], return_counts=True)
    if len(classes) == 0:
        raise InputError("no training rows are left; check labels, split and failed images")
    if len(classes) < 2:
        raise InputError(
            f"the training rows have one class only, {str(classes[0])!r}; a classifier needs at least 2"
        )
    members = {str(name): int(count) for name, count in zip(classes, counts, strict=True)}
    if is_cross_validated and isinstance(cv, int):
        usable_folds(members, cv, may_reduce=False)
    return list(members), list(members.values())


def rows_digest(split: Split, manifest: Manifest) -> str:
    """SHA-256 over ids and roles: equal splits give equal digests."""
    digest, ids, labels = hashlib.sha256(), manifest.ids, manifest.labels
    for role, rows in (("train", split.train), ("test", split.test)):
        lines = [f"{role}\0{ids[row]}\0{labels[row]}\n" for row in rows.tolist()]
        digest.update("".join(lines).encode())
    return digest.hexdigest()
