"""`HeldArrays`: the folders of some arrays, held open so that a commit lands in them or nowhere."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toptune.errors import StoreError
from toptune.store.files.local_place import HeldFolder
from toptune.store.files.place import holding


@dataclass(frozen=True)
class HeldArrays:
    """Folders of a cache, of its arrays and of their ledgers; see `HeldFolder`.

    Attributes
    ----------
    cache : HeldFolder or None
        The cache's folder; None in a bucket, which has no folders to hold.
    arrays, ledgers : mapping of str to HeldFolder or None
        Name of an array to the folder of its values, and to that of its ledger.
    check : callable
        Raises a `StoreError` if the cache is not the one that was opened.
    """

    cache: HeldFolder | None
    check: Callable[[], None]
    arrays: Mapping[str, HeldFolder | None] = field(default_factory=dict)
    ledgers: Mapping[str, HeldFolder | None] = field(default_factory=dict)

    def array(self, name: str) -> HeldFolder | None:
        """Return the folder of an array's values."""
        return self.arrays[name]

    def ledger(self, name: str) -> HeldFolder | None:
        """Return the folder of an array's ledger."""
        return self.ledgers[name]

    def check_arrays(self) -> None:
        """Raise a `StoreError` if the cache or one of the arrays was removed meanwhile."""
        self.check()
        for held in self.ledgers.values():
            if held is not None and not held.is_there():
                raise StoreError(f"{held.path} was removed while it was in use; run extract again")


@contextlib.contextmanager
def hold_arrays(cache: Path, names: Sequence[str], check: Callable[[], None]) -> Iterator[HeldArrays]:
    """Hold the folders of some arrays of a cache, and then check that the cache is the one that was opened.

    A writer may stand still for hours at any step. Whatever was removed or made in the meantime, what the
    writer then writes lands in the folders that were checked, or is refused.

    Raises
    ------
    StoreError
        If the cache or one of the arrays was removed.
    """
    folders = [folder for name in names for folder in (cache / name, cache / "ledger" / name)]
    with contextlib.ExitStack() as stack:
        try:
            outer, *inner = stack.enter_context(holding(cache, *folders))
        except FileNotFoundError as error:
            check()
            raise StoreError(f"{error}: it was removed while it was in use; run extract again") from error
        check()
        held = HeldArrays(
            outer,
            check,
            dict(zip(names, inner[::2], strict=True)),
            dict(zip(names, inner[1::2], strict=True)),
        )
        try:
            yield held
        except StoreError:
            # A folder that was removed refuses new files; that it was removed is the better message.
            held.check_arrays()
            raise
