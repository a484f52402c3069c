"""The marginal density for nutpie: a C function where it can be one, or a Python callback.

A callback takes the interpreter lock for every evaluation: 40 microseconds for a density that
costs 6, and chains that wait for each other. nutpie's own PyMC models go through
``nutpie._lib.LogpFunc``, a C function and a pointer; that is used here for a density that is one
compiled call. The interface is private, so it is used only in versions it was checked with, and
:mod:`bayeslmm.bayes.nuts` goes the public way otherwise.

A C function cached on disk cannot hold arrays: they are passed as a table of addresses and shapes
(:mod:`bayeslmm.bayes.kernels.tables`). A density names the module of the C function, ``logp``
(``density.compiled``), and has the table that it reads.

``import nutpie`` imports all of ArviZ with its plots, which takes longer than a fit: only nutpie's
compiled part is loaded here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import machinery, util
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.addresses import Table
from bayeslmm.bayes.kernels.tables import place
from bayeslmm.bayes.mode import Mode

if TYPE_CHECKING:
    from bayeslmm.bayes.marginal import MarginalDensity

__all__ = [
    "CallbackDensity",
    "CompiledDensity",
    "compiled_density",
    "compiled_model",
    "keep_z",
    "sample",
    "supported",
]

#: Series of nutpie whose private interface was checked.
_SERIES = ("0.16.",)

_LOADING = Lock()


def supported() -> bool:
    """Whether nutpie's compiled part can be used by itself."""
    from importlib.metadata import version

    return version("nutpie").startswith(_SERIES)


def _library():
    """``nutpie._lib``, as ``import nutpie`` would load it, without the rest of nutpie."""
    name = "nutpie._lib"
    with _LOADING:  # simulations in threads must not meet a half-loaded module
        if name not in sys.modules:
            package = util.find_spec("nutpie")
            found = machinery.PathFinder.find_spec(name, package.submodule_search_locations)
            module = util.module_from_spec(found)
            sys.modules[name] = module
            found.loader.exec_module(module)
        return sys.modules[name]


def keep_z(*seeds: int) -> Callable:
    """What nutpie makes of a draw: nothing more than the draw."""
    return lambda z: {"z": np.array(z)}


@dataclass(frozen=True)
class _Sampled:
    """A density of z.

    Attributes
    ----------
    size : int
        Dimensions.
    initial_point : callable
        Seed to a starting z.
    """

    size: int
    initial_point: Callable

    @property
    def stored(self) -> int:
        """Numbers kept of a draw."""
        return self.size

    @property
    def coords(self) -> dict[str, list[str]]:
        """Labels of what is kept of a draw."""
        return {"coordinate": [str(i) for i in range(self.stored)]}

    def variables(self) -> list:
        """z, or what is kept of it, as nutpie stores it."""
        sizes = {"coordinate": self.stored}
        return _library().PyVariable.new_variables(
            ["z"], ["float64"], [(self.stored,)], sizes, {"z": ("coordinate",)}
        )


@dataclass(frozen=True)
class CompiledDensity(_Sampled):
    """A density as the C functions take it; holds the arrays they point to.

    Attributes
    ----------
    logp : numba.cfunc
    table : Table
        Of the density, center and scale.
    """

    logp: Any
    table: Table

    @property
    def expansion(self) -> Any:
        """The C function from a draw to what is kept of it: all."""
        from bayeslmm.bayes.kernels.expansion import expand

        return expand

    def sampler(self, settings, cores, *rest):
        """A running sampler of nutpie."""
        lib, size, stored = _library(), self.size, self.stored
        pointer = self.table.entries.ctypes.data
        model = lib.PyMcModel(
            lib.LogpFunc(self.logp.address, pointer, self),
            lib.ExpandFunc(size, stored, self.expansion.address, pointer, self),
            self.variables(),
            size,
            {"coordinate": stored},
            self.coords,
            self.initial_point,
            None,
        )
        return lib.PySampler.from_pymc(settings, cores, model, *rest)


@dataclass(frozen=True)
class CallbackDensity(_Sampled):
    """A density that is a Python function of z.

    Attributes
    ----------
    logp : callable
        z to (value, gradient), as ``nutpie`` takes it.
    """

    logp: Callable

    def sampler(self, settings, cores, *rest):
        """A running sampler of nutpie."""
        lib = _library()
        model = lib.PyModel(
            lambda: self.logp,
            keep_z,
            self.variables(),
            self.size,
            dim_sizes={"coordinate": self.size},
            coords=self.coords,
            init_point_func=self.initial_point,
            transform_adapter=None,
        )
        return lib.PySampler.from_pyfunc(settings, cores, model, *rest)


def compiled_density(
    density: MarginalDensity, mode: Mode, initial_point: Callable
) -> CompiledDensity:
    """The density of z at x = center + scale z.

    Parameters
    ----------
    initial_point : callable
        Seed to a starting z.
    """
    kernels: Any = density.compiled
    table = Table(*density.records, *place(1, True, mode.x, mode.scale))
    return CompiledDensity(density.n_dim, initial_point, kernels.logp, table)


def compiled_model(compiled: CompiledDensity | CallbackDensity):
    """What ``nutpie.sample`` takes, for its display in notebooks."""
    from nutpie.sample import CompiledModel

    class Model(CompiledModel):
        n_dim = property(lambda self: compiled.size)
        shapes = property(lambda self: {"z": (compiled.stored,)})
        coords = property(lambda self: compiled.coords)

        def _make_sampler(self, settings, init_mean, cores, *rest):
            return compiled.sampler(settings, cores, *rest)

    return Model(dims={"z": ("coordinate",)})


def sample(
    compiled: CompiledDensity | CallbackDensity,
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
    z : ndarray, shape (chains, draws, stored)
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
    if progress_bar and sys.stderr.isatty():
        print(file=sys.stderr)  # the bars do not end their last line
    z = np.full((chains, draws, compiled.stored), np.nan)
    stats: dict[str, np.ndarray] = {}
    drawn, reported = sampler.take_results().get_arrow_trace()
    for chain, (own, told) in enumerate(zip(drawn, reported, strict=True)):
        _copy_chain(chain, own, told, z, stats)
    return z, stats


def _copy_chain(chain: int, drawn, reported, z: np.ndarray, stats: dict) -> None:
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
