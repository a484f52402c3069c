"""One evaluation on several threads, where there are very many levels.

Work on levels is done in chunks of a fixed size (``_levels.chunk_sums``), which threads share out
and whose sums are added in the order of the chunks: no digit depends on the number of threads.

Threads are ours, around kernels that run free of the interpreter lock, and not numba's ``prange``:
its workqueue layer must not be entered by two threads at once, and after its OpenMP layer has run a
forked process (PyMC's samplers fork) that enters it is ended. Sharing out costs about 30
microseconds per evaluation.

Several threads are used by what the main thread evaluates: REML, profiles, the search of a mode.
Chains, importance sampling and calibration evaluate in threads of their own, side by side, and use
the processors already. ``NUMBA_NUM_THREADS`` limits the number.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from . import _levels

__all__ = ["MANY_EFFECTS", "alone", "level_sums", "many_levels", "shared_out"]

#: Random effects from which on several threads pay: an evaluation of 20,000 takes 0.2 ms.
MANY_EFFECTS = 20_000

_local = threading.local()
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def many_levels(levels: np.ndarray, q: int) -> bool:
    """Whether levels (columns of ``Values.levels``) are so many that threads may share them."""
    return levels.shape[1] * q >= MANY_EFFECTS


@contextmanager
def alone() -> Iterator[None]:
    """This thread's evaluations may use several threads: no other evaluates at the same time."""
    before = getattr(_local, "alone", False)
    _local.alone = True
    try:
        yield
    finally:
        _local.alone = before


def _threads() -> int:
    """How many threads the calling thread may use."""
    from numba.np.ufunc.parallel import get_thread_count

    if getattr(_local, "alone", False) or threading.current_thread() is threading.main_thread():
        return get_thread_count()
    return 1


def _workers() -> ThreadPoolExecutor:
    global _pool
    from numba.np.ufunc.parallel import get_thread_count

    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(get_thread_count(), "bayeslmm-levels")
        return _pool


def _forget_pool() -> None:
    """A forked process has the pool but none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def level_sums(
    levels: np.ndarray, q: int, m: int, L: np.ndarray, want_gradient: bool,
    threads: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Sums of every chunk of levels, see ``_levels.chunk_sums``; the same for any ``threads``.

    Parameters
    ----------
    levels : (q (q + 1) / 2 + q m, J) array
    L : (q^2,) array
        Relative factor.
    threads : int, optional
        By default as many as the calling thread may use.
    """
    n_chunks = _levels.count_chunks(levels.shape[1])
    out = np.empty((n_chunks, _levels.sums_size(q, m, want_gradient)))
    shared_out(
        lambda first, stop: _levels.chunk_sums(levels, q, m, L, first, stop, want_gradient, out),
        n_chunks,
        threads,
    )
    return out


def shared_out(work: Callable[[int, int], None], n: int, threads: int | None = None) -> None:
    """Do n pieces of work on several threads, each a range of them.

    Parameters
    ----------
    work : callable
        Does the pieces from its first argument to its second, free of the interpreter lock.
    n : int
    threads : int, optional
        By default as many as the calling thread may use.
    """
    parts = max(1, min(_threads() if threads is None else threads, n))
    ends = [n * i // parts for i in range(parts + 1)]
    waiting = [_workers().submit(work, ends[i], ends[i + 1]) for i in range(1, parts)]
    work(0, ends[1])
    for part in waiting:
        part.result()
