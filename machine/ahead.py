"""`ahead`: work is submitted a few items before its result is asked for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Submitted = TypeVar("Submitted")


def ahead(
    items: Iterable[Item], submit: Callable[[Item], Submitted], depth: int
) -> Iterator[tuple[Item, Submitted]]:
    """Yield each item with what `submit` returned for the item, after `depth` later items were submitted.

    The threads of a pool stay busy while the caller works on a result. At most ``depth + 1`` results wait, so
    that memory stays bounded however many items there are.

    Parameters
    ----------
    items : iterable
        The items, in the order in which results are wanted. The iterable is read as far as items are
        submitted, and no further.
    submit : callable
        Begins the work for one item; usually returns a future, or a list of futures.
    depth : int
        How many items are submitted beyond the one that is yielded.

    Yields
    ------
    tuple of (item, submitted)
        In the order of `items`.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     for word, future in ahead(["a", "b"], lambda word: pool.submit(word.upper), depth=1):
    ...         print(word, future.result())
    a A
    b B
    """
    # A pool's own `map` would submit every item at once and hold all results that nobody has taken yet.
    waiting: deque[tuple[Item, Submitted]] = deque()
    for item in items:
        waiting.append((item, submit(item)))
        if len(waiting) > depth:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
