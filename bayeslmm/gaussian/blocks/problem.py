"""Structured residuals of any kind, by a dense factorization of every block of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bayeslmm.gaussian._coefficients import CoefficientPrior, statistics
from bayeslmm.gaussian.blocks import _effects, _kernel
from bayeslmm.gaussian.blocks._grams import make_grams
from bayeslmm.gaussian.blocks.layout import Blocks, make_blocks, residual_root, with_columns
from bayeslmm.gaussian.coordinates import Coordinates, working_products
from bayeslmm.gaussian.crossproducts import CrossProducts
from bayeslmm.gaussian.marginal import FixedPrior
from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.gaussian.system import Evaluation, Moments, RowInformation, System, Theta
from bayeslmm.parts.patterns import CovariancePattern
from bayeslmm.parts.structures import Structure

__all__ = [
    "BlockProblem",
    "Moments",
    "RowInformation",
    "System",
    "Theta",
    "blocks_of",
    "prepare_blocks",
]

#: Up to this many rows an evaluation is cheap.
_FEW_ROWS = 5_000


@dataclass(frozen=True)
class BlockProblem(System):
    """Rows in blocks, each factorized densely.

    Attributes
    ----------
    blocks : Blocks
    W : flat array
        [X y] in the coordinates computed with.
    """

    blocks: Blocks
    W: np.ndarray
    n: int
    p: int
    patterns: tuple[CovariancePattern, ...]
    factors: tuple[FactorRows, ...]
    structure: Structure
    coordinates: Coordinates
    rest: np.ndarray
    group: np.ndarray
    time: np.ndarray
    scale: np.ndarray
    weights: np.ndarray | None

    engine = "blocks"

    @property
    def cheap(self) -> bool:
        """See :attr:`System.cheap`."""
        return self.n <= _FEW_ROWS

    def kernel_arguments(self, prior: CoefficientPrior) -> tuple | None:
        """See :meth:`System.kernel_arguments`."""
        return _kernel.BlockArguments(self.layout, self.data, self.n, prior)

    @cached_property
    def layout(self) -> _kernel.Layout:
        """Positions, as the kernels take them."""
        return with_columns(self.blocks, self.p + 1)

    @cached_property
    def data(self) -> _kernel.Data:
        """[X y], as the kernels take it."""
        return _kernel.Data(self.W, make_grams(self.layout, self.W, self.p + 1))

    @property
    def lengths(self) -> np.ndarray:
        """See :attr:`System.lengths`."""
        return np.linalg.norm(self.W.reshape(-1, self.p + 1)[:, :-1], axis=0)

    @property
    def n_effects(self) -> int:
        """Random effects in all."""
        return int(self.blocks.effect_ptr[-1])

    def evaluate(
        self, theta: Theta, prior: CoefficientPrior, ml: bool = False, gradient: bool = True
    ) -> Evaluation:
        """See :meth:`System.evaluate`."""
        found = _kernel.evaluate(
            self.layout, self.data, self.n, theta.F, theta.eta, theta.c, prior, ml, gradient
        )
        return Evaluation(*found)

    def solve(self, theta: Theta, prior: FixedPrior | None = None, ml: bool = False) -> Moments:
        """Coefficients, their covariance and conditional means of the effects."""
        root = self.prior(prior)
        log_det, _, U, S = _kernel.factorize(
            self.layout, self.W, self.p + 1, theta.F, theta.eta, theta.c
        )
        value, gamma, covariance, _, _ = statistics(S, log_det, self.n, root, ml)
        u = self.blocks.rows(U, self.p + 1) @ np.append(-gamma, 1.0)
        b = []
        for factor, Sigma in zip(self.factors, self.covariances(theta.F), strict=True):
            total = np.zeros((factor.n_levels, factor.q))
            np.add.at(total, factor.codes, factor.Z * u[:, None])
            b.append(total @ Sigma)
        return Moments(
            float(value),
            self.coordinates.to_user(gamma),
            self.coordinates.covariance_to_user(covariance),
            b,
            self.coordinates.root_to_user(covariance),
        )

    def row_information(
        self, theta: Theta, prior: FixedPrior | None = None, rows=slice(None)
    ) -> RowInformation:
        """See :meth:`System.row_information`."""
        root = self.prior(prior)
        log_det, inverses, U, S = _kernel.factorize(
            self.layout, self.W, self.p + 1, theta.F, theta.eta, theta.c
        )
        _, gamma, covariance, _, _ = statistics(S, log_det, self.n, root, False)
        solved = self.blocks.rows(U, self.p + 1)[rows]
        layout = self.layout
        diagonal = np.concatenate(
            [
                np.repeat(np.diag(inverses[a:b].reshape(m, m)), r)
                for a, b, m, r in zip(
                    layout.v_ptr[:-1], layout.v_ptr[1:], layout.m, layout.n_rep, strict=True
                )
            ]
        )
        return RowInformation(
            solved @ np.append(-gamma, 1.0),
            solved[:, :-1],
            self.blocks.rows(diagonal, 1)[rows, 0],
            covariance,
        )

    def effect_covariances(self, theta: Theta) -> list[np.ndarray]:
        """Covariance of the effects of every level given y, beta and theta, (J_k, q_k, q_k)."""
        _, inverses, _, _ = _kernel.factorize(
            self.layout, self.W, self.p + 1, theta.F, theta.eta, theta.c
        )
        out = []
        for f, (factor, Sigma) in enumerate(
            zip(self.factors, self.covariances(theta.F), strict=True)
        ):
            T = _effects.effect_information(
                self.layout, inverses, self.blocks.code, self.blocks.effect_ptr, f, factor.q,
                factor.n_levels,
            )  # fmt: skip
            out.append(Sigma - Sigma @ T @ Sigma)
        return out

    def predictor_variance(
        self, theta: Theta, X, Z: Sequence, codes: Sequence, residual=None
    ) -> np.ndarray:
        """Var(x'beta + z'b | y, theta) of rows whose levels are among those of the data.

        With h the covariance of z'b and the response, z'Sigma z - h'V^-1 h + (x - X'V^-1 h)' Phi
        (x - X'V^-1 h), Phi = (X'V^-1 X)^-1 (universal kriging).

        Parameters
        ----------
        X : (m, p) array
        Z : sequence of (m, q_k) arrays
        codes : sequence of (m,) int arrays
        residual : (sparse (m, n) array, (m,) array), optional
            Of x'beta + z'b + r: covariances of r with the responses, which h has too, and variances
            of r.
        """
        log_det, inverses, U, S = _kernel.factorize(
            self.layout, self.W, self.p + 1, theta.F, theta.eta, theta.c
        )
        Phi = statistics(S, log_det, self.n, self.prior(None), False)[2]
        columns = self.blocks.rows(U, self.p + 1)[:, :-1]
        spread = np.asarray(X, dtype=float) @ self.coordinates.G_inverse
        variance = np.zeros(len(spread))
        Sigmas = self.covariances(theta.F)
        members = [_rows_by_level(f) for f in self.factors]
        owner, place = self._blocks_of_rows
        kriged = np.array([np.any(z, axis=1) for z in Z]).reshape(len(Z), len(spread)).any(axis=0)
        if residual is not None:
            shared, own = residual
            variance += own
            kriged |= np.diff(shared.indptr) > 0
        for i in np.flatnonzero(kriged):
            met, parts = [], []
            if residual is not None:
                here = slice(shared.indptr[i], shared.indptr[i + 1])
                met.append(shared.indices[here])
                parts.append(shared.data[here])
            for f, Sigma in enumerate(Sigmas):
                z, at = Z[f][i], members[f][codes[f][i]]
                variance[i] += z @ Sigma @ z
                met.append(at)
                parts.append(self.factors[f].Z[at] @ (Sigma @ z))
            rows, inverse = np.unique(np.concatenate(met), return_inverse=True)
            h = np.bincount(inverse.ravel(), np.concatenate(parts), minlength=len(rows))
            spread[i] -= columns[rows].T @ h
            for block in np.unique(owner[rows, 1]):
                here = owner[rows, 1] == block
                k = owner[rows[here][0], 0]
                m = self.layout.m[k]
                V = inverses[self.layout.v_ptr[k] : self.layout.v_ptr[k + 1]].reshape(m, m)
                at = place[rows[here]]
                variance[i] -= h[here] @ V[np.ix_(at, at)] @ h[here]
        return variance + np.einsum("ij,jk,ik->i", spread, Phi, spread)

    @cached_property
    def _blocks_of_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Pattern and block (n, 2), and place within the block (n,), of every row."""
        owner, place = np.empty((self.n, 2), dtype=np.int64), np.empty(self.n, dtype=np.int64)
        start = blocks = 0
        for k, (m, r) in enumerate(zip(self.layout.m, self.layout.n_rep, strict=True)):
            rows = self.blocks.order[start : start + m * r].reshape(m, r)
            owner[rows, 0], owner[rows, 1] = k, blocks + np.arange(r)
            place[rows] = np.arange(m)[:, None]
            start, blocks = start + m * r, blocks + r
        return owner, place

    @property
    def n_normals(self) -> int:
        """Standard normals that one draw of (beta, b) takes."""
        return self.p + (self.n_effects + self.n if self.n_effects else 0)

    def draw(self, F, eta, c, prior: FixedPrior | CoefficientPrior, normals: np.ndarray):
        """One exact draw of (beta, b) per row of F, eta, c and normals.

        Returns
        -------
        beta : (m, p) array
        b : list of (m, J_k, q_k) arrays
        """
        beta, b = _effects.draws(
            self.layout, self.data, self.p + 1, np.ascontiguousarray(F), np.ascontiguousarray(eta),
            np.ascontiguousarray(c), self.prior(prior), self.blocks.code, self.blocks.effect_ptr,
            np.ascontiguousarray(normals),
        )  # fmt: skip
        ptr = self.blocks.effect_ptr
        effects = [
            b[:, ptr[f] : ptr[f + 1]].reshape(len(b), factor.n_levels, factor.q)
            for f, factor in enumerate(self.factors)
        ]
        return self.coordinates.to_user(beta), effects

    def residual_root(self, theta: Theta) -> Callable:
        """See :func:`bayeslmm.gaussian.blocks.layout.residual_root`."""
        return residual_root(self.blocks, theta.eta, theta.c)

    def with_response(self, y: np.ndarray, X: np.ndarray) -> BlockProblem:
        """The same rows and columns with another response (less its offset)."""
        W, coordinates, rest = _working(self.blocks, y, X)
        return replace(self, W=W, coordinates=coordinates, rest=rest)

    def with_effects(self, matrices: Sequence[np.ndarray | None]) -> BlockProblem:
        """See :meth:`System.with_effects`."""
        factors = tuple(f.mapped(K) for f, K in zip(self.factors, matrices, strict=True))
        blocks = blocks_of(self.structure, self.group, self.time, self.scale, self.weights, factors)
        W = blocks.data(self.blocks.rows(self.W, self.p + 1))
        return replace(self, blocks=blocks, W=W, factors=factors)

    def with_times(self, time: np.ndarray) -> BlockProblem:
        """The same rows with time[t] in place of t, for structures whose times are numbered."""
        layout = self.blocks.layout
        layout = layout._replace(time=np.asarray(time, dtype=float)[layout.time.astype(int)])
        return replace(self, blocks=replace(self.blocks, layout=layout))

    def with_rows(self, keep: np.ndarray, y: np.ndarray, X: np.ndarray) -> BlockProblem:
        """See :meth:`System.with_rows`."""
        return prepare_blocks(
            y[keep],
            X[keep],
            [factor.take(keep) for factor in self.factors],
            self.patterns,
            self.structure,
            self.group[keep],
            self.time[keep],
            self.scale[keep],
            None if self.weights is None else self.weights[keep],
        )


def _rows_by_level(factor: FactorRows) -> list[np.ndarray]:
    order = np.argsort(factor.codes, kind="stable")
    counts = np.bincount(factor.codes, minlength=factor.n_levels)
    return np.split(order, np.cumsum(counts)[:-1])


def prepare_blocks(
    y: np.ndarray,
    X: np.ndarray,
    factors: Sequence[FactorRows],
    patterns: Sequence[CovariancePattern],
    structure: Structure,
    group: np.ndarray,
    time: np.ndarray,
    scale: np.ndarray,
    weights: np.ndarray | None = None,
) -> BlockProblem:
    """Lay rows out in blocks.

    Parameters
    ----------
    y : (n,) array
        Response, less its offset.
    X : (n, p) array
    factors, patterns
        Grouping factors and their covariance patterns.
    structure : Structure
    group, time : (n,) arrays
    scale : (n, s) array
        log sd_i = scale_i eta.
    weights : (n,) array, optional
        Var(eps_i) = sd_i^2 / w_i.
    """
    blocks = blocks_of(structure, group, time, scale, weights, factors)
    W, coordinates, rest = _working(blocks, np.asarray(y, dtype=float), X)
    return BlockProblem(
        blocks, W, len(y), X.shape[1], tuple(patterns), tuple(factors), structure, coordinates,
        rest, group, time, scale, weights,
    )  # fmt: skip


def blocks_of(structure: Structure, group, time, scale, weights, factors) -> Blocks:
    """Blocks of rows that share a residual group or a level of the factors."""
    return make_blocks(
        group,
        time if structure.uses_time else np.zeros(len(group)),
        scale,
        weights,
        factors,
        (structure.code, structure.n_times),
        shift_times=structure.uses_time and structure.n_times == 0,
    )


def _working(blocks: Blocks, y: np.ndarray, X: np.ndarray):
    """[X y] shifted along the ones and, where columns are nearly collinear, orthogonalized."""
    working, coordinates = working_products(CrossProducts.from_rows(y, X, []))
    R = np.ascontiguousarray(working.shift.applied(y, X)[:, :-1])
    rest = R[:, -1]
    if X.shape[1]:
        rest = rest - R[:, :-1] @ np.linalg.lstsq(R[:, :-1], R[:, -1], rcond=None)[0]
    return blocks.data(R), coordinates, rest
