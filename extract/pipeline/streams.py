"""Forward passes run side by side, one a core, because the threads of one pass wait for one another."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from toptune.extract.backbone.backbone import Backbone
from toptune.extract.pipeline.thread_pools import pool_of_shares

# Each stream holds the activations of a batch: more streams would take more memory than they save time. The
# threads of one pass wait for each other after every layer, and for any decoder that took a core from one of
# them; passes of one thread each do not wait.
MOST_STREAMS = 8
# Batches in the queue of a CUDA device, beside the one whose results are fetched. Each takes its pixels and
# results on the device; activations are those of one batch, because a stream computes in order.
CUDA_AHEAD = 2
Result = TypeVar("Result")
# The result of a pass, and the seconds that the pass took, shared by the streams.
Timed = tuple[Result, float]


def count_streams(backbone: Backbone) -> int:
    """Return how many passes run side by side: one on CUDA or compiled, else one per thread of torch."""
    if backbone.device.type != "cpu" or "compiled" in backbone.recipe.forward:
        return 1
    return min(torch.get_num_threads(), MOST_STREAMS)


def count_ahead(backbone: Backbone) -> int:
    """Return how many passes are launched ahead of the one whose result is fetched.

    A CUDA device has two batches in its queue while the results of the one before are put into their places;
    passes of a CPU have a stream each.
    """
    return CUDA_AHEAD if backbone.device.type == "cuda" else count_streams(backbone)


class AbandonedError(Exception):
    """Raised inside a forward pass whose result will not be fetched."""


class Streams:
    """Threads that compute forward passes, each on its share of the cores.

    Features do not depend on the number of streams as long as each stream has one core, and no other thread's
    number of threads changes. A single stream is the caller's own thread. Leaving the ``with`` block abandons
    the passes whose results were not fetched, at their next layer.

    Parameters
    ----------
    n : int
        Number of streams; see `count_streams`.
    ahead : int, optional
        Passes that a caller launches ahead of the one whose result is fetched, to keep all streams busy; n by
        default. See `count_ahead`.
    """

    def __init__(self, n: int, ahead: int | None = None) -> None:
        self.n, self.ahead = n, n if ahead is None else ahead
        self._pool: ThreadPoolExecutor | None = None
        self._threads: set[int] = set()
        self._is_over = threading.Event()

    def __enter__(self) -> "Streams":
        if self.n > 1:
            threads = torch.get_num_threads()
            shares = [threads // self.n + (i < threads % self.n) for i in range(self.n)]
            self._pool = pool_of_shares(
                shares, "toptune-forward", begun=lambda: self._threads.add(threading.get_ident())
            )
            # A forward pass cannot be interrupted from outside. A hook before each module ends the passes of
            # these threads, and of no others, at their next layer.
            self._hook = register_module_forward_pre_hook(self._check)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._is_over.set()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._hook.remove()

    def launch(self, work: Callable[[], Result]) -> Future[Timed[Result]]:
        """Begin a pass in a stream; the future gives the result and the seconds, divided by the streams."""
        if self._pool is not None:
            return self._pool.submit(self._timed, work)
        done: Future[Timed[Result]] = Future()
        done.set_result(self._timed(work))
        return done

    def _check(self, *_: object) -> None:
        if self._is_over.is_set() and threading.get_ident() in self._threads:
            raise AbandonedError

    def _timed(self, work: Callable[[], Result]) -> Timed[Result]:
        start = time.perf_counter()
        return work(), (time.perf_counter() - start) / self.n
