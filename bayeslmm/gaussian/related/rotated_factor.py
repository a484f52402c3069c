"""What can be asked of a rotated system: its latent effects are known combinations of levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from bayeslmm.gaussian.factor import Elimination, eliminate
from bayeslmm.gaussian.leverage import _node_quadratic, effect_variance
from bayeslmm.gaussian.problem import Problem
from bayeslmm.gaussian.related.rotation import RotatedProblem
from bayeslmm.gaussian.rows import FactorRows

#: Right-hand sides of quadratic forms at a time.
_FORMS = 256
#: Rows at a time.
_CHUNK = 2048


class BorderedElimination(Elimination):
    """The eliminated system where other factors make latent effects dependent given the data."""

    def quadratic_forms(self, columns: np.ndarray) -> np.ndarray:
        """columns' (Lambda M^-1 Lambda') columns for (N, m) columns in elimination order.

        What the elimination takes off a matrix of zeros with these columns in place of Z'W[X y].
        """
        m = columns.shape[1]
        values = self.problem.values._replace(
            rhs=np.ascontiguousarray(columns), gram=np.zeros((m, m)), levels=np.empty((0, 0))
        )
        return -eliminate(replace(self.problem, values=values), self.F).S

    def effect_covariances(self) -> list[np.ndarray]:
        """As :meth:`Elimination.effect_covariances`."""
        plain = super().effect_covariances()
        out, symbolic = [], self.problem.symbolic
        for k, T in enumerate(self.problem.roots):
            if T is None:
                out.append(plain[k])
                continue
            columns = symbolic.factor_columns(k)
            J, q = len(T), columns.shape[1]
            blocks = np.empty((J, q, q))
            for start in range(0, J, _FORMS):
                part = T[start : start + _FORMS]
                unit = np.zeros((symbolic.n_columns, len(part), q))
                for a in range(q):
                    unit[columns[:, a], :, a] = part.T
                forms = self.quadratic_forms(unit.reshape(len(unit), -1))
                forms = forms.reshape(len(part), q, len(part), q)
                at = np.arange(len(part))
                blocks[start : start + len(part)] = forms[at, :, at, :]
            out.append(blocks)
        return out

    def row_variance(self, factors: Sequence[FactorRows]) -> np.ndarray:
        """z_i' (T Lambda M^-1 Lambda' T') z_i of each row."""
        n = len(factors[0].codes)
        out, symbolic = np.empty(n), self.problem.symbolic
        for start in range(0, n, _FORMS):
            rows = np.arange(start, min(start + _FORMS, n))
            unit = np.zeros((symbolic.n_columns, len(rows)))
            for k, f in enumerate(factors):
                columns, T = symbolic.factor_columns(k), self.problem.roots[k]
                for a in range(f.q):
                    if T is None:
                        unit[columns[f.codes[rows], a], rows - start] += f.Z[rows, a]
                    else:
                        unit[columns[:, a]] += (T[f.codes[rows]] * f.Z[rows, a, None]).T
            out[rows] = np.diag(self.quadratic_forms(unit))
        return out


@eliminate.register
def _(problem: RotatedProblem, F: np.ndarray) -> Elimination:
    """The ordinary elimination; the latent effects of a bordered one are dependent."""
    state = eliminate.dispatch(Problem)(problem, F)
    if not problem.bordered:
        return state
    return BorderedElimination(*(getattr(state, field.name) for field in fields(state)))


@effect_variance.register
def _(problem: RotatedProblem, state, factors: Sequence[FactorRows]) -> np.ndarray:
    """Row variances: without a border, latent effects are correlated across factors only."""
    if problem.bordered:
        return state.row_variance(list(factors))
    roots = [T for T in problem.roots if T is not None]  # all of them
    n = len(factors[0].codes)
    out = np.zeros(n)
    for k, f in enumerate(factors):
        for m in range(k + 1):
            g = factors[m]
            J = min(roots[k].shape[1], roots[m].shape[1])
            for a in range(f.q):
                for b in range(g.q if m < k else a + 1):
                    C = _latent_covariance(problem, state, (k, a), (m, b), J)
                    value = f.Z[:, a] * g.Z[:, b]
                    value = value * _weighted(roots[k], roots[m], C, f.codes, g.codes)
                    out += value if (k, a) == (m, b) else 2 * value
    return out


def _weighted(left, right, C, rows, columns) -> np.ndarray:
    """sum_l left[i, l] right[j, l] C_l for each pair of levels (i, j)."""
    out = np.empty(len(rows))
    J = len(C)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = np.einsum("il,il,l->i", left[rows[part], :J], right[columns[part], :J], C)
    return out


def _latent_covariance(problem, state, first, second, J: int) -> np.ndarray:
    """(J,) covariances over sigma^2 of two latent effects of each l, by polarization."""

    def quadratic(*chosen) -> np.ndarray:
        factors = []
        for k, pattern in enumerate(problem.patterns):
            Z = np.zeros((J, pattern.q))
            for factor, effect in chosen:
                if factor == k:
                    Z[:, effect] += 1.0
            size = problem.roots[k].shape[1]
            factors.append(FactorRows(np.minimum(np.arange(J), size - 1), Z, size))
        used = [k for k in range(len(factors)) if any(k == factor for factor, _ in chosen)]
        return _node_quadratic(state, factors, used)

    if first == second:
        return quadratic(first)
    return 0.5 * (quadratic(first, second) - quadratic(first) - quadratic(second))
