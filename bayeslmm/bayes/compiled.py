"""The marginal density as a C function for nutpie, without a Python call per evaluation.

nutpie's public ``from_pyfunc`` takes the interpreter lock for every evaluation: 40 microseconds for
a density that costs 6, and chains that wait for each other. Its own PyMC models go through
``nutpie._lib.LogpFunc``, a C function and a pointer; that is used here for a density that is one
compiled call. The interface is private, so it is used only in versions it was checked with, and
:mod:`bayeslmm.bayes.nuts` goes the public way otherwise.

A C function cached on disk cannot hold arrays: they are passed as a table of addresses and shapes.

``import nutpie`` imports all of ArviZ with its plots, which takes longer than a fit: only nutpie's
compiled part is loaded here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import machinery, util
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from bayeslmm.bayes.marginal import MarginalDensity, density_head
from bayeslmm.bayes.mode import Mode
from bayeslmm.bayes.scales import Scales
from bayeslmm.gaussian.correlations import CorrelationLayout
from bayeslmm.gaussian.problem import Values
from bayeslmm.gaussian.symbolic import Layout

__all__ = ["CompiledDensity", "compiled_density", "compiled_model", "sample", "supported"]

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
_N_ARRAYS = 42


@njit
def _correlations(t):
    return CorrelationLayout(
        _integers(t, 0), _integers(t, 1), _integers(t, 2), _integers(t, 3), _integers(t, 4),
        _integers(t, 5), _integers(t, 6),
    )  # fmt: skip


@njit
def _layout(t):
    return Layout(
        _integers(t, 13), _integers(t, 14), _integers(t, 15), _integers(t, 16), _integers(t, 17),
        _integers(t, 18), _integers(t, 19), _integers(t, 20), _integers(t, 21), _integers(t, 22),
        _integers(t, 23), _integers(t, 24), _integers(t, 25), _integers(t, 26), _integers(t, 27),
        _integers(t, 28), _integers(t, 29),
    )  # fmt: skip


@njit
def _evaluate(z, t):
    """Log density at center + scale z, and its gradient in z; inverse of :func:`_arrays`."""
    cor = _correlations(t)
    sc = Scales(
        _integers(t, 7), _matrix(t, 8), _doubles(t, 9), _doubles(t, 10), _doubles(t, 11),
        _doubles(t, 12),
    )  # fmt: skip
    val = Values(
        _doubles(t, 30), _doubles(t, 31), _matrix(t, 32), _matrix(t, 33), _matrix(t, 34),
        _matrix(t, 35),
    )  # fmt: skip
    root, target, exponent = _matrix(t, 36), _doubles(t, 37), _doubles(t, 38)
    numbers, center, scale = _doubles(t, 39), _doubles(t, 40), _matrix(t, 41)
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
    if density.alone:  # an evaluation on several threads is not one compiled call
        return False
    return density.model.problem.head_only and version("nutpie").startswith(_SERIES)


def _library():
    """``nutpie._lib``, as ``import nutpie`` would load it, without the rest of nutpie."""
    name = "nutpie._lib"
    if name not in sys.modules:
        package = util.find_spec("nutpie")
        found = machinery.PathFinder.find_spec(name, package.submodule_search_locations)
        module = util.module_from_spec(found)
        sys.modules[name] = module
        found.loader.exec_module(module)
    return sys.modules[name]


@dataclass(frozen=True)
class CompiledDensity:
    """A density as the C functions take it; holds the arrays they point to.

    Attributes
    ----------
    size : int
        Dimensions.
    arrays : list of ndarray
    table : ndarray
        Address and shape of each.
    initial_point : callable
        Seed to a starting z.
    """

    size: int
    arrays: list[np.ndarray]
    table: np.ndarray
    initial_point: Callable

    @property
    def coords(self) -> dict[str, list[str]]:
        """Labels of z's dimension."""
        return {"coordinate": [str(i) for i in range(self.size)]}

    def sampler(self, settings, cores, progress, callback, rate, store):
        """A running sampler of nutpie."""
        lib = _library()
        pointer = self.table.ctypes.data
        sizes = {"coordinate": self.size}
        variables = lib.PyVariable.new_variables(
            ["z"], ["float64"], [(self.size,)], sizes, {"z": ("coordinate",)}
        )
        model = lib.PyMcModel(
            lib.LogpFunc(_logp.address, pointer, self),
            lib.ExpandFunc(self.size, self.size, _expand.address, pointer, self),
            variables,
            self.size,
            sizes,
            self.coords,
            self.initial_point,
            None,
        )
        return lib.PySampler.from_pymc(settings, cores, model, progress, callback, rate, store)


def compiled_density(density: MarginalDensity, mode: Mode, initial_point) -> CompiledDensity:
    """The density of z at x = center + scale z.

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
    return CompiledDensity(density.n_dim, arrays, table, initial_point)


def compiled_model(compiled: CompiledDensity):
    """What ``nutpie.sample`` takes, for its display in notebooks."""
    from nutpie.sample import CompiledModel

    class Model(CompiledModel):
        n_dim = property(lambda self: compiled.size)
        shapes = property(lambda self: {"z": (compiled.size,)})
        coords = property(lambda self: compiled.coords)

        def _make_sampler(self, settings, init_mean, cores, *rest):
            return compiled.sampler(settings, cores, *rest)

    return Model(dims={"z": ("coordinate",)})


def sample(
    compiled: CompiledDensity,
    *,
    draws: int,
    tune: int,
    chains: int,
    cores: int,
    seed: int,
    progress_bar: bool,
    **settings: Any,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What ``nutpie.sample`` does, as arrays.

    Returns
    -------
    z : ndarray, shape (chains, draws, d)
        NaN where a chain was stopped early.
    stats : dict of ndarray, shape (chains, draws)
    """
    lib = _library()
    chosen = lib.PyNutsSettings.Diag(seed)
    chosen.update({**settings, "num_tune": tune, "num_draws": draws, "num_chains": chains})
    progress = lib.ProgressType.indicatif(100) if progress_bar else lib.ProgressType.none()
    sampler = compiled.sampler(chosen, cores, progress, None, 100, lib.PyStorage.arrow())
    try:
        sampler.wait(None)
    except BaseException as err:
        sampler.abort()
        if not isinstance(err, KeyboardInterrupt):
            raise
    z = np.full((chains, draws, compiled.size), np.nan)
    stats: dict[str, np.ndarray] = {}
    for chain, batches in enumerate(zip(*sampler.take_results().get_arrow_trace(), strict=True)):
        _copy_chain(chain, *batches, z, stats)
    return z, stats


def _copy_chain(chain: int, drawn, reported, z: np.ndarray, stats: Mapping) -> None:
    """One chain's draws after warm-up into ``z`` and ``stats``."""
    import pyarrow

    kept = ~np.asarray(reported.column("tuning").to_numpy())
    values = pyarrow.array(drawn.column("z")).flatten().to_numpy(zero_copy_only=False)
    values = values.reshape(-1, z.shape[2])[kept]
    z[chain, : len(values)] = values
    for name in reported.column_names:
        column = pyarrow.array(reported.column(name))
        if pyarrow.types.is_nested(column.type) or column.null_count:
            continue
        found = column.to_numpy(zero_copy_only=False)[kept]
        if found.dtype.kind in "biuf":
            whole = stats.setdefault(name, np.zeros(z.shape[:2], dtype=found.dtype))
            whole[chain, : len(found)] = found
