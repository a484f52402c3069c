"""Of several test processes one compiles a kernel, the others wait and read it from its cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any
from zlib import crc32

from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher

from bayeslmm.compiling import cache_directory

__all__ = ["compile_in_one_process"]


def compile_in_one_process() -> None:
    """Lock a kernel between processes while it is compiled.

    A lock is a byte of one file, by a kernel's cache. A kernel is compiled after those it calls,
    so that none waits in a circle; within a process numba has a lock of its own, taken first.
    """
    try:
        import fcntl
    except ImportError:  # Windows: each compiles for itself
        return
    directory = cache_directory()
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    file = os.open(directory / "bayeslmm-tests-compiling", os.O_RDWR | os.O_CREAT)

    def locked(compile: Callable) -> Callable:
        @wraps(compile)
        def alone(made: Any, *signature: Any) -> Any:
            if made._cache.cache_path is None:
                return compile(made, *signature)
            byte = crc32(made._cache._cache_file._index_path.encode())
            with global_compiler_lock:
                fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
                try:
                    return compile(made, *signature)
                finally:
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)

        return alone

    for kind in (Dispatcher, CFunc):
        kind.compile = locked(kind.compile)
