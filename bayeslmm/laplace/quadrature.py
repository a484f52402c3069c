"""Adaptive Gauss-Hermite quadrature: one grouping factor with few effects.

The integral over the effects of level j is one over u, b = F u, of exp h(u), h(u) = sum_i l_i -
|u|^2/2. With its mode u^ and P = -h''(u^) = C C',

    log L_j = log sum_k w_k exp(h(u_k) + |x_k|^2/2) - log|C|,   u_k = u^ + C^-T x_k,

where (x_k, w_k) is the product rule for the standard normal distribution (Pinheiro & Chao 2006,
J. Comput. Graph. Stat. 15(1)). One node per dimension is Laplace's approximation; the integral is
exact as nodes grow.

Derivatives are those of the rule itself, whose nodes move with the parameters. With p_k the
normalized terms and A = sum_k p_k x_k (C^-1 h'(u_k))', the part through P is

    <B, dP>,  B = -P^-1/2 - C^-T S C^-1,   S the symmetric part of A's lower triangle, its
                                               diagonal halved,

because dC = C Phi(C^-1 dP C^-T), and the part through u^ is v'du^, v = sum_k p_k h'(u_k) plus what
the weights in P change with it; du^ = P^-1 d(h'(u^)).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bayeslmm.laplace.system import Mode, ResponseSystem

__all__ = ["QuadratureEvaluation", "evaluate_by_quadrature", "standard_rule"]


class QuadratureEvaluation(NamedTuple):
    """A log-likelihood by quadrature, and its derivatives.

    Attributes
    ----------
    value : float
    d_F : (q^2,) array
        In the entries of the factor: those of the rule itself.
    d_Sigma : (q^2,) array
        In the covariance matrix: those of the integral, by the same nodes.
    d_phi, d_beta : arrays
    """

    value: float
    d_F: np.ndarray
    d_Sigma: np.ndarray
    d_phi: np.ndarray
    d_beta: np.ndarray


@lru_cache(maxsize=32)
def standard_rule(n: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (n^q, q) and log w_k + |x_k|^2/2 (n^q,)."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    log_w = np.log(w) - 0.5 * np.log(2.0 * np.pi) + 0.5 * x**2
    grids = np.meshgrid(*[x] * q, indexing="ij")
    logs = np.meshgrid(*[log_w] * q, indexing="ij")
    return np.stack([g.ravel() for g in grids], axis=1), np.sum([g.ravel() for g in logs], axis=0)


def evaluate_by_quadrature(
    system: ResponseSystem,
    F: np.ndarray,
    phi: np.ndarray,
    beta: np.ndarray,
    n_nodes: int,
    *,
    start: np.ndarray | None = None,
) -> tuple[QuadratureEvaluation, Mode | None]:
    """The log-likelihood at parameters, and the mode that the nodes are around.

    Parameters
    ----------
    system : ResponseSystem
        Of one grouping factor.
    F, phi, beta, start
        As in :meth:`ResponseSystem.mode`.
    n_nodes : int
        Per dimension.
    """
    at = system.mode(F, phi, beta, start)
    if at is not None:
        try:
            levels = _Levels.at(system, at, F, phi)
            return levels.summed(*standard_rule(n_nodes, system.factors[0].q)), at
        except np.linalg.LinAlgError:  # a level whose curvature is lost in rounding
            pass
    nothing = [np.full(len(v), np.nan) for v in (F, F, phi, beta)]
    return QuadratureEvaluation(np.nan, *nothing), at


@dataclass(frozen=True)
class _Levels:
    """The mode of every level and what surrounds it.

    Attributes
    ----------
    L : (q, q) array
        F.
    u : (J, q) array
    C_inverse : (J, q, q) array
    zz : (J, q, q) array
        Z'WZ.
    """

    system: ResponseSystem
    mode: Mode
    phi: np.ndarray
    L: np.ndarray
    u: np.ndarray
    C_inverse: np.ndarray
    log_det: np.ndarray
    zz: np.ndarray

    @classmethod
    def at(cls, system: ResponseSystem, mode: Mode, F: np.ndarray, phi: np.ndarray) -> _Levels:
        """Of a mode that was found."""
        L = system.template.split(F)[0]
        u = system.template.per_level(mode.U)[0] @ L
        zz = _squares(system, -mode.slopes[2])
        C = np.linalg.cholesky(np.eye(len(L)) + L.T @ zz @ L)
        log_det = np.log(np.einsum("jaa->ja", C)).sum(axis=1)
        return cls(system, mode, phi, L, u, np.linalg.inv(C), log_det, zz)

    def summed(self, nodes: np.ndarray, log_w: np.ndarray) -> QuadratureEvaluation:
        """The rule and its derivatives."""
        system, phi, L = self.system, self.phi, self.L
        f = system.factors[0]
        codes, Z, J, q = f.codes, f.Z, f.n_levels, f.q
        fixed = self.mode.eta - system.effects_part(self.mode.b)
        h0 = np.bincount(codes, self.mode.slopes[0], J) - 0.5 * (self.u**2).sum(axis=1)
        total, d_rows = np.zeros(J), np.zeros(system.n)
        d_phi_rows = np.zeros((len(phi), system.n))
        A, U_u, V = np.zeros((J, q, q)), np.zeros((J, q, q)), np.zeros((J, q, q))
        g = np.zeros((J, q))
        for x, log_weight in zip(nodes, log_w, strict=True):
            u = self.u + x @ self.C_inverse  # C^-T x
            eta = fixed + np.einsum("ia,ia->i", Z, (u @ L.T)[codes])
            slopes = system.slopes(eta, phi)
            h = np.bincount(codes, slopes[0], J) - 0.5 * (u**2).sum(axis=1)
            # relative to the mode, so that nothing overflows: h(u) <= h(u^)
            r = np.exp(log_weight + h - h0)
            U = _sums(codes, slopes[1], Z, J)
            d_h = U @ L - u
            total += r
            d_rows += r[codes] * slopes[1]
            g += r[:, None] * d_h
            A += (
                r[:, None, None]
                * x[:, None]
                * np.einsum("jab,jb->ja", self.C_inverse, d_h)[:, None]
            )
            U_u += r[:, None, None] * U[:, :, None] * u[:, None, :]
            V += r[:, None, None] * (U[:, :, None] * U[:, None, :] + _squares(system, slopes[2]))
            if len(phi):
                d_phi_rows += r[codes] * system.phi_slopes(eta, phi)[:, 0]
        value = float((np.log(total) + h0 - self.log_det).sum())
        share = 1.0 / total
        means = (A * share[:, None, None], g * share[:, None])
        rows = d_rows * share[codes], d_phi_rows * share[codes]
        d_F = (U_u * share[:, None, None]).sum(axis=0)
        return self._through_nodes(value, d_F, 0.5 * (V.T * share).sum(axis=-1).T, rows, means)

    def _through_nodes(self, value, d_F, d_Sigma, rows, means) -> QuadratureEvaluation:
        """The derivatives with those through the mode and the curvature there."""
        system, L, (A, g) = self.system, self.L, means
        f, (_, l1, l2, l3) = system.factors[0], self.mode.slopes
        codes, Z = f.codes, f.Z
        lower = np.tril(A)
        S = 0.5 * (lower + lower.transpose(0, 2, 1)) - 0.5 * A * np.eye(len(L))
        C_inverse, transposed = self.C_inverse, self.C_inverse.transpose(0, 2, 1)
        P_inverse = transposed @ C_inverse
        B = -0.5 * P_inverse - transposed @ S @ C_inverse
        zL = Z @ L
        s = np.einsum("ia,iab,ib->i", zL, B[codes], zL)
        v = g - _sums(codes, s * l3, zL, f.n_levels)
        r = np.einsum("jab,jb->ja", P_inverse, v)
        m = np.einsum("ia,ia->i", zL, r[codes])
        along = m * l2 - s * l3
        d_F = (
            d_F
            + 2.0 * (self.zz @ L @ B).sum(axis=0)
            + np.einsum("ja,jb->ab", _sums(codes, along, Z, f.n_levels), self.u)
            + np.einsum("ja,jb->ab", _sums(codes, l1, Z, f.n_levels), r)
        )
        d_beta = system.X.T @ (rows[0] + along)
        d_phi = np.zeros(0)
        if len(self.phi):
            d = system.phi_slopes(self.mode.eta, self.phi)
            d_phi = (rows[1] - s * d[:, 2] + m * d[:, 1]).sum(axis=1)
        return QuadratureEvaluation(value, d_F.ravel(), d_Sigma.ravel(), d_phi, d_beta)


def _sums(codes: np.ndarray, values: np.ndarray, Z: np.ndarray, J: int) -> np.ndarray:
    """Z' values of every level, (J, q)."""
    return np.stack([np.bincount(codes, values * z, J) for z in Z.T], axis=1)


def _squares(system: ResponseSystem, w: np.ndarray) -> np.ndarray:
    """Z'WZ of every level, (J, q, q)."""
    f = system.factors[0]
    return np.stack([_sums(f.codes, w * z, f.Z, f.n_levels) for z in f.Z.T], axis=1)
