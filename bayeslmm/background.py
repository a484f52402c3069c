"""Compiling in a process of its own, of low priority, while a person looks at a first fit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from bayeslmm.compiling import cache_directory, complete, interpreting, say, waits

__all__ = ["compile_in_background", "finished"]

#: On Windows: of lower priority, and without a window.
_QUIETLY = 0x00004000 | 0x08000000

_LOCK = "bayeslmm-compiling"

#: Seconds after which a process that was to compile is taken for dead.
_STALE = 900.0

#: Keeps the process object: nobody waits for the process.
_started: list[subprocess.Popen] = []


def compile_in_background() -> None:
    """Start :mod:`bayeslmm.precompiling` in a process of low priority, if that would be of use.

    That is where kernels were interpreted, caches can be written, nobody compiles yet, and the
    environment variable ``BAYESLMM_COMPILE`` does not say ``later``.
    """
    directory = cache_directory()
    if not interpreting() or waits() or directory is None or not sys.executable or complete():
        return
    if not _claim(directory / _LOCK):
        return
    detached = sys.platform != "win32"
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bayeslmm.precompiling"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=detached,
            creationflags=0 if detached else _QUIETLY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    except OSError:
        return
    _started.append(process)
    say(
        "Fitted by plain numpy; faster code is being compiled in the background for later fits "
        "(bayeslmm compile makes it at once)."
    )


def _claim(lock: Path) -> bool:
    """Whether this process is the one that starts another."""
    try:
        if time.time() - lock.stat().st_mtime > _STALE:
            lock.unlink(missing_ok=True)
    except OSError:
        pass  # there is none
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch(exist_ok=False)
    except OSError:
        return False
    return True


def finished() -> None:
    """Let other processes compile again, should there be something left."""
    if directory := cache_directory():
        (directory / _LOCK).unlink(missing_ok=True)
