"""The joint posterior of a response that is not Gaussian, in coordinates where it is near normal.

At the mode of Laplace's approximation of the posterior of the parameters (covariances, the
family's own, coefficients) its curvature is the metric of the parameters, and the effects follow
them as :mod:`bayeslmm.bayes.kernels.joint` says. Nothing is approximated: the joint density is
exact in any coordinates, and these only make chains move far.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.addresses import Table
from bayeslmm.bayes.kernels._following import follow, lower_solve, products, scale
from bayeslmm.bayes.kernels._walls import Walls
from bayeslmm.bayes.kernels.joint import (
    JointArguments,
    Levels,
    Rows,
    Whitening,
    whitened,
)
from bayeslmm.bayes.laplace_posterior import LaplacePosterior
from bayeslmm.bayes.mode import Mode, climb, find_mode
from bayeslmm.bayes.signed import signed_mode
from bayeslmm.bayes.unknown_mode import Near
from bayeslmm.bayes.unknowns import no_unknowns
from bayeslmm.compiling import interpreting
from bayeslmm.errors import SamplingError
from bayeslmm.gaussian.crossproducts import CrossProducts
from bayeslmm.gaussian.problem import Problem, prepare
from bayeslmm.gaussian.symbolic import Symbolic, analyze, in_order
from bayeslmm.laplace.system import ResponseSystem

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

__all__ = ["WhitenedPosterior", "whitened_posterior"]

#: Rounds in which coefficients and what rows with unknown values weigh settle, and when they have.
_ROUNDS, _SETTLED = 4, 0.1

#: Effects follow all others where that takes so many multiplications per row at most.
_WORTH = 15.0

#: Where intercepts begin to bend away from an end of the linear predictor, in standard deviations
#: that they have at the mode.
_BEND = 1.0


@dataclass(frozen=True)
class WhitenedPosterior:
    """The joint posterior in z.

    Attributes
    ----------
    laplace : LaplacePosterior
    mode : Mode
        Of ``laplace`` and of the regressions of covariates with unknown values, which come before
        the coefficients.
    arguments : JointArguments
    symbolic : Symbolic
        Order of the effects.
    """

    laplace: LaplacePosterior
    mode: Mode
    arguments: JointArguments
    symbolic: Symbolic

    @property
    def n_dim(self) -> int:
        """Length of z."""
        unknown = self.laplace.unknown
        beyond = 0 if unknown is None else unknown.n_high
        return self.n_low + len(self.arguments.levels.r) + beyond

    @property
    def n_low(self) -> int:
        """Coordinates of the parameters, which come first in z."""
        return len(self.mode.x)

    @cached_property
    def table(self) -> Table:
        """What the C function reads."""
        return Table(self.arguments)

    @cached_property
    def log_scale(self) -> float:
        """log |d(parameters, v)/dz|."""
        tail = np.diag(self.arguments.whitening.tail)
        return self.mode.log_det + float(np.log(np.abs(tail)).sum())

    @property
    def _function(self) -> Callable:
        """Value at z (n_dim,) and gradient into an array: by Python, or by the C function."""
        if interpreting():
            return lambda z, out: whitened(z, self.arguments, out)
        return self._compiled

    @cached_property
    def _compiled(self) -> Callable:
        from bayeslmm.bayes.kernels.whitened import logp

        call, table = logp.ctypes, self.table.entries  # these keep the arrays alive
        double = ctypes.POINTER(ctypes.c_double)

        def value(z: np.ndarray, out: np.ndarray) -> float:
            found = ctypes.c_double(np.nan)
            pointers = (a.ctypes.data_as(double) for a in (z, out))
            if call(len(z), *pointers, ctypes.byref(found), table.ctypes.data):
                out[:] = np.nan  # which it may not have written
            return found.value

        return value

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density of parameters and v at z, and its gradient in z."""
        out = np.empty(self.n_dim)
        return self._function(np.ascontiguousarray(z, dtype=float), out), out

    def values(self, Z: np.ndarray) -> np.ndarray:
        """Log density at each row of Z, shape (n, n_dim)."""
        out = np.empty(self.n_dim)
        Z = np.ascontiguousarray(Z, dtype=float)
        function = self._function
        return np.array([function(z, out) for z in Z])

    def along(self, Z: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log density at each row of Z, and its derivative in the direction u (n_dim,)."""
        found = [self(z) for z in np.ascontiguousarray(Z, dtype=float)]
        return np.array([f[0] for f in found]), np.array([f[1] @ u for f in found])


def whitened_posterior(laplace: LaplacePosterior, *, signed: bool = True) -> WhitenedPosterior:
    """Find the mode and lay the joint density out around it.

    Parameters
    ----------
    signed : bool
        Whether standard deviations near zero get a coordinate of either sign, in which every
        posterior is covered twice (:mod:`bayeslmm.bayes.signed`).

    Raises
    ------
    SamplingError
        If the density is not finite anywhere it was tried.
    """
    unknown = laplace.unknown
    near = None if unknown is None else Near.first(unknown)
    search: Any = laplace
    if near is not None:
        search = replace(laplace, system=near.system(laplace.system), _near={})
    mode = find_mode(search)
    if near is not None:
        search, mode, near = _settled(laplace, search, mode, near)
    if signed:
        search, mode = signed_mode(search, mode)
    system, at = search.system, search.natural(mode.x)
    found = system.mode(at.F, at.phi, at.beta)
    if found is None:
        raise SamplingError("The effects have no most probable values at the posterior mode.")
    w = np.maximum(-found.slopes[2], 0.0)
    problem = _information(system, w)
    symbolic, layout = problem.symbolic, problem.layout
    diag, panel = problem.values.diag, problem.values.panel
    b, U = (in_order(symbolic, system.template.effects(part)) for part in found[1:3])
    r, N = products(layout, diag, panel, b) + U, len(b)
    C, R, work = np.empty(len(diag)), np.empty(len(panel)), np.empty((3, N))
    follow(layout, diag, panel, r, at.F, np.zeros(N), C, R, *work)
    drift = np.zeros((N, 0)) if _in_blocks(system, layout) else _drift(system, symbolic, w)
    laplace = replace(laplace, prior=search.prior)
    rows = _rows(laplace.system, symbolic)
    covariates = no_unknowns(rows, system.p)
    if near is not None:
        order, factors = _order(system), _largest_first(system)
        covariates = near.laid_out(laplace.system, order, factors, found, at.phi, at.beta)
        mode = near.joined(mode, system.p)
    arguments = JointArguments(
        rows,
        Levels(layout, diag, panel, r, drift, at.beta),
        laplace.prior,
        laplace.phi,
        laplace.coefficients,
        laplace.tails,
        int(laplace.ordered),
        laplace.system.constant,
        _walls(system, symbolic, C),
        *covariates,
        _whitening(system, symbolic, w, at.F, C, R, mode),
    )
    return WhitenedPosterior(laplace, mode, arguments, symbolic)


def _settled(laplace: LaplacePosterior, search: Any, mode: Mode, near: Near):
    """Modes of Laplace's approximation with rows that weigh what they weigh there."""
    for _ in range(_ROUNDS):
        at = search.natural(mode.x)
        found = search.system.mode(at.F, at.phi, at.beta)
        if found is None:
            break
        moved = near.at(laplace.system, found, at.phi, at.beta)
        change = float(np.abs(np.log(moved.K / near.K)).max(initial=0.0))
        near = moved
        search = replace(laplace, system=near.system(laplace.system), _near={})
        mode = climb(search, mode.x, mode.scale @ mode.scale.T)
        if change < _SETTLED:
            break
    return search, mode, near


def _information(system: ResponseSystem, w: np.ndarray) -> Problem:
    """Z'WZ, or its blocks of single levels where factorizing it again and again is too much."""
    products = CrossProducts.of_effects(system.factors, w)
    symbolic = analyze(products, "sparse")
    layout = symbolic.layout
    widths = np.diff(layout.pcol_ptr) + layout.node_q
    if float(layout.node_q @ widths**2) > _WORTH * system.n:
        symbolic = analyze(replace(products, pairs={}), "sparse")
        products = replace(products, pairs={})
    return prepare(products, system.patterns, symbolic=symbolic)


def _largest_first(system: ResponseSystem) -> list[int]:
    """Factors by the number of their effects."""
    sizes = [n_levels * q for n_levels, q in system.effect_shapes]
    return sorted(range(len(sizes)), key=lambda k: -sizes[k])


def _walls(system: ResponseSystem, symbolic: Symbolic, C: np.ndarray) -> Walls:
    """Of the first factor's intercepts, where they are correlated with nothing in their level."""
    ends = np.array(system.family.predictor_range)
    none = Walls(ends, np.zeros(0), 0, 0)
    if not system.factors or not np.any(np.isfinite(ends)):
        return none
    k, layout = _largest_first(system)[0], symbolic.layout
    f, pattern = system.factors[k], system.patterns[k]
    for effect in range(f.q):
        if np.all(f.Z[:, effect] == 1.0) and (effect,) in pattern.blocks:
            nodes = symbolic.position[symbolic.base[k] + np.unique(f.codes)]
            own = effect * (f.q + 1)
            width = _BEND / C[layout.diag_ptr[nodes] + own]
            return Walls(ends, width, effect, int(layout.f_ptr[k]) + own)
    return none


def _order(system: ResponseSystem) -> np.ndarray:
    """Rows by the levels of the factor with most effects."""
    factors = _largest_first(system)
    if not factors:
        return np.arange(system.n)
    return np.argsort(system.factors[factors[0]].codes, kind="stable")


def _rows(system: ResponseSystem, symbolic: Symbolic) -> Rows:
    """Rows in the order of the factor with most effects, which comes first."""
    n, factors = system.n, _largest_first(system)
    order, starts = _order(system), np.zeros(0, dtype=np.int64)
    if factors:
        codes = system.factors[factors[0]].codes
        starts = np.append(np.unique(codes[order], return_index=True)[1], n).astype(np.int64)
    own = [system.factors[k].take(order) for k in factors]
    first = [symbolic.factor_columns(k)[f.codes, 0] for k, f in zip(factors, own, strict=True)]
    y, trials, weights, offset = (
        np.ascontiguousarray(part[order])
        for part in (system.y, system.trials, system.weights, system.offset)
    )
    return Rows(
        system.family.code,
        y,
        trials,
        weights,
        offset,
        np.ascontiguousarray(system.X[order].T),
        np.ascontiguousarray(np.vstack([np.zeros((0, n)), *(f.Z.T for f in own)])),
        np.array(first, dtype=np.int64).reshape(len(own), n),
        np.array([f.q for f in own], dtype=np.int64),
        starts,
    )


def _in_blocks(system: ResponseSystem, layout) -> bool:
    """Whether L is block diagonal, so that levels of different factors are dependent in v."""
    return len(system.factors) > 1 and not len(layout.pcol)


def _drift(system: ResponseSystem, symbolic: Symbolic, w: np.ndarray) -> np.ndarray:
    """Z'WX (N, p), effects in elimination order."""
    columns = [in_order(symbolic, system.transposed_levels(w * x)) for x in system.X.T]
    return np.ascontiguousarray(np.reshape(columns, (system.p, symbolic.n_columns)).T)


def _whitening(system, symbolic, w, F, C, R, mode) -> Whitening:
    """What makes the Hessian in v, L^-1 (I + Lambda'Z'WZ Lambda) L^-T, the identity."""
    from scipy.linalg import solve_triangular
    from scipy.sparse import csr_matrix, diags

    N, layout = symbolic.n_columns, symbolic.layout
    head, rest = np.arange(N), np.zeros(0, dtype=np.int64)
    B, T, along = csr_matrix((N, 0)), np.zeros((0, 0)), np.zeros((N, 0))
    if _in_blocks(system, layout):
        G = _predictor_slopes(system, symbolic, F, C)
        largest = int(np.argmax([n_levels * q for n_levels, q in system.effect_shapes]))
        head = np.sort(symbolic.factor_columns(largest).ravel())
        rest = np.setdiff1d(np.arange(N), head)
        weighted = diags(w) @ G[:, rest]
        B = (G[:, head].T @ weighted).tocsr()
        B.sort_indices()
        H = (G[:, rest].T @ weighted).toarray()
        node = np.repeat(np.arange(len(layout.node_q)), layout.node_q)[rest]
        same = node[:, None] == node
        H[same] = np.eye(len(rest))[same]
        root = np.linalg.cholesky(H - (B.T @ B).toarray())
        T = solve_triangular(root, np.eye(len(root)), lower=True).T
        cross = _drift(system, symbolic, w)
        for c in range(system.p):  # L^-1 Lambda'Z'WX
            scaled = np.empty(N)
            scale(layout, F, np.ascontiguousarray(cross[:, c]), scaled, True)
            lower_solve(layout, C, R, scaled)
            cross[:, c] = scaled
        low = T @ (T.T @ (cross[rest] - B.T @ cross[head]))
        along = np.empty((N, system.p))
        along[rest], along[head] = -low, B @ low - cross[head]
    return Whitening(
        mode.x, mode.scale, along, head, rest, np.ascontiguousarray(T),
        B.indptr.astype(np.int64), B.indices.astype(np.int64), B.data.astype(float),
    )  # fmt: skip


def _predictor_slopes(system, symbolic, F, C) -> csc_matrix:
    """d eta / dv = Z Lambda L^-T where L is block diagonal, (n, N) sparse."""
    from scipy.sparse import csc_matrix

    rows, columns, values = [], [], []
    ptr = symbolic.layout.diag_ptr
    for k, (f, L) in enumerate(zip(system.factors, system.split(F), strict=True)):
        nodes = symbolic.position[symbolic.base[k] : symbolic.base[k + 1]]
        roots = np.tril(C[ptr[nodes][:, None] + np.arange(f.q**2)].reshape(-1, f.q, f.q))
        J = L @ np.linalg.inv(roots).transpose(0, 2, 1)
        values.append(np.einsum("ia,iab->ib", f.Z, J[f.codes]).ravel())
        columns.append(symbolic.factor_columns(k)[f.codes].ravel())
        rows.append(np.repeat(np.arange(system.n), f.q))
    parts = (np.concatenate(part) for part in (values, rows, columns))
    data, i, j = parts
    return csc_matrix((data, (i, j)), (system.n, symbolic.n_columns))
