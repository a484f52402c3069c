"""Likelihoods of groups and of rows left out of them, for many draws of the parameters at once.

The effects u of a group (b = F u) are integrated out by the quadrature of
:mod:`bayeslmm.laplace.quadrature`. What a row adds to the likelihood of its group is its density
given the rest of the group, p(y_i | rest) = L_g / L_rest. Both integrals are adaptive; but where a
row moves the mode and the curvature of its group little, which all but a few rows of a group do
(the shares of curvature of its rows add up to at most q), the nodes of the whole group serve
L_rest as well, so that the work does not grow with the square of the group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayeslmm.laplace.quadrature import standard_rule
from bayeslmm.parts.families import log_density_draws, slope_draws
from bayeslmm.parts.families.formulas import STUDENT

if TYPE_CHECKING:
    from bayeslmm.laplace.system import ResponseSystem
    from bayeslmm.parts.families import Family

__all__ = ["MOST_EFFECTS", "GroupRows", "ParameterDraws", "RowsLeftOut"]

#: Effects of a factor that can be integrated out, and nodes per dimension.
MOST_EFFECTS = 3
_NODES = {1: 21, 2: 11, 3: 7}
#: The same of Student-t residuals: an outlier gives the effects a tail, or a second mode, far from
#: the first.
_MORE_NODES = {1: 61, 2: 31, 3: 15}

#: Newton steps, halvings of one, and the decrement that ends them: nodes as good as do not depend
#: on the start.
_STEPS, _HALVINGS, _DECREMENT = 50, 10, 1e-12

#: Nodes of the group serve a row whose share of its curvature, and whose pull in standard
#: deviations, are at most these.
_SHARE, _PULL = 0.1, 1.0


class ParameterDraws(NamedTuple):
    """m draws of what groups are evaluated at.

    Attributes
    ----------
    fixed : (m, n) array
        Linear predictor without the effects.
    F : (m, q, q) array
        Lower triangular, Sigma = F F'.
    phi : (m, n_phi) array
    """

    fixed: np.ndarray
    F: np.ndarray
    phi: np.ndarray

    def part(self, draws: slice, rows=slice(None)) -> ParameterDraws:
        """Some draws and rows."""
        return ParameterDraws(self.fixed[draws][:, rows], self.F[draws], self.phi[draws])


class RowsLeftOut(NamedTuple):
    """Of every row given the rest of its group, (m, n) arrays.

    Attributes
    ----------
    log_density : log p(y_i | rest)
    upper, lower : P(Y <= y_i) and P(Y < y_i); zeros where they are not asked for.
    """

    log_density: np.ndarray
    upper: np.ndarray
    lower: np.ndarray


class _Around(NamedTuple):
    """Where nodes are, u = center + x C_inverse, with h and the slopes of rows (m, n, 4) there."""

    center: np.ndarray
    C_inverse: np.ndarray
    log_det: np.ndarray
    h: np.ndarray
    slopes: np.ndarray


@dataclass(frozen=True)
class GroupRows:
    """Rows in order of their groups.

    Attributes
    ----------
    y, trials, weights : (n,) arrays
        Weights multiply log densities.
    Z : (n, q) array
    starts : (J,) array
        First rows of the groups.
    family : Family
    order : (n,) array
        Where the rows stand in the data.
    """

    y: np.ndarray
    trials: np.ndarray
    weights: np.ndarray
    Z: np.ndarray
    starts: np.ndarray
    family: Family
    order: np.ndarray

    @classmethod
    def of(cls, system: ResponseSystem, k: int) -> GroupRows:
        """Of the rows of a model and its factor k."""
        f = system.factors[k]
        order = np.argsort(f.codes, kind="stable")
        starts = np.unique(f.codes[order], return_index=True)[1]
        y, trials, weights = system.y[order], system.trials[order], system.weights[order]
        return cls(y, trials, weights, f.Z[order], starts, system.family, order)

    @cached_property
    def codes(self) -> np.ndarray:
        """Group of each row, counted here."""
        return np.repeat(np.arange(len(self.starts)), self.sizes)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Rows of each group."""
        return np.diff(np.append(self.starts, len(self.y)))

    @cached_property
    def constants(self) -> np.ndarray:
        """What densities have beside that of kernels, (n,): they are added in the end."""
        each = self.weights * self.family.constant(self.y, self.trials)
        return np.where(self.weights > 0.0, each, 0.0)

    def log_likelihoods(self, at: ParameterDraws) -> np.ndarray:
        """log p(y_g) of every group, (m, J)."""
        around = self._around(at)
        total = np.zeros(around.h.shape)
        for x, log_weight in zip(*self._rule, strict=True):
            _, _, h = self._at(at, around.center + x @ around.C_inverse)
            total += np.exp(log_weight + h - around.h)
        return self._log_likelihoods(around, total)

    def _log_likelihoods(self, around: _Around, total: np.ndarray) -> np.ndarray:
        """From the sum over nodes, relative to the mode."""
        constants = np.add.reduceat(self.constants, self.starts)
        return np.log(total) + around.h - around.log_det + constants

    def left_out(self, at: ParameterDraws, *, distribution: bool = False) -> RowsLeftOut:
        """Every row given the rest of its group.

        Parameters
        ----------
        at : ParameterDraws
            Of the rows in their order here.
        distribution : bool
            Whether the distribution functions are wanted, too.
        """
        found, log_likelihood, moves, modes = self._by_shared_nodes(at, distribution)
        for rows in self._in_turns(np.flatnonzero(moves)):
            codes = self.codes[rows]
            own = self.of_groups(codes)
            keep = np.flatnonzero(np.isin(self.codes, codes))
            alone = np.searchsorted(keep, rows)
            weights = own.weights.copy()
            weights[alone] = 0.0
            less = replace(own, weights=weights)._without(
                at.part(slice(None), keep), alone, distribution, modes[:, codes]
            )
            found.log_density[:, rows] = log_likelihood[:, codes] - less.log_density
            found.upper[:, rows], found.lower[:, rows] = less.upper, less.lower
        return found

    @property
    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        q = self.Z.shape[1]
        return standard_rule((_MORE_NODES if self.family.kind == STUDENT else _NODES)[q], q)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the groups' rows, which are the second axis."""
        return np.add.reduceat(values, self.starts, axis=1)

    def _eta(self, at: ParameterDraws, u: np.ndarray) -> np.ndarray:
        """Linear predictor (m, n) at effects u (m, J, q)."""
        b = u @ at.F.transpose(0, 2, 1)
        parts = (z * np.take(b[..., a], self.codes, axis=1) for a, z in enumerate(self.Z.T))
        return sum(parts, at.fixed)

    def _h(self, values: np.ndarray, u: np.ndarray) -> np.ndarray:
        """h (m, J) from log densities (m, n)."""
        return self._sums(values) - 0.5 * (u**2).sum(axis=2)

    def _at(self, at: ParameterDraws, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Linear predictor and weighted log densities (m, n), h (m, J) at effects u (m, J, q)."""
        eta, rows = self._eta(at, u), (self.y, self.trials, self.weights)
        values = np.empty(eta.shape)
        log_density_draws(self.family.code, *rows, eta, at.phi, values)
        return eta, values, self._h(values, u)

    def _slopes(self, at: ParameterDraws, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted log densities of rows with their slopes (m, n, 4), and h (m, J)."""
        eta, rows = self._eta(at, u), (self.y, self.trials, self.weights)
        slopes = np.empty((*eta.shape, 4))
        slope_draws(self.family.code, *rows, eta, at.phi, slopes)
        slopes[:, self.weights == 0.0] = 0.0
        return slopes, self._h(slopes[..., 0], u)

    def _around(self, at: ParameterDraws, start: np.ndarray | None = None) -> _Around:
        """The mode of h of every group, and its curvature, by Newton's method."""
        m, J, q = len(at.fixed), len(self.starts), self.Z.shape[1]
        ZF = np.einsum("ia,mab->mib", self.Z, at.F)
        u = np.zeros((m, J, q)) if start is None else start
        slopes, h = self._slopes(at, u)
        for _ in range(_STEPS):
            P = self._curvature(slopes, ZF)
            gradient = self._sums(ZF * slopes[..., 1, None]) - u
            step = np.linalg.solve(P, gradient[..., None])[..., 0]
            moving = (step * gradient).sum(axis=2) > _DECREMENT
            if not moving.any():
                break
            share = np.where(moving, 1.0, 0.0)
            for _ in range(_HALVINGS):
                new = u + share[:, :, None] * step
                slopes, reached = self._slopes(at, new)
                worse = ~(reached >= h - 1e-9)
                if not worse.any():
                    break
                share = np.where(worse, 0.5 * share, share)
            else:  # these stay where they are
                new = np.where(worse[:, :, None], u, new)
                slopes, reached = self._slopes(at, new)
            u, h = new, reached
        else:
            P = self._curvature(slopes, ZF)
        C = np.linalg.cholesky(P)
        log_det = np.log(np.einsum("mjaa->mja", C)).sum(axis=2)
        return _Around(u, np.linalg.inv(C), log_det, h, slopes)

    def _curvature(self, slopes: np.ndarray, ZF: np.ndarray) -> np.ndarray:
        """I + F'Z'WZF with what is concave of the rows."""
        w = np.maximum(-slopes[..., 2], 0.0)
        squares = w[:, :, None, None] * ZF[:, :, :, None] * ZF[:, :, None, :]
        return np.eye(ZF.shape[2]) + self._sums(squares)

    def _by_shared_nodes(self, at: ParameterDraws, distribution: bool):
        """Rows left out by the nodes of the groups, their log-likelihoods (m, J), which rows (n,)
        move their groups too much for that in some draw, and the modes of the groups.
        """
        around, codes = self._around(at), self.codes
        l0, l1, l2, _ = np.moveaxis(around.slopes, 2, 0)
        ZF = np.einsum("ia,mab->mib", self.Z, at.F)
        root = np.einsum("mia,miba->mib", ZF, around.C_inverse[:, codes])
        spread = (root**2).sum(axis=2)
        moves = np.abs(l2) * spread > _SHARE
        moves |= np.abs(l1) * np.sqrt(spread) > _PULL
        few = ~moves.any(axis=0)
        served = self._some(few, np.arange(np.count_nonzero(few)))
        total, left = np.zeros(around.h.shape), np.zeros(l0.shape)
        upper, lower = np.zeros((2, len(l0), len(served.y)))
        with np.errstate(over="ignore", invalid="ignore"):  # of rows that are done again
            for x, log_weight in zip(*self._rule, strict=True):
                eta, values, h = self._at(at, around.center + x @ around.C_inverse)
                share = log_weight + h - around.h
                total += np.exp(share)
                without = np.exp(share[:, codes] - (values - l0))
                left += without
                if distribution:
                    parts = eta[:, few], without[:, few]
                    served._add_distribution(at, *parts, upper, lower)
            log_likelihood = self._log_likelihoods(around, total)
            density = np.log(total[:, codes]) - np.log(left) + l0 + self.constants
            whole = np.zeros((2, *l0.shape))
            whole[:, :, few] = upper / left[:, few], lower / left[:, few]
        moves |= ~np.isfinite(density)
        return RowsLeftOut(density, *whole), log_likelihood, moves.any(axis=0), around.center

    def _without(
        self, at: ParameterDraws, alone: np.ndarray, distribution: bool, start: np.ndarray
    ) -> RowsLeftOut:
        """One row of every group whose weight is 0: log-likelihoods of the others of its group, and
        its distribution functions. The one mode there is, is searched for from start.
        """
        around = self._around(at, start if self.family.log_concave else None)
        total = np.zeros(around.h.shape)
        upper, lower = np.zeros((2, *total.shape))
        one = self._some(alone, np.arange(len(alone)))
        for x, log_weight in zip(*self._rule, strict=True):
            eta, _, h = self._at(at, around.center + x @ around.C_inverse)
            without = np.exp(log_weight + h - around.h)
            total += without
            if distribution:
                one._add_distribution(at, eta[:, alone], without, upper, lower)
        return RowsLeftOut(self._log_likelihoods(around, total), upper / total, lower / total)

    def _add_distribution(self, at: ParameterDraws, eta, shares, upper, lower) -> None:
        phi = at.phi[:, None, :]
        with np.errstate(all="ignore"):
            reached = self.family.cdf(self.y, eta, phi, self.trials)
            upper += shares * reached
            if self.family.discrete:
                density = self.family.log_density(self.y, eta, phi, self.trials)
                reached = np.maximum(reached - np.exp(density), 0.0)
            lower += shares * reached

    def _in_turns(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows in parts that have at most one of every group."""
        codes = self.codes[rows]
        first = np.searchsorted(codes, codes)
        turn = np.arange(len(rows)) - first
        return [rows[turn == t] for t in range(int(turn.max(initial=-1)) + 1)]

    def of_groups(self, groups: np.ndarray) -> GroupRows:
        """The rows of some groups, which are numbers in order."""
        sizes = self.sizes[groups]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return self._some(np.isin(self.codes, groups), starts)

    def _some(self, rows, starts: np.ndarray) -> GroupRows:
        y, trials, weights = self.y[rows], self.trials[rows], self.weights[rows]
        return GroupRows(y, trials, weights, self.Z[rows], starts, self.family, self.order[rows])
