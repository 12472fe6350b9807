"""`pool_of_shares`: pools whose threads each compute on a fixed share of the cores."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch


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
    """
    before, settled, left = torch.get_num_threads(), threading.Barrier(len(shares) + 1), iter(shares)

    def settle() -> None:
        # The first call of torch in a thread sets the thread's number of threads to that of the process. Only
        # a number that is set after the first call stays.
        torch.get_num_threads()
        torch.set_num_threads(next(left))
        begun()
        settled.wait()

    pool = ThreadPoolExecutor(len(shares), name, initializer=settle)
    # A pool starts its threads with the first tasks: these tasks do nothing else.
    for _ in shares:
        pool.submit(int)
    try:
        settled.wait()
    except BaseException:  # after Ctrl-C the threads would wait for ever
        settled.abort()
        raise
    # Threads that begin later take the number that was set last, which would be the share of one thread.
    torch.set_num_threads(before)
    return pool
