"""Threads share a number of pixels: many huge images are never in memory together."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from odd_images import empty_png, tiff
from tiny import draw, encode

from toptune.errors import UnreadableImageError
from toptune.extract.images import decode
from toptune.extract.images.decode import Decoding, decode_image, decoding
from toptune.extract.images.pixel_budget import PixelBudget


def test_a_share_waits_until_others_give_back() -> None:
    budget, order = PixelBudget(10), []

    def work(pixels: int) -> None:
        with budget.share() as share:
            share.hold(pixels)
            order.append(pixels)

    with budget.share() as share:
        share.hold(8)
        threads = [threading.Thread(target=work, args=(pixels,)) for pixels in (2, 5)]
        for thread in threads:
            thread.start()
        threads[0].join(5)
        assert order == [2]
        share.hold(3)  # what a share held before does not count
        threads[1].join(5)
    assert order == [2, 5]
    with budget.share() as share:
        share.hold(1000)  # more than there is: alone
        assert budget.take(0) == 0
    assert budget.take(10) == 10


def test_decoding_threads_never_hold_more_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "BUDGET", PixelBudget(2 * 1_000_000))
    data, lock, now, most = empty_png(1000, 900), threading.Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal now, most
        with decoding(data, Decoding(), more=lambda size: 50_000):
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(12)))
    assert most == 2


def test_pixels_are_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = PixelBudget(2000)
    monkeypatch.setattr(decode, "BUDGET", budget)
    for data in (encode(draw(0))[:300], encode(draw(0), "TIFF")[:400], b"", b"x"):
        with pytest.raises(UnreadableImageError):
            decode_image(data)
    assert budget.take(2000) == 2000


def test_tiles_larger_than_their_image_count() -> None:
    data = tiff(bytes(64), (8, 2), bits=16, tags={322: 60000, 323: 60000})
    with pytest.raises(UnreadableImageError, match="60000 x 60000 pixels, more than the limit"):
        decode_image(data)


def test_an_image_that_does_not_fit_into_memory_is_tried_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, tried = PixelBudget(10_000), []
    monkeypatch.setattr(decode, "BUDGET", budget)
    whole = decode._load

    def load(*arguments: object) -> object:
        tried.append(budget._left)
        if len(tried) == 1:
            raise MemoryError
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "_load", load)
    assert decode_image(encode(draw(0))).size == (40, 32)
    assert tried == [10_000, 0]

    def fail(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(decode, "_load", fail)
    with pytest.raises(UnreadableImageError, match="not enough memory"):
        decode_image(encode(draw(0)))
