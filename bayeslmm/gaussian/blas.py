"""One BLAS thread inside the core.

Two threads on the small factors of a mixed model spin-wait for each other: the gradient of a large
crossed model became fifty times slower.  The limit is set once around a whole optimization or
sampling run, never per evaluation.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@cache
def _controller():
    """The BLAS libraries of numpy and scipy, looked up once: the search takes milliseconds."""
    import scipy.linalg  # noqa: F401  (so that scipy's own BLAS is among them)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


_lock = threading.Lock()
_state: dict[str, Any] = {"depth": 0, "limiter": None}


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread while the block runs.

    Reentrant, and safe to enter from several threads at once: the limit is set by the first one
    in and lifted by the last one out, so the cost inside an outer block is that of a counter.

    Examples
    --------
    >>> with single_threaded_blas():
    ...     pass
    """
    with _lock:
        if _state["depth"] == 0:
            _state["limiter"] = _controller().limit(limits=1, user_api="blas")
        _state["depth"] += 1
    try:
        yield
    finally:
        with _lock:
            _state["depth"] -= 1
            if _state["depth"] == 0:
                limiter, _state["limiter"] = _state["limiter"], None
                limiter.restore_original_limits()
