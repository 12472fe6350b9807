"""Work that is submitted a few items ahead of what the caller does."""

from collections.abc import Iterator

import pytest

from toptune.machine.ahead import ahead


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_items_come_in_order_and_no_more_than_the_depth_is_submitted_ahead(depth: int, n: int) -> None:
    submitted: list[int] = []

    def submit(item: int) -> int:
        submitted.append(item)
        return 10 * item

    for place, (item, result) in enumerate(ahead(range(n), submit, depth)):
        assert (item, result) == (place, 10 * place)
        assert submitted == list(range(min(n, place + depth + 1)))
    assert submitted == list(range(n))


def test_an_endless_iterable_is_read_only_as_far_as_needed() -> None:
    def numbers() -> Iterator[int]:
        yield from (0, 1, 2)
        raise AssertionError("read too far")

    pairs = ahead(numbers(), str, 1)
    assert [next(pairs), next(pairs)] == [(0, "0"), (1, "1")]
