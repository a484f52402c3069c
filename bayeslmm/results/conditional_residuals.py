"""Residuals of rows given those of the observed rows of their group.

Residuals e of the rows of a group have the covariance D C D, D their standard deviations. Given
e_o of the observed rows the others are normal, u = D^-1 e with mean C_no C_oo^-1 u_o and covariance
C_nn - C_no C_oo^-1 C_on (Goldberger 1962, Journal of the American Statistical Association 57(298),
eq. 3.11): with the Cholesky factor L of the correlations of both, mean L_no L_oo^-1 u_o and root
L_nn. Groups of the same times share the factor.

In a structure with times the residual of a group at a time is one number: a row at a time at which
its group was observed has the residual of that row, up to the ratio of their standard deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayeslmm.bayes.residual_draws import correlated
from bayeslmm.errors import DataError, one_of
from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame
from bayeslmm.formula.extension import joined_residuals, row_weights
from bayeslmm.parts.structures import STRUCTURES, correlations
from bayeslmm.results.tables import blocks_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from bayeslmm.protocols import LikelihoodResult

__all__ = ["ConditionalResiduals", "Kriged", "are_conditional", "kriged_residuals"]


def are_conditional(design: Design, residuals: str, random: str) -> bool:
    """Whether residuals are to be predicted from those of the group's observed rows.

    Parameters
    ----------
    residuals : {"new", "conditional"}
    random : str
        Of the prediction.

    Raises
    ------
    ValueError
        If there is no such choice, or not with this ``random``.
    DataError
        If residuals of different rows are not correlated.
    """
    one_of("residuals", residuals, ("new", "conditional"))
    if residuals == "new":
        return False
    if not correlated(design):
        raise DataError(
            'residuals="conditional" has nothing to condition on: residuals of different rows are '
            "not correlated in this model. That takes residual=, such as "
            'residual="ar1(time | group)"; without it leave the option out.'
        )
    if random != "conditional":
        raise ValueError(
            'residuals="conditional" goes on from the residuals of known groups, which are those '
            'left by random="conditional" (with allow_new_levels=True groups that are not in the '
            f"fit may be among them), not by random={random!r}."
        )
    return True


def kriged_residuals(fit: LikelihoodResult, newdata) -> Kriged:
    """Residuals of rows given those of the fit, at the estimates of a likelihood fit."""
    eta, c = fit._engine.residual_parameters(fit._solution)
    return ConditionalResiduals(fit.design, newdata, eta[None], c[None]).kriged()


@dataclass(frozen=True)
class _Group:
    """A group: its observed rows, the rows to predict, and the points of time of both.

    Attributes
    ----------
    old : (k,) int array
        Rows of the fit.
    new : (r,) int array
        Rows to predict.
    point : (r,) int array
        Point of each: an old row's, or k and above.
    first : (f,) int array
        The first of the rows to predict at each of the f points that are not an old row's.
    time : (k + f,) array
    """

    old: np.ndarray
    new: np.ndarray
    point: np.ndarray
    first: np.ndarray
    time: np.ndarray

    @property
    def key(self) -> tuple:
        """Equal for groups that share weights and roots."""
        return len(self.old), self.time.tobytes(), self.point.tobytes(), self.first.tobytes()


class _Given(NamedTuple):
    """u of the r rows to predict, given u_o: normal with mean ``weights`` u_o and root ``root``.

    Attributes
    ----------
    weights : (m, r, k) array
    root : (m, r, f) array
    observed : (m, k, k) array
        Correlations of the observed rows.
    """

    weights: np.ndarray
    root: np.ndarray
    observed: np.ndarray


class Kriged(NamedTuple):
    """Residuals e of n rows to predict, given e_o of the N rows of the fit.

    Attributes
    ----------
    weights : (n, N) sparse array
        K, the mean of e being K e_o.
    shared : (n, N) sparse array
        Covariance K R of the mean and e_o.
    mean_variance, variance : (n,) array
        Variances of the mean and of e around it: their sum is that of e.
    """

    weights: csr_array
    shared: csr_array
    mean_variance: np.ndarray
    variance: np.ndarray


class ConditionalResiduals:
    """Residuals of rows given those of their groups, at m values of the residual parameters.

    A row of the fit is predicted from the other rows of its group, since its own residual is known:
    mean u_i - [C^-1 u]_i / [C^-1]_ii, variance 1 / [C^-1]_ii. A row of a group that is not in the
    fit has no past: mean zero and its own variance.

    Parameters
    ----------
    design : Design
    newdata : data frame or None
        Rows to predict, with times, groups and, where the model has them, weights and the columns
        of the standard deviations; None for the fitted ones.
    eta : (m, s) array
        Log residual standard deviations, or log-linear coefficients.
    c : (m, k) array
        Natural parameters of the correlation structure.

    Raises
    ------
    FormulaError, DataError
        If a column or value is missing, a time is none of the structure's, or the correlations of
        the fit do not reach these rows.
    """

    def __init__(self, design: Design, newdata, eta: np.ndarray, c: np.ndarray):
        self._residual, self._c = design.stated_residual, c
        n, factor, rows = design.n_rows, self._residual.factor, self._residual.rows
        weights = row_weights(design, None, n)
        self._fitted = newdata is None
        if newdata is not None:
            frame = as_frame(newdata)
            factor, rows = joined_residuals(design, frame)
            weights = np.concatenate([weights, row_weights(design, frame, len(frame))])
        assert factor is not None  # rows are correlated within its levels
        self._group, self._time = factor.codes, rows.time
        self._start = 0 if self._fitted else n  # of the rows to predict, among all
        levels = np.arange(len(factor.levels) + 1)
        self._old = _members(np.lexsort((self._time[:n], self._group[:n])), self._group, levels)
        of_new = self._group[self._start :]
        self._new = _members(np.argsort(of_new, kind="stable"), of_new, levels)
        self._eta, self._scale, self._root_weight = eta, rows.scale, np.sqrt(weights)

    def draws(self, at: np.ndarray, past: Callable, noise: Callable | None) -> np.ndarray:
        """Residuals (m, len(at)) of rows to predict, or their means.

        Parameters
        ----------
        at : (r,) int array
            Positions of these rows, in order.
        past : callable
            Residuals (m, k) of rows of the fit, by their positions.
        noise : callable or None
            Standard normals (m, k) of rows to predict, by their positions; the means without.
            Residuals of the rows of a group have their joint distribution, but for fitted rows,
            which are predicted one by one.
        """
        out = np.empty((len(self._eta), len(at)))
        for groups in self._patterns(at, whole=noise is not None):
            size = len(groups[0].time)
            given = lru_cache(maxsize=1)(
                lambda start, stop, like=groups[0]: self._given(like, self._c[start:stop])
            )
            for group in groups:
                u = past(group.old) / self._sd(group.old)
                z = None if noise is None else noise(group.new[group.first])
                values = np.empty((len(u), len(group.new)))
                for part in blocks_of(len(u), size * size):
                    weights, root, _ = given(part.start, part.stop)
                    values[part] = np.einsum("dij,dj->di", weights, u[part])
                    if z is not None:
                        values[part] += np.einsum("dij,dj->di", root, z[part])
                values *= self._sd(self._start + group.new)
                here = np.isin(group.new, at)
                out[:, np.searchsorted(at, group.new[here])] = values[:, here]
        return out

    def kriged(self) -> Kriged:
        """Of all rows to predict, at a single value of the parameters."""
        from scipy.sparse import csr_array

        n = len(self._group) - self._start
        shape, size = (n, len(self._residual.rows.time)), np.zeros((2, n))
        row, column, value = [
            [np.zeros(0, dtype=int)],
            [np.zeros(0, dtype=int)],
            [np.zeros((2, 0))],
        ]
        for groups in self._patterns(np.arange(n), whole=False):
            weights, root, observed = (v[0] for v in self._given(groups[0], self._c))
            shared = weights @ observed
            spread = np.array([(weights * shared).sum(axis=1), (root**2).sum(axis=1)])
            for group in groups:
                old, new = self._sd(group.old)[0], self._sd(self._start + group.new)[0]
                size[:, group.new] = spread * new**2
                row.append(np.repeat(group.new, len(old)))
                column.append(np.tile(group.old, len(new)))
                both = np.array([weights / old, shared * old]) * new[:, None]
                value.append(both.reshape(2, -1))
        at = np.concatenate(row), np.concatenate(column)
        values = np.concatenate(value, axis=1)
        return Kriged(*(csr_array((v, at), shape=shape) for v in values), *size)

    def _sd(self, rows: np.ndarray) -> np.ndarray:
        """Standard deviations (m, len(rows)) of rows of the fit, and of new ones behind them."""
        return np.exp(self._eta @ self._scale[rows].T) / self._root_weight[rows]

    def _patterns(self, at: np.ndarray, whole: bool) -> Iterator[list[_Group]]:
        """Groups of the rows `at`, with all rows to predict or with these, by pattern."""
        found: dict[tuple, list[_Group]] = {}
        for g in np.unique(self._group[self._start + at]):
            new = self._new[g]
            group = self._placed(self._old[g], new if whole else new[np.isin(new, at)])
            found.setdefault(group.key, []).append(group)
        yield from found.values()

    def _placed(self, old: np.ndarray, new: np.ndarray) -> _Group:
        k, known = len(old), self._time[old]
        if self._fitted:
            point = np.flatnonzero(np.isin(old, new))
            return _Group(old, old[point], point, np.arange(len(point)), known)
        time = self._time[self._start + new]
        if not STRUCTURES[self._residual.kind].uses_time:  # every row is a point of its own
            first = np.arange(len(new))
            return _Group(old, new, k + first, first, np.concatenate([known, time]))
        point = np.searchsorted(known, time)
        fresh = np.flatnonzero(np.append(known, np.nan)[point] != time)
        points, first, inverse = np.unique(time[fresh], return_index=True, return_inverse=True)
        point[fresh] = k + inverse
        return _Group(old, new, point, fresh[first], np.concatenate([known, points]))

    def _given(self, group: _Group, c: np.ndarray) -> _Given:
        """Weights and roots at the values c (d, k)."""
        residual, k = self._residual, len(group.old)
        together = np.zeros(len(group.time))
        C = correlations(residual.kind, c, together, group.time, len(residual.times))
        observed = C[:, :k, :k]
        try:
            if self._fitted:
                return _Given(*_from_the_others(np.linalg.inv(C), group.point), observed)
            L = np.linalg.cholesky(C)
        except np.linalg.LinAlgError:
            raise DataError(
                f"residual={residual.syntax.text!r}: {len(group.time)} rows of a group, those to "
                "predict among them, have no covariance matrix that is positive definite under the "
                "correlations of the fit. Negative correlations of every two rows (cs) allow no "
                "more than about 1 - 1/rho of them."
            ) from None
        d, f = len(c), len(group.time) - k
        weights = np.linalg.solve(np.swapaxes(L[:, :k, :k], 1, 2), np.swapaxes(L[:, k:, :k], 1, 2))
        own = np.broadcast_to(np.eye(k), (d, k, k))  # of rows at the time of an observed one
        weights = np.concatenate([own, np.swapaxes(weights, 1, 2)], axis=1)
        root = np.concatenate([np.zeros((d, k, f)), L[:, k:, k:]], axis=1)
        return _Given(weights[:, group.point], root[:, group.point], observed)


def _from_the_others(P: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (d, r, k) and roots (d, r, r) of points given all others, P = C^-1 (d, k, k)."""
    precision = np.einsum("dii->di", P)[:, point]
    weights = -P[:, point] / precision[:, :, None]
    r = np.arange(len(point))
    weights[:, r, point] = 0.0
    root = np.zeros((len(P), len(r), len(r)))
    root[:, r, r] = precision**-0.5
    return weights, root


def _members(order: np.ndarray, codes: np.ndarray, levels: np.ndarray) -> list[np.ndarray]:
    """Rows of every level but the last, rows in ``order`` having their codes in order."""
    ends = np.searchsorted(codes[order], levels)
    return [order[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
