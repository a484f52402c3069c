"""The marginal density as a C function for nutpie, without a Python call per evaluation.

nutpie's public ``from_pyfunc`` takes the interpreter lock for every evaluation: 40 microseconds for
a density that costs 6, and chains that wait for each other. Its own PyMC models go through
``nutpie._lib.LogpFunc``, a C function and a pointer; that is used here for a density that is one
compiled call. The interface is private, so it is used only in versions it was checked with, and
:mod:`bayeslmm.bayes.nuts` goes the public way otherwise.

A C function cached on disk cannot hold arrays: they are passed as a table of addresses and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic
from nutpie import _lib
from nutpie.sample import CompiledModel

from bayeslmm.bayes.marginal import MarginalDensity, density_head
from bayeslmm.bayes.mode import Mode
from bayeslmm.bayes.scales import Scales
from bayeslmm.gaussian.correlations import CorrelationLayout
from bayeslmm.gaussian.problem import Values
from bayeslmm.gaussian.symbolic import Layout

__all__ = ["compiled_model", "supported"]

#: Series of nutpie whose private interface was checked.
_SERIES = ("0.16.",)

_DOUBLES = types.CPointer(types.double)
_LOGP = types.int64(types.uint64, _DOUBLES, _DOUBLES, _DOUBLES, types.voidptr)
_EXPAND = types.int64(types.uint64, types.uint64, _DOUBLES, _DOUBLES, types.voidptr)


@intrinsic
def _pointer(typing, address):
    """An address as a pointer."""

    def code(context, builder, signature, arguments):
        target = context.get_value_type(types.voidptr)
        return builder.inttoptr(arguments[0], target)

    return types.voidptr(types.int64), code


@njit
def _doubles(table, i):
    return carray(_pointer(table[3 * i]), (table[3 * i + 1],), np.float64)


@njit
def _matrix(table, i):
    return carray(_pointer(table[3 * i]), (table[3 * i + 1], table[3 * i + 2]), np.float64)


@njit
def _integers(table, i):
    return carray(_pointer(table[3 * i]), (table[3 * i + 1],), np.int64)


#: Length of the table; see :func:`_arrays`.
_N_ARRAYS = 40


@njit
def _correlations(t):
    return CorrelationLayout(
        _integers(t, 0), _integers(t, 1), _integers(t, 2), _integers(t, 3), _integers(t, 4),
        _integers(t, 5), _integers(t, 6),
    )  # fmt: skip


@njit
def _layout(t):
    return Layout(
        _integers(t, 12), _integers(t, 13), _integers(t, 14), _integers(t, 15), _integers(t, 16),
        _integers(t, 17), _integers(t, 18), _integers(t, 19), _integers(t, 20), _integers(t, 21),
        _integers(t, 22), _integers(t, 23), _integers(t, 24), _integers(t, 25), _integers(t, 26),
        _integers(t, 27), _integers(t, 28),
    )  # fmt: skip


@njit
def _evaluate(z, t):
    """Log density at center + scale z, and its gradient in z; inverse of :func:`_arrays`."""
    cor = _correlations(t)
    sc = Scales(_integers(t, 7), _matrix(t, 8), _doubles(t, 9), _doubles(t, 10), _doubles(t, 11))
    val = Values(_doubles(t, 29), _doubles(t, 30), _matrix(t, 31), _matrix(t, 32), _matrix(t, 33))
    root, target, exponent = _matrix(t, 34), _doubles(t, 35), _doubles(t, 36)
    numbers, center, scale = _doubles(t, 37), _doubles(t, 38), _matrix(t, 39)
    d = z.shape[0]
    x = center.copy()
    for i in range(d):
        for j in range(d):
            x[i] += scale[i, j] * z[j]
    arguments = (_layout(t), val, int(numbers[1]), numbers[2], root, target, numbers[3])
    value, gradient = density_head(x, cor, sc, exponent, numbers[0], arguments, True)
    out = np.zeros(d)
    for i in range(d):
        for j in range(d):
            out[j] += scale[i, j] * gradient[i]
    return value, out


@cfunc(_LOGP, cache=True)
def _logp(n_dim, z_, out_, logp_, user_data):
    z, out = carray(z_, (n_dim,)), carray(out_, (n_dim,))
    logp = carray(logp_, (1,))
    value, gradient = _evaluate(z, carray(user_data, (3 * _N_ARRAYS,), np.int64))
    logp[0] = value
    out[:] = gradient
    # a positive code is a divergence, a negative one the end of the chain
    if not np.isfinite(value) or not np.all(np.isfinite(gradient)):
        return 3
    return 0


@cfunc(_EXPAND, cache=True)
def _expand(n_dim, n_expanded, z_, out_, user_data):
    z, out = carray(z_, (n_dim,)), carray(out_, (n_expanded,))
    for i in range(n_expanded):
        out[i] = z[i]
    return 0


def _arrays(density: MarginalDensity, mode: Mode) -> list[np.ndarray]:
    """All arrays in the order of the table."""
    cor, sc, exponent, constant, arguments = density.kernel()
    lay, val, n, sum_log_weights, root, target, log_det = arguments
    numbers = np.array([constant, float(n), sum_log_weights, log_det])
    found = [
        *cor, *sc, *lay, *val, root, target, exponent, numbers, mode.x, mode.scale,
    ]  # fmt: skip
    return [np.ascontiguousarray(a) for a in found]


def supported(density: MarginalDensity) -> bool:
    """Whether this density and this nutpie can be joined this way."""
    from importlib.metadata import version

    if not isinstance(density, MarginalDensity):  # residual structures have kernels of their own
        return False
    return density.model.problem.head_only and version("nutpie").startswith(_SERIES)


@dataclass(frozen=True)
class _Compiled(CompiledModel):
    """What ``nutpie.sample`` takes; holds the arrays the C functions point to."""

    size: int
    arrays: list[np.ndarray]
    table: np.ndarray
    initial_point: Any

    @property
    def n_dim(self):
        return self.size

    @property
    def shapes(self):
        return {"z": (self.size,)}

    @property
    def coords(self):
        return {"coordinate": [str(i) for i in range(self.size)]}

    def _make_model(self, init_mean):
        pointer = self.table.ctypes.data
        sizes = {"coordinate": self.size}
        variables = _lib.PyVariable.new_variables(
            ["z"], ["float64"], [(self.size,)], sizes, self.dims
        )
        return _lib.PyMcModel(
            _lib.LogpFunc(_logp.address, pointer, self),
            _lib.ExpandFunc(self.size, self.size, _expand.address, pointer, self),
            variables,
            self.size,
            sizes,
            self.coords,
            self.initial_point,
            None,
        )

    def _make_sampler(
        self, settings, init_mean, cores, progress_type, callback, callback_rate, store
    ):
        model = self._make_model(init_mean)
        return _lib.PySampler.from_pymc(
            settings, cores, model, progress_type, callback, callback_rate, store
        )


def compiled_model(density: MarginalDensity, mode: Mode, initial_point) -> CompiledModel:
    """A model for ``nutpie.sample`` with one variable, z.

    Parameters
    ----------
    initial_point : callable
        Seed to a starting z.
    """
    arrays = _arrays(density, mode)
    if len(arrays) != _N_ARRAYS:
        raise RuntimeError("the table of arrays does not match the compiled code")
    table = np.array(
        [(a.ctypes.data, *(*a.shape, 0, 0)[:2]) for a in arrays], dtype=np.int64
    ).ravel()
    return _Compiled(
        dims={"z": ("coordinate",)},
        size=density.n_dim,
        arrays=arrays,
        table=table,
        initial_point=initial_point,
    )
