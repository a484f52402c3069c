"""Rows in blocks, joined by effects outside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import numpy as np

from bayeslmm.gaussian._coefficients import CoefficientPrior, statistics
from bayeslmm.gaussian.blocks import _effects
from bayeslmm.gaussian.blocks.layout import Blocks, with_columns
from bayeslmm.gaussian.blocks.problem import BlockProblem
from bayeslmm.gaussian.coordinates import Coordinates
from bayeslmm.gaussian.marginal import FixedPrior
from bayeslmm.gaussian.related.relationship import Relationship
from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.gaussian.system import Evaluation, Moments, RowInformation, System, Theta
from bayeslmm.gaussian.woodbury import _kernel
from bayeslmm.gaussian.woodbury.outer import Outer, outer_factor
from bayeslmm.gaussian.woodbury.state import State, _chunks, state_at
from bayeslmm.parts.patterns import CovariancePattern
from bayeslmm.parts.structures import Structure

__all__ = ["WoodburySystem", "prepare_woodbury"]


@dataclass(frozen=True)
class WoodburySystem(System):
    """Rows in blocks, joined by effects outside them.

    Attributes
    ----------
    inner : BlockProblem
        The same rows with the effects inside blocks only.
    outer : Outer
        The effects outside.
    patterns, factors
        Of all effects.
    is_outer : tuple of bool
        Which factors are outside.
    rest : (n,) array
    """

    inner: BlockProblem
    outer: Outer
    patterns: tuple[CovariancePattern, ...]
    factors: tuple[FactorRows, ...]
    is_outer: tuple[bool, ...]
    rest: np.ndarray

    @property
    def n(self) -> int:
        """Rows."""
        return self.inner.n

    @property
    def p(self) -> int:
        """Coefficients."""
        return self.inner.p

    @property
    def structure(self) -> Structure:
        """Of the residuals."""
        return self.inner.structure

    @property
    def coordinates(self) -> Coordinates:
        """Between the user's fixed effects and those computed with."""
        return self.inner.coordinates

    @property
    def group(self) -> np.ndarray:
        """Residual groups."""
        return self.inner.group

    @property
    def time(self) -> np.ndarray:
        """Times."""
        return self.inner.time

    @property
    def scale(self) -> np.ndarray:
        """log sd_i = scale_i eta."""
        return self.inner.scale

    @property
    def weights(self) -> np.ndarray | None:
        """Prior weights."""
        return self.inner.weights

    @property
    def blocks(self) -> Blocks:
        """Blocks of rows."""
        return self.inner.blocks

    @cached_property
    def layout(self) -> SimpleNamespace:
        """Starts of the flat factors."""
        return SimpleNamespace(f_ptr=np.cumsum([0, *(p.q**2 for p in self.patterns)]))

    def _parts(self, values: Sequence, outside: bool) -> list:
        return [v for v, out in zip(values, self.is_outer, strict=True) if out == outside]

    @property
    def outer_patterns(self) -> list[CovariancePattern]:
        """Of the effects outside the blocks."""
        return self._parts(self.patterns, True)

    @property
    def lengths(self) -> np.ndarray:
        """See :attr:`System.lengths`."""
        return self.inner.lengths

    @cached_property
    def columns(self) -> np.ndarray:
        """[X y] in the coordinates computed with and the order of the blocks, (n, p + 1)."""
        return self.inner.W.reshape(self.n, self.p + 1)

    def state(self, theta: Theta) -> State | None:
        """V^-1 at theta, None where V is not positive definite."""
        Ls = self.split(np.ascontiguousarray(theta.F, dtype=float))
        inside = np.concatenate([np.zeros(0), *(L.ravel() for L in self._parts(Ls, False))])
        eta, c = (np.ascontiguousarray(v, dtype=float) for v in (theta.eta, theta.c))
        return state_at(self.blocks, self.outer, inside, self._parts(Ls, True), eta, c)

    def solved_at(self, theta: Theta) -> tuple[State, np.ndarray, np.ndarray]:
        """V^-1, V^-1 [X y] in the order of the blocks, and [X y]'V^-1 [X y].

        Raises
        ------
        LinAlgError
            If V is not positive definite.
        """
        state = self.state(theta)
        if state is None:
            raise np.linalg.LinAlgError("V is not positive definite")
        return state, *state.solved(self.columns)

    def evaluate(
        self, theta: Theta, prior: CoefficientPrior, ml: bool = False, gradient: bool = True
    ) -> Evaluation:
        """See :meth:`System.evaluate`."""
        nothing = (np.full(len(v), np.nan) for v in (theta.F, theta.eta, theta.c))
        state = self.state(theta)
        if state is None:
            return Evaluation(np.nan, *nothing)
        U, S = state.solved(self.columns)
        value, _, _, B, slopes = statistics(S, state.log_det, self.n, prior, ml)
        if not gradient or not np.isfinite(value):
            return Evaluation(float(value), *nothing)
        d_Sigma, d_eta, d_c = self._slopes(state, theta, U, B)
        return Evaluation(float(value), d_Sigma, d_eta, d_c, slopes)

    def _slopes(self, state: State, theta: Theta, U: np.ndarray, B: np.ndarray):
        """Derivatives in Sigma (flat), eta and c."""
        outer, columns = self.outer, self.p + 1
        gathered = _kernel.gather(self.blocks.layout, state.Q, outer.code, outer.z)
        inside, d_eta, d_c = _kernel.derivatives(
            with_columns(self.blocks, columns), state.inverses, gathered, U.ravel(), columns, B,
            np.zeros(self.blocks.layout.f_ptr[-1]),
            *(np.ascontiguousarray(v, dtype=float) for v in (theta.eta, theta.c)),
        )  # fmt: skip
        met, outside = outer.Z.T @ U @ B, []
        for k, (f, here) in enumerate(zip(outer.factors, outer.columns, strict=True)):
            x = met[here].reshape(len(f.levels), f.q, columns)
            D = np.einsum("jac,jbc->ab", x, f.related(x), optimize=True)
            if f.covariance is None:
                D -= state.level_information(k).sum(axis=0)
            else:
                D -= f.contracted(state.information(k))
            outside.append(0.25 * (D + D.T))
        sources = iter(self.inner.split(inside)), iter(outside)
        parts = [next(sources[out]).ravel() for out in self.is_outer]
        return np.concatenate([np.zeros(0), *parts]), d_eta, d_c

    def solve(self, theta: Theta, prior: FixedPrior | None = None, ml: bool = False) -> Moments:
        """See :meth:`System.solve`."""
        state, U, S = self.solved_at(theta)
        found = statistics(S, state.log_det, self.n, self.prior(prior), ml)
        value, gamma, covariance, *_ = found
        return Moments(
            float(value),
            self.coordinates.to_user(gamma),
            self.coordinates.covariance_to_user(covariance),
            self._spread(theta.F, self._rows(U @ np.append(-gamma, 1.0))),
            self.coordinates.root_to_user(covariance),
        )

    def _rows(self, values: np.ndarray) -> np.ndarray:
        """Values (n, ...) in the order of the data from those in the order of the blocks."""
        out = np.empty_like(values)
        out[self.blocks.order] = values
        return out

    def _spread(self, F: np.ndarray, u: np.ndarray) -> list[np.ndarray]:
        """(A (x) Sigma) Z'u of every factor, (J, q); u (n,) in the order of the data."""
        out, outside = [], iter(self.outer.factors)
        for f, Sigma, out_of_blocks in zip(
            self.factors, self.covariances(F), self.is_outer, strict=True
        ):
            total = np.column_stack(
                [np.bincount(f.codes, z * u, minlength=f.n_levels) for z in f.Z.T]
            )
            if out_of_blocks:
                own = next(outside)
                total = own.to_all(total[own.levels])
            out.append(total @ Sigma)
        return out

    def row_information(
        self, theta: Theta, prior: FixedPrior | None = None, rows=slice(None)
    ) -> RowInformation:
        """See :meth:`System.row_information`."""
        state, U, S = self.solved_at(theta)
        found = statistics(S, state.log_det, self.n, self.prior(prior), False)
        u = self._rows(U)[rows]
        return RowInformation(
            u @ np.append(-found[1], 1.0),
            u[:, :-1],
            self._rows(state.diagonal())[rows],
            found[2],
        )

    def effect_covariances(self, theta: Theta) -> list[np.ndarray]:
        """See :meth:`System.effect_covariances`."""
        state, out, k = self.solved_at(theta)[0], [], 0
        for rows, Sigma, out_of_blocks in zip(
            self.factors, self.covariances(theta.F), self.is_outer, strict=True
        ):
            if out_of_blocks:
                inside = _outer_information(state, k)
                own = self.outer.factors[k].diagonal[:, None, None] * Sigma
                k += 1
            else:
                inside, own = self._inner_information(state, rows), Sigma
            out.append(own - Sigma @ inside @ Sigma)
        return out

    def _inner_information(self, state: State, f: FactorRows) -> np.ndarray:
        """Z_j'V^-1 Z_j of every level of a factor inside the blocks, (J, q, q)."""
        from scipy.sparse import csr_array

        n, q = self.n, f.q
        code = f.codes[self.blocks.order][:, None] * q + np.arange(q)
        wide = csr_array(
            (f.Z[self.blocks.order].ravel(), code.ravel(), np.arange(0, n * q + 1, q)),
            shape=(n, f.n_levels * q),
        )
        weighted = (state.block_inverse @ wide).tocsc()
        out = np.empty((f.n_levels, q, q))
        wide = wide.tocsc()
        for at in _chunks(f.n_levels, self.outer.size * q):
            here = slice(at.start * q, at.stop * q)
            own = (wide[:, here].T @ weighted[:, here]).tocoo()
            dense = np.zeros((at.stop - at.start, q, q))
            same = own.row // q == own.col // q
            np.add.at(
                dense,
                (own.row[same] // q, own.row[same] % q, own.col[same] % q),
                own.data[same],
            )
            met = (self.outer.Z.T @ weighted[:, here]).toarray()
            parts = (-1, at.stop - at.start, q)
            out[at] = dense - np.einsum(
                "nja,njb->jab", met.reshape(parts), (state.Q @ met).reshape(parts), optimize=True
            )
        return out

    def predictor_variance(
        self, theta: Theta, X, Z: Sequence, codes: Sequence, residual=None
    ) -> np.ndarray:
        """See :meth:`System.predictor_variance`, and that of the blocks for ``residual``.

        With h = Z kappa + g the covariance of z'b and the response, g by the effects inside the
        blocks, z'(A (x) Sigma)z - h'V^-1 h + (x - X'V^-1 h)' Phi (x - X'V^-1 h), universal kriging.
        """
        from scipy.sparse import csr_array

        state, U, S = self.solved_at(theta)
        Phi = statistics(S, state.log_det, self.n, self.prior(None), False)[2]
        columns = np.asarray(X, dtype=float) @ self.coordinates.G_inverse
        m = len(columns)
        shared, out = (csr_array((m, self.n)), np.zeros(m)) if residual is None else residual
        shared, out = shared[:, self.blocks.order], out.copy()
        for at in _chunks(m, max(self.outer.size, 1)):
            here = [np.asarray(z, dtype=float)[at] for z in Z], [code[at] for code in codes]
            own, reduction, met = self._kriged(state, theta.F, U, *here, shared[at])
            spread = columns[at] - met
            out[at] += own - reduction + np.einsum("ij,jk,ik->i", spread, Phi, spread)
        return out

    def _kriged(self, state: State, F: np.ndarray, U: np.ndarray, Z: list, codes: list, inside):
        """z'(A (x) Sigma)z, h'V^-1 h and h'V^-1 X of rows; ``inside`` is what else is in g."""
        outer, m, k = self.outer, inside.shape[0], 0
        own, kappa = np.zeros(m), np.zeros((m, outer.size))
        for rows, Sigma, z, code, out_of_blocks in zip(
            self.factors, self.covariances(F), Z, codes, self.is_outer, strict=True
        ):
            loading = z @ Sigma
            size = np.einsum("ia,ia->i", loading, z)
            if out_of_blocks:
                f, columns = outer.factors[k], outer.columns[k]
                unique, place = np.unique(code, return_inverse=True)
                A = f.across(unique).T[place.ravel()]
                kappa[:, columns] = (A[:, :, None] * loading[:, None, :]).reshape(m, -1)
                size, k = size * f.diagonal[code], k + 1
            else:
                inside = inside + self._shared(rows, loading, code)
            own += size
        weighted = inside @ state.block_inverse
        met = np.asarray((weighted @ outer.Z).todense())
        QT, GK = met @ state.Q, kappa @ state.G
        reduction = np.asarray(weighted.multiply(inside).sum(axis=1)).ravel()
        reduction -= np.einsum("ij,ij->i", QT, met)  # g'V^-1 g
        across = met - QT @ state.G  # g'V^-1 Z
        # kappa'Z'V^-1 Z kappa + 2 g'V^-1 Z kappa
        reduction += np.einsum("ij,ij->i", GK - GK @ state.Q @ state.G + 2.0 * across, kappa)
        return own, reduction, kappa @ (outer.Z.T @ U[:, :-1]) + inside @ U[:, :-1]

    def _shared(self, f: FactorRows, loading: np.ndarray, code: np.ndarray):
        """Covariance of z'b of one factor inside the blocks and the rows, sparse (m, n)."""
        from scipy.sparse import csr_array

        codes, order = f.codes[self.blocks.order], np.arange(self.n)
        total = csr_array((len(code), self.n))
        for a in range(f.q):
            mine = csr_array(
                (loading[:, a], (np.arange(len(code)), code)), shape=(len(code), f.n_levels)
            )
            theirs = csr_array(
                (f.Z[self.blocks.order, a], (codes, order)), shape=(f.n_levels, self.n)
            )
            total = total + mine @ theirs
        return total

    @cached_property
    def _normals(self) -> list[int]:
        """Rows of standard normals that the levels of every factor take."""
        outside = iter(self.outer.factors)
        related = [next(outside).relationship if out else None for out in self.is_outer]
        return [
            f.n_levels if known is None else known.n_normals
            for f, known in zip(self.factors, related, strict=True)
        ]

    @property
    def n_normals(self) -> int:
        """Standard normals that one draw of (beta, b) takes."""
        levels = zip(self._normals, self.factors, strict=True)
        return self.p + sum(count * f.q for count, f in levels) + self.n

    def draw(self, F, eta, c, prior: FixedPrior | CoefficientPrior, normals: np.ndarray):
        """See :meth:`System.draw`.

        By Matheron's rule: a prior draw (b*, e*) is moved by (A (x) Sigma) Z'V^-1 (y - X beta -
        Z b* - e*).
        """
        given, m = self.prior(prior), len(normals)
        gamma = np.empty((m, self.p))
        b = [np.empty((m, f.n_levels, f.q)) for f in self.factors]
        for d in range(m):
            theta = Theta(F[d], eta[d], c[d])
            try:
                state, _, S = self.solved_at(theta)
            except np.linalg.LinAlgError:
                gamma[d] = np.nan
                for own in b:
                    own[d] = np.nan
                continue
            _, mean, _, B, _ = statistics(S, state.log_det, self.n, given, False)
            gamma[d] = mean + B[: self.p, : self.p] @ normals[d, : self.p]
            first = self._prior_effects(F[d], normals[d, self.p : -self.n])
            left = self.columns @ np.append(-gamma[d], 1.0) - self._noise(theta, normals[d])
            for f, own in zip(self.factors, first, strict=True):
                left -= np.einsum("ia,ia->i", f.Z, own[f.codes])[self.blocks.order]
            u = self._rows(state.solved(left[:, None])[0][:, 0])
            for drawn, own, move in zip(b, first, self._spread(F[d], u), strict=True):
                drawn[d] = own + move
        return self.coordinates.to_user(gamma), b

    def _prior_effects(self, F: np.ndarray, z: np.ndarray) -> list[np.ndarray]:
        """Effects of every factor from their own distribution, (J, q)."""
        out, at, outside = [], 0, iter(self.outer.factors)
        for f, count, L, out_of_blocks in zip(
            self.factors, self._normals, self.split(F), self.is_outer, strict=True
        ):
            known = next(outside).relationship if out_of_blocks else None
            values = z[at : at + count * f.q].reshape(count, f.q)
            at += count * f.q
            out.append((values if known is None else known.times_root(values)) @ L.T)
        return out

    def _noise(self, theta: Theta, normals: np.ndarray) -> np.ndarray:
        """Residuals from their own distribution, in the order of the blocks."""
        eta, c = (np.ascontiguousarray(v, dtype=float)[None] for v in (theta.eta, theta.c))
        z = np.ascontiguousarray(normals[None, -self.n :])
        return _effects.noise(self.blocks.layout, eta, c, z)[0]

    def residual_root(self, theta: Theta) -> Callable:
        """See :meth:`System.residual_root`."""
        return self.inner.residual_root(theta)

    def with_response(self, y: np.ndarray, X: np.ndarray) -> WoodburySystem:
        """See :meth:`System.with_response`."""
        inner = self.inner.with_response(y, X)
        return replace(self, inner=inner, rest=inner.rest)

    def with_effects(self, matrices: Sequence[np.ndarray | None]) -> WoodburySystem:
        """See :meth:`System.with_effects`."""
        factors = tuple(f.mapped(K) for f, K in zip(self.factors, matrices, strict=True))
        return self._joined(self.inner.with_effects(self._parts(matrices, False)), factors)

    def with_rows(self, keep: np.ndarray, y: np.ndarray, X: np.ndarray) -> WoodburySystem:
        """See :meth:`System.with_rows`."""
        factors = tuple(f.take(keep) for f in self.factors)
        return self._joined(self.inner.with_rows(keep, y, X), factors)

    def with_times(self, time: np.ndarray) -> WoodburySystem:
        """See :meth:`BlockProblem.with_times`."""
        return replace(self, inner=self.inner.with_times(time))

    def _joined(self, inner: BlockProblem, factors: tuple[FactorRows, ...]) -> WoodburySystem:
        rows = self._parts(factors, True)
        outer = Outer.of_rows(self.outer.factors, rows, inner.blocks.order)
        return replace(self, inner=inner, outer=outer, factors=factors, rest=inner.rest)


def _outer_information(state: State, k: int) -> np.ndarray:
    """A_jo (Z'V^-1 Z) A_oj of every level j of a factor outside the blocks, (J, q, q)."""
    f = state.outer.factors[k]
    if f.relationship is None:
        return state.level_information(k)
    L, q = len(f.levels), f.q
    S, out = state.information(k), np.empty((f.n_levels, q, q))
    for at in _chunks(f.n_levels, f.n_levels * q):
        A = f.across(np.arange(at.start, at.stop))
        SA = np.einsum("iajb,jc->iabc", S.reshape(L, q, L, q), A, optimize=True)
        out[at] = np.einsum("ic,iabc->cab", A, SA, optimize=True)
    return out


def prepare_woodbury(
    inner: BlockProblem,
    factors: Sequence[FactorRows],
    patterns: Sequence[CovariancePattern],
    relationships: Sequence[Relationship | None],
    is_outer: Sequence[bool],
) -> WoodburySystem:
    """Join rows in blocks by the effects outside of these.

    Parameters
    ----------
    inner : BlockProblem
        The rows with the effects inside blocks only.
    factors, patterns
        All grouping factors and their covariance patterns.
    relationships : sequence of Relationship or None
        Of the levels of each factor.
    is_outer : sequence of bool
        Which factors are outside the blocks; those with related levels must be.
    """
    own = [f for f, out in zip(factors, is_outer, strict=True) if out]
    related = [known for known, out in zip(relationships, is_outer, strict=True) if out]
    outside = [outer_factor(f, known) for f, known in zip(own, related, strict=True)]
    outer = Outer.of_rows(outside, own, inner.blocks.order)
    chosen = tuple(bool(out) for out in is_outer)
    return WoodburySystem(inner, outer, tuple(patterns), tuple(factors), chosen, inner.rest)
