"""How numerical kernels are run: by Python at first, compiled once they are worth it.

A kernel is compiled once, cached beside its source, and runs without the GIL. Compiling what a
first fit needs takes about half a minute, interpreting it for a small model a fraction of a second
(sleepstudy: REML 0.02 s, a density with its gradient 0.4 ms, of which NUTS asks 11,000). So a
process whose caches are not complete (:func:`complete`) interprets kernels until that would take
longer than compiling them: :func:`expect`. Both ways are the same code, or the same formulas in
numpy (:func:`in_numpy`).
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock, local
from time import perf_counter, thread_time
from typing import Annotated, Any

import numpy as np
from numba import cfunc, njit, types

__all__ = [
    "Doubles",
    "IntegerMatrix",
    "Integers",
    "Matrix",
    "c_function",
    "cache_directory",
    "complete",
    "expect",
    "fingerprint",
    "fused",
    "in_numpy",
    "inlined",
    "interpreting",
    "kernel",
    "mark_complete",
    "ran_interpreted",
    "say",
    "search_is_complete",
    "steady",
    "summing_kernel",
    "undecided",
    "use_compiled",
    "waits",
]

# Fields of the records that kernels take: contiguous arrays of float64 and int64. The names are
# those of the functions that read such an array from a table, see :mod:`bayeslmm.bayes.kernels`.
Doubles = Annotated[np.ndarray, "doubles"]
Matrix = Annotated[np.ndarray, "matrix"]
Integers = Annotated[np.ndarray, "integers"]
IntegerMatrix = Annotated[np.ndarray, "integer_matrix"]

#: ``now``: compile at the first call of a kernel. ``later``: where interpreting would take longer,
#: and not in the background. ``never``: interpret whatever it takes. Else as ``later``, and in the
#: background after a first posterior.
VARIABLE = "BAYESLMM_COMPILE"

#: Seconds that a process interprets before it compiles: a quarter of what compiling an engine takes
#: (80 to 95 CPU seconds for two crossed factors).
_PATIENCE = 20.0

#: Seconds between looks for caches that another process has made.
_LOOK_EVERY = 1.0

_Compiled: Any = type(njit(lambda: 0))


class _Interpreted(_Compiled):
    """A kernel that Python runs."""

    def __call__(self, *args):
        if _running.inside:
            return self.plain(*args)
        if _completed():
            use_compiled()
            return self(*args)
        return _interpret(self, args)


class _Running(local):
    """Whether this thread is inside of an interpreted kernel."""

    inside = False


_running = _Running()
_CHOSEN = os.environ.get(VARIABLE)
_by_python = _CHOSEN != "now"
_kernels: list[Any] = []
_held = 0
_done_interpreted: set[Hashable] = set()
_spent, _looked = 0.0, -np.inf
_switching = Lock()


def _interpret(made: Any, args: tuple) -> Any:
    global _spent
    start = thread_time()
    _running.inside = True
    try:
        with np.errstate(all="ignore"):
            return made.plain(*args)
    finally:
        _running.inside = False
        _spent += thread_time() - start
        expect(0.0)


def _completed() -> bool:
    """:func:`complete`, looked up once in a while."""
    global _looked
    now = perf_counter()
    if not undecided() or now - _looked < _LOOK_EVERY:
        return False
    _looked = now
    return complete()


def interpreting() -> bool:
    """Whether kernels are run by Python."""
    return _by_python


def waits() -> bool:
    """Whether nothing is to be compiled before it is needed."""
    return _CHOSEN in ("later", "never")


def undecided() -> bool:
    """Whether kernels are interpreted and may be compiled yet: then it is worth looking ahead."""
    return _by_python and not _held and _CHOSEN != "never"


def expect(seconds: float) -> None:
    """Compile from now on, if kernels would be interpreted for too long with so many seconds more.

    Parameters
    ----------
    seconds : float
    """
    if undecided() and _spent + seconds > _PATIENCE:
        if not complete():
            say("Compiling for a model of this size (up to a minute, once on a machine) ...")
        use_compiled()


def say(text: str) -> None:
    """Tell a person, in a terminal or a notebook."""
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        print(text, file=sys.stderr)


def use_compiled() -> None:
    """Compile kernels, or read them from their caches, from their next call on."""
    _switch(False)


def _switch(to_interpreted: bool) -> None:
    global _by_python
    with _switching:
        _by_python = to_interpreted
        for made in _kernels:
            made.__class__ = _Interpreted if to_interpreted else _Compiled


def ran_interpreted(key: Hashable) -> bool:
    """Whether work of this key was done by interpreted kernels in this process."""
    return key in _done_interpreted


@contextmanager
def steady(key: Hashable) -> Iterator[None]:
    """Kernels run one way inside, and as they did before for the same key in this process.

    The last digit differs between the two ways, and after some hundred steps of a chain the draws
    do: a posterior of one seed is to be the same however often it is asked for.
    """
    global _held
    back = ran_interpreted(key) and not _by_python
    if back:
        _switch(True)
    _held += 1
    try:
        if _by_python:
            _done_interpreted.add(key)
        yield
    finally:
        _held -= 1
        if back:
            _switch(False)


def in_numpy(made: Any) -> Callable[[Callable], Callable]:
    """Decorates the function that stands in for a kernel while it is interpreted."""

    def register(function: Callable) -> Callable:
        made.plain = function
        return function

    return register


def _cached(decorator: Callable, function: Callable, *signature: Any, **options: Any) -> Any:
    """Compiled with a cache on disk, or without where no directory for one can be written."""
    try:
        return decorator(*signature, cache=True, **options)(function)
    except RuntimeError as err:
        if "cache" not in str(err):
            raise
        return decorator(*signature, **options)(function)


def _compiled(**options: Any) -> Callable[[Callable], Any]:
    def decorate(function: Callable) -> Any:
        made = _cached(njit, function, nogil=True, error_model="numpy", **options)
        template = made.get_call_template

        def one_type(args, kws):
            # numba takes the constants True and 0 of a caller for types of their own, and would
            # compile the function for each beside that for any bool and int
            args = tuple(types.unliteral(a) for a in args)
            return template(args, {name: types.unliteral(a) for name, a in kws.items()})

        made.get_call_template, made.plain = one_type, function
        with _switching:
            _kernels.append(made)
            if _by_python:
                made.__class__ = _Interpreted
        return made

    return decorate


#: Decorates a function that numba compiles. A cache does not notice a change in a function of
#: another file that it calls: delete the caches (``find bayeslmm -name '*.nb[ic]' -delete``)
#: after editing one. Division by zero gives infinity, as in numpy.
kernel = _compiled()

#: As :data:`kernel`, compiled as part of the kernel that calls it and not a second time by itself.
fused = _compiled(inline="always")
#: As :data:`kernel`, for what a density calls once with records of many arrays: compiled into its
#: caller. Of a call with forty arrays the arguments alone, and counting who holds each, cost more
#: than a small model's prior.
inlined = _compiled(forceinline=True)

#: As :data:`kernel`, for sums that may be taken in any order; nan and infinity keep their meaning.
summing_kernel = _compiled(fastmath={"reassoc", "contract", "nsz"})


def c_function(signature: Any) -> Callable[[Callable], Any]:
    """Decorates a function that is compiled for C to call, at once."""
    return lambda function: _cached(cfunc, function, signature)


@kernel
def _nothing():
    return 0


#: How the cache of :func:`_nothing` begins, which is there as long as nobody deletes caches.
_WITNESS = "compiling._nothing"


@cache
def cache_directory() -> Path | None:
    """Where compiled kernels of this directory are cached; None where they cannot be."""
    found = _nothing.stats.cache_path
    return None if found is None else Path(found)


@cache
def fingerprint() -> str:
    """What the caches were made for: versions, processor and sources."""
    import llvmlite.binding
    import numba

    here = Path(__file__).parent
    names = ("bayes/kernels", "gaussian", "laplace", "likelihood", "parts")
    rooms = [here / name for name in names]
    sources = sorted(
        [
            Path(__file__),
            here / "addresses.py",
            here / "bayes" / "marginal_op.py",
            *(at for room in rooms for at in room.rglob("*.py")),
        ]
    )
    stated = [f"{at} {s.st_mtime_ns} {s.st_size}" for at in sources for s in [at.stat()]]
    processor = llvmlite.binding.get_host_cpu_name()
    return "\n".join([sys.version, numba.__version__, processor, *stated])


def _stamp(what: str) -> Path | None:
    """The file that says that caches are complete, one for each fingerprint."""
    directory = cache_directory()
    name = hashlib.sha256(fingerprint().encode()).hexdigest()[:16]
    return None if directory is None else directory / f"bayeslmm-{what}-{name}"


def complete(what: str = "fits") -> bool:
    """Whether everything that common fits need is compiled and cached.

    Parameters
    ----------
    what : {"fits", "search"}
        The search of REML and ML is compiled after the rest, which serves without it.
    """
    stamp = _stamp(what)
    # caches that were deleted by hand took that of this module with them
    return stamp is not None and stamp.exists() and any(stamp.parent.glob(f"{_WITNESS}-*.nbi"))


@cache
def search_is_complete() -> bool:
    """Whether the compiled search was cached when first asked for in this process."""
    return complete("search")


def mark_complete(what: str = "fits") -> None:
    """Say so to other processes, where caches can be written."""
    if stamp := _stamp(what):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        _nothing.compile(())
        stamp.touch()
