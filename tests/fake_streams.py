"""Streams and events of the pretended CUDA device: the order of its work, and who has waited for it.

Work of one stream is done in the order in which it was launched. Work of two streams has no order, unless one
of them waits for an event of the other, or the host waits for it.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

# How much was launched, by stream: everything up to this number.
Clock = Mapping["Stream", int]


class Stream:
    """A `torch.cuda.Stream`, as far as toptune uses streams."""

    device = torch.device("cuda", 0)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.launched = 0
        _streams.add(self)
        self._waited_for: dict[Stream, int] = {}

    def clock(self) -> dict["Stream", int]:
        """What is done once everything is done that was launched in this stream so far."""
        return {**self._waited_for, self: self.launched}

    def has_waited_for(self, other: "Stream", number: int) -> bool:
        return other is self or max(self._waited_for.get(other, 0), done.get(other, 0)) >= number

    def wait_event(self, event: "Event") -> None:
        for stream, number in event.covers.items():
            self._waited_for[stream] = max(self._waited_for.get(stream, 0), number)

    def wait_stream(self, other: "Stream") -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)

    def synchronize(self) -> None:
        host_waits("stream", self.clock())


class Event:
    """A `torch.cuda.Event`, as far as toptune uses events; its time is the number of operations before it."""

    def __init__(self, *_: Any, enable_timing: bool = False, **__: Any) -> None:
        self.covers: Clock = {}
        self.is_timing = enable_timing
        self._at: int | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or current()
        self.covers, self._at = stream.clock(), stream.launched

    def query(self) -> bool:
        return all(done.get(stream, 0) >= number for stream, number in self.covers.items())

    def synchronize(self) -> None:
        host_waits("event", self.covers)

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds between two events, a millisecond an operation."""
        if self._at is None or end._at is None or not (self.is_timing and end.is_timing):
            raise RuntimeError("Both events must be recorded and created with argument 'enable_timing=True'.")
        if not (self.query() and end.query()):
            raise RuntimeError("CUDA error: device not ready")
        return float(end._at - self._at)


_streams: weakref.WeakSet[Stream] = weakref.WeakSet()
# What the host knows to be done.
done: dict[Stream, int] = {}
_inside: list[Stream] = [Stream()]
# Called when the host waits, with the reason and with what is done then; the device sets it.
on_wait: list[Callable[[str, Clock], None]] = []


def current(*_: Any) -> Stream:
    return _inside[-1]


@contextmanager
def use(stream: Stream | None) -> Iterator[None]:
    """Launch in a stream inside, as `torch.cuda.stream` does."""
    _inside.append(stream or current())
    try:
        yield
    finally:
        _inside.pop()


def launch() -> tuple[Stream, int]:
    """Launch an operation in the current stream; gives the stream and the operation's number there."""
    stream = current()
    stream.launched += 1
    return stream, stream.launched


def everything() -> Clock:
    return {stream: stream.launched for stream in _streams}


def host_waits(reason: str, covers: Clock) -> None:
    """Let the host wait for what an event or a stream covers."""
    for stream, number in covers.items():
        done[stream] = max(done.get(stream, 0), number)
    for each in on_wait:
        each(reason, covers)


def begin(arrive: Callable[[str, Clock], None]) -> None:
    """Forget the streams of an earlier device; `arrive` is called when the host waits."""
    done.clear()
    on_wait[:] = [arrive]
    _inside[:] = [Stream()]
