"""The elimination of all random effects at once, in numpy: what kernels are before compilation.

With A = Z'WZ, B = Z'W[X y], C = [X y]'W[X y], G the relative covariance of the effects and E =
(I + A G)^-1, which needs no inverse of G:

    log|M| = log|I + A G|,  U = Z'V^-1[X y] = E B,  T = Z'V^-1Z = E A,  S = C - B'G U  (sigma = 1).

Effects of one factor are a stack of small systems, one per level; those of several factors are one
system of all effects. Rows are in elimination order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = ["Eliminated", "Stacked", "stacked"]


class Stacked(NamedTuple):
    """Cross-products as b systems of s effects.

    Attributes
    ----------
    A : (b, s, s) array
    B : (b, s, m) array
    gram : (m, m) array
    columns : list of (J_k, q_k) int arrays
        Where the effects of each factor are in a system; of one factor, in every system.
    f_ptr : list of int
        Starts of the flat factors.
    """

    A: np.ndarray
    B: np.ndarray
    gram: np.ndarray
    columns: list[np.ndarray]
    f_ptr: list[int]

    def roots(self, F: np.ndarray) -> np.ndarray:
        """Relative factors Lambda (n, s, s) of the effects of a system, from flat ones (n, f)."""
        s = self.A.shape[1]
        out = np.zeros((len(F), s, s))
        for columns, first, last in zip(self.columns, self.f_ptr, self.f_ptr[1:], strict=False):
            q = columns.shape[1]
            own = F[:, None, first:last].reshape(len(F), 1, q, q)
            out[:, columns[:, :, None], columns[:, None, :]] = own
        return out

    def eliminated(self, F: np.ndarray) -> Eliminated:
        """Effects eliminated at flat relative factors (f,)."""
        root = self.roots(F[None])[0]
        G = root @ root.T
        AG = self.A @ G
        AG += np.eye(len(G))
        sign, log_det = np.linalg.slogdet(AG)
        if not np.all(sign > 0):
            return Eliminated(self, np.nan, self.gram, AG, self.B)
        U = np.linalg.solve(AG, self.B)
        S = self.gram - np.einsum("bsm,bsn->mn", self.B, G @ U)
        return Eliminated(self, float(log_det.sum()), 0.5 * (S + S.T), AG, U)

    def factorized(self, F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lambda (n, 1, s, s) and R (n, b, s, s), M = I + Lambda'A Lambda = R R', for (n, f)."""
        root = self.roots(F)[:, None]
        M = root.swapaxes(-1, -2) @ self.A @ root
        return root, np.linalg.cholesky(M + np.eye(self.A.shape[1]))

    def gram_given(self, root: np.ndarray, R: np.ndarray) -> np.ndarray:
        """S (n, m, m), from :meth:`factorized`."""
        half = np.linalg.solve(R, root.swapaxes(-1, -2) @ self.B)
        return self.gram - np.einsum("nbsm,nbsk->nmk", half, half)

    def draws(self, root: np.ndarray, R: np.ndarray, sigma, beta, z) -> np.ndarray:
        """Effects (n, b s) given beta (n, p), sigma (n,) and normals (n, b s).

        b = Lambda R'^-1 (R^-1 Lambda'(B_y - B_X beta) + sigma z), from :meth:`factorized`.
        """
        n, b, s = R.shape[:3]
        gap = np.concatenate([-beta, np.ones((n, 1))], axis=1)
        right = root.swapaxes(-1, -2) @ (self.B @ gap[:, None, :, None])
        noise = sigma[:, None, None, None] * z.reshape(n, b, s, 1)
        u = np.linalg.solve(R.swapaxes(-1, -2), np.linalg.solve(R, right) + noise)
        return (root @ u).reshape(n, b * s)


class Eliminated(NamedTuple):
    """Effects eliminated at one value of the relative factors.

    Attributes
    ----------
    log_det : float
        log|M|; nan where V is not positive definite.
    S : (m, m) array
    """

    of: Stacked
    log_det: float
    S: np.ndarray
    AG: np.ndarray
    U: np.ndarray

    def derivative_sums(self, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums over levels of T_jj and U_j omega U_j', flat: ``_criteria.head_derivatives``."""
        T, UO = np.linalg.solve(self.AG, self.of.A), self.U @ omega
        sums_T, sums_Q = [np.zeros(0)], [np.zeros(0)]
        for at in self.of.columns:
            sums_T.append(T[:, at[:, :, None], at[:, None, :]].sum(axis=(0, 1)).ravel())
            own, weighted = self.U[:, at], UO[:, at]
            sums_Q.append(np.einsum("bjam,bjcm->ac", weighted, own).ravel())
        return np.concatenate(sums_T), np.concatenate(sums_Q)


@lru_cache(maxsize=8)
def _remembered(key: _Key) -> Stacked:
    return _stacked(key.lay, key.val)


class _Key:
    """A layout and its values, known by identity."""

    def __init__(self, lay, val):
        self.lay, self.val = lay, val

    def __hash__(self) -> int:
        return id(self.val.diag)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.val.diag is other.val.diag


def stacked(lay, val) -> Stacked:
    """Cross-products without a dense tail, stacked; those of late are remembered.

    Parameters
    ----------
    lay : Layout
    val : Values
    """
    return _remembered(_Key(lay, val))


def _stacked(lay, val) -> Stacked:
    q, (N, m), f_ptr = lay.factor_q, val.rhs.shape, [int(at) for at in lay.f_ptr]
    if len(q) == 1:
        s = int(q[0])
        blocks = val.diag.reshape(-1, s, s)
        return Stacked(blocks, val.rhs.reshape(-1, s, m), val.gram, [np.arange(s)[None]], f_ptr)
    A = np.zeros((N, N))
    for e in range(len(lay.node_q)):
        own = np.arange(lay.node_col[e], lay.node_col[e + 1])
        A[np.ix_(own, own)] = val.diag[lay.diag_ptr[e] : lay.diag_ptr[e + 1]].reshape(2 * own.shape)
        others = lay.pcol[lay.pcol_ptr[e] : lay.pcol_ptr[e + 1]]
        panel = val.panel[lay.panel_ptr[e] : lay.panel_ptr[e + 1]].reshape(len(own), len(others))
        A[np.ix_(own, others)] = panel
        A[np.ix_(others, own)] = panel.T
    columns = [
        lay.node_col[np.flatnonzero(lay.node_factor == k)][:, None] + np.arange(q[k])
        for k in range(len(q))
    ]
    return Stacked(A[None], val.rhs[None], val.gram, columns, f_ptr)
