"""LAPACK and BLAS on row-major matrices, without holding the interpreter lock.

``scipy.linalg.lapack`` keeps the lock during a call, so chains side by side would wait for each
other's dense algebra. The same routines through the pointers that ``scipy.linalg.cython_lapack``
and ``cython_blas`` publish for low-level callers run free of it.

A row-major matrix is the column-major transpose: its lower triangle is LAPACK's upper one.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

_ONE = ctypes.c_double(1.0)
_MINUS_ONE = ctypes.c_double(-1.0)
_ZERO = ctypes.c_double(0.0)


@cache
def _routine(name: str):
    """A function of pointers, all arguments by reference."""
    from scipy.linalg import cython_blas, cython_lapack

    found = {**cython_blas.__pyx_capi__, **cython_lapack.__pyx_capi__}[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype = ctypes.c_void_p
    pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None)(pointer_of(found, name_of(found)))


def _call(name: str, *arguments) -> None:
    pointers = [
        ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray)
        else a if isinstance(a, bytes)
        else ctypes.byref(a if not isinstance(a, int) else ctypes.c_int(a))
        for a in arguments
    ]  # fmt: skip
    _routine(name)(*pointers)


def cholesky(A: np.ndarray) -> bool:
    """Lower factor into the lower triangle of A (n, n), in place; whether A is positive definite.

    The upper triangle is not looked at and keeps what it holds.
    """
    n, info = len(A), ctypes.c_int(0)
    _call("dpotrf", b"U", n, A, n, info)
    return info.value == 0


def cholesky_solve(C: np.ndarray, B: np.ndarray) -> np.ndarray:
    """(C C')^-1 B for the lower factor C (n, n) and B (n, m)."""
    n, m = B.shape
    X = np.array(B, order="F")
    _call("dpotrs", b"U", n, m, C, n, X, n, ctypes.c_int(0))
    return np.ascontiguousarray(X)


def cholesky_inverse(C: np.ndarray) -> None:
    """Lower triangle of (C C')^-1 into that of C, in place."""
    n = len(C)
    _call("dpotri", b"U", n, C, n, ctypes.c_int(0))


def solve_transposed(C: np.ndarray, B: np.ndarray) -> np.ndarray:
    """C^-T B for the lower factor C (n, n) and B (n, m)."""
    n, m = B.shape
    X = np.array(B, order="F")
    _call("dtrtrs", b"U", b"N", b"N", n, m, C, n, X, n, ctypes.c_int(0))
    return np.ascontiguousarray(X)


def times_symmetric(A: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """A Q for A (r, n) and symmetric Q (n, n) of which only the lower triangle is looked at."""
    r, n = A.shape
    out = np.empty((r, n))
    _call("dsymm", b"L", b"U", n, r, _ONE, Q, n, A, n, _ZERO, out, n)
    return out


def subtract_gram(A: np.ndarray, C: np.ndarray) -> None:
    """C - A'A into the lower triangle of C (n, n), in place, for A (r, n)."""
    r, n = A.shape
    _call("dsyrk", b"U", b"N", n, r, _MINUS_ONE, A, n, _ONE, C, n)
