"""The process of a command: errors as sentences, exit codes, little memory, full disks."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import sys
import warnings

import typer

from bayeslmm.cli.application import app

__all__ = ["main"]

_DATA_ERROR = 2


def main() -> None:
    """Entry point: errors in one line and exit code 2, warnings in one line each."""
    _search_less_for_garbage()
    _spare_memory()
    warnings.showwarning = _show_warning
    try:
        app()
    except SystemExit as stopped:
        _leave(stopped.code)
    except KeyboardInterrupt:
        _say("Stopped.")
        _leave(130)
    except Exception as err:
        if os.environ.get("BAYESLMM_TRACEBACK"):
            raise
        try:
            sentence = _in_a_sentence(err)
        except Exception:  # too little memory even to find the words
            sentence = (
                "There is not enough memory, or a limit (ulimit) lets this process have none."
            )
        _say(f"Error: {sentence}")
        _leave(_DATA_ERROR)


def _search_less_for_garbage() -> None:
    """What is imported stays: searching it for garbage is a third of a small fit's time."""
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)  # as the process ends its memory is given back anyway


def _spare_memory() -> None:
    """No threads of linear algebra where memory is limited: without room OpenBLAS interrupts us."""
    with contextlib.suppress(ImportError):
        import resource

        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _in_a_sentence(err: Exception) -> str:
    """What went wrong, in one line, whoever raised it."""
    from bayeslmm.cli.checks import QUOTES
    from bayeslmm.errors import BayesLMMError, FormulaError

    if isinstance(err, FormulaError) and "go in backquotes" in str(err):
        return f"{err} {QUOTES}"
    if isinstance(err, BayesLMMError | ValueError | KeyError):
        return str(err)
    text = " ".join(str(err).split())
    if _is_lack_of_memory(err):
        return (
            "There is not enough memory, or a limit (ulimit) lets this process have no more. Files "
            f"can be read in batches: --batch-rows. ({text[-150:] or type(err).__name__})"
        )
    if isinstance(err, OSError):
        where = f" ({err.filename})" if err.filename else ""
        return f"Cannot read or write{where}: {err.strerror or err}."
    return f"{type(err).__name__}: {text} (BAYESLMM_TRACEBACK=1 shows where.)"


def _is_lack_of_memory(err: BaseException | None) -> bool:
    """Whether an error, or one behind it, is that of a library that got no memory."""
    signs = (
        "allocate memory",
        "failed to map",
        "new thread",
        "out of memory",
        "malloc",
        "error return without exception set",  # a library that could not make its error
    )
    while err is not None:
        if isinstance(err, MemoryError) or getattr(err, "errno", None) == errno.ENOMEM:
            return True
        if any(sign in str(err) for sign in signs):
            return True
        err = err.__cause__ or err.__context__
    return False


def _leave(code) -> None:
    """Exit; output that cannot be written is an error in one line, too."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as err:
        if code in (0, None):
            _say(f"Error: {_in_a_sentence(err)}")
            code = _DATA_ERROR
        _drop(sys.stdout)
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _drop(sys.stderr)
    sys.exit(code)


def _drop(stream) -> None:
    """Let what is left in a stream go nowhere, so that Python does not try again as it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _say(text: str) -> None:
    """To standard error, if that can be written to."""
    with contextlib.suppress(OSError, ValueError):
        typer.echo(text, err=True)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    _say(f"Warning: {message}")
