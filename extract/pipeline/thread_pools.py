"""`pool_of_shares`: pools whose threads each compute on a fixed share of the cores."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from toptune.errors import ToptuneError


def pool_of_shares(
    shares: Sequence[int], name: str, *, begun: Callable[[], object] = lambda: None
) -> ThreadPoolExecutor:
    """Start threads, each of which has its own number of torch's threads.

    Parameters
    ----------
    shares : sequence of int
        For each thread of the pool, how many threads of torch its operations may use.
    name : str
        Prefix of the threads' names.
    begun : callable, optional
        Called in each thread as the thread begins.

    Returns
    -------
    ThreadPoolExecutor
        All of its threads are there. The number of the calling thread is what it was before.

    Raises
    ------
    ToptuneError
        If the system does not start so many threads.
    """
    before, settled, left = torch.get_num_threads(), threading.Barrier(len(shares) + 1), iter(shares)

    def settle() -> None:
        # The first call of torch in a thread sets the thread's number of threads to that of the process. Only
        # a number that is set after the first call stays.
        torch.get_num_threads()
        torch.set_num_threads(next(left))
        begun()
        # The wait is broken off where another thread of the pool did not start.
        with contextlib.suppress(threading.BrokenBarrierError):
            settled.wait()

    pool = ThreadPoolExecutor(len(shares), name, initializer=settle)
    started = 0
    try:
        # A pool starts its threads with the first tasks: these tasks do nothing else.
        for started in range(len(shares)):  # noqa: B007  (the message needs the number)
            pool.submit(int)
        settled.wait()
    except BaseException as error:  # the threads that are there would wait for ever, after Ctrl-C too
        settled.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(before)
        if isinstance(error, RuntimeError) and not isinstance(error, threading.BrokenBarrierError):
            raise ToptuneError(
                f"this system started {started} of {len(shares)} threads ({name}) and no more ({error}); "
                "give fewer --workers, or raise the limit on processes (ulimit -u, or that of the container)"
            ) from error
        raise
    # Threads that begin later take the number that was set last, which would be the share of one thread.
    torch.set_num_threads(before)
    return pool
