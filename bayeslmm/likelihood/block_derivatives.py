"""Derivatives of V in natural residual parameters, block by block, for Kenward-Roger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bayeslmm.gaussian import VarianceDerivatives, single_threaded_blas
from bayeslmm.gaussian.blocks import _kernel
from bayeslmm.gaussian.blocks.problem import BlockProblem
from bayeslmm.gaussian.system import System, Theta

__all__ = ["block_derivatives"]


@dataclass(frozen=True)
class _Parameter:
    """Natural residual parameters in which V is as nearly linear as it can be.

    Attributes
    ----------
    phi : (r,) array
    linear : bool
        Whether R is linear in them, so that second derivatives vanish.
    to_theta : callable
        phi to (eta, c).
    steps : (r,) array
        For differences.
    """

    phi: np.ndarray
    linear: bool
    to_theta: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    steps: np.ndarray


def _natural_parameters(problem: System, theta: Theta, log_linear: bool) -> _Parameter:
    """Variances, covariances where the structure is linear in them, else correlations."""
    structure, s, T = problem.structure, len(theta.eta), problem.structure.n_times
    variance = np.exp(2 * theta.eta)
    times_are_cells = T and s == T and np.array_equal(
        np.argmax(problem.scale, axis=1), problem.time.astype(int)
    )  # fmt: skip
    if times_are_cells:
        sd = np.exp(theta.eta)
        Sigma = theta.c.reshape(T, T) * np.outer(sd, sd)
        lower = np.tril_indices(T)

        def covariances(phi):
            S = np.zeros((T, T))
            S[lower] = phi
            S = S + np.tril(S, -1).T
            sd = np.sqrt(np.diag(S))
            return np.log(sd), (S / np.outer(sd, sd)).ravel()

        size = np.sqrt(np.outer(variance, variance))[lower]
        return _Parameter(Sigma[lower], True, covariances, 1e-4 * size)
    if structure.code == 3 and s == 1:
        phi = np.array([variance[0], variance[0] * theta.c[0]])

        def compound(phi):
            return np.array([0.5 * np.log(phi[0])]), np.array([phi[1] / phi[0]])

        return _Parameter(phi, True, compound, 1e-4 * variance[[0, 0]])
    first = theta.eta if log_linear else variance
    pairs = np.tril_indices(T, -1)
    corr = theta.c.reshape(T, T)[pairs] if T else theta.c

    def general(phi):
        eta = phi[:s] if log_linear else 0.5 * np.log(phi[:s])
        c = phi[s:]
        if T:
            C = np.eye(T)
            C[pairs] = c
            c = (C + np.tril(C, -1).T).ravel()
        return np.ascontiguousarray(eta), np.ascontiguousarray(c)

    steps = np.concatenate(
        [1e-4 * (np.ones(s) if log_linear else variance), 1e-4 * np.ones(len(corr))]
    )
    if structure.code == 2:
        steps[s:] *= theta.c
    elif structure.parameter:
        room = min(theta.c[0] - structure.lower, structure.upper - theta.c[0])
        steps[s:] *= max(room, 1e-6)
    linear = not log_linear and structure.code == 0
    return _Parameter(np.concatenate([first, corr]), linear, general, steps)


def block_derivatives(problem: BlockProblem, theta: Theta, *, log_linear: bool):
    """Terms in the derivatives of V, and those in its second derivatives (or None).

    Of the columns computed with.
    """
    layout, p = problem.layout, problem.p
    natural = _natural_parameters(problem, theta, log_linear)
    units = [
        (k, a, b)
        for k, pattern in enumerate(problem.patterns)
        for a, b in zip(*pattern.entries, strict=True)
    ]
    r = len(units) + len(natural.phi)
    information, P = np.zeros((p, p)), np.zeros((r, p, p))
    Q, second = np.zeros((r * r, p * p)), np.zeros((r * r, p * p))
    trace, first = np.zeros((r, r)), np.zeros(r)
    with single_threaded_blas():
        inverses, U = _kernel.factorize(layout, problem.W, p + 1, theta.F, theta.eta, theta.c)[1:3]
        for k, (m, n_rep) in enumerate(zip(layout.m, layout.n_rep, strict=True)):
            V = inverses[layout.v_ptr[k] : layout.v_ptr[k + 1]].reshape(m, m)
            part = slice(layout.data_ptr[k], layout.data_ptr[k + 1])
            u = U[part].reshape(m, n_rep, p + 1)[:, :, :p]
            x = problem.W[part].reshape(m, n_rep, p + 1)[:, :, :p]
            information += np.einsum("ira,irb->ab", x, u, optimize=True)
            # sum over blocks of U_s U_t': all terms are linear in it
            G = np.einsum("sra,trb->stab", u, u, optimize=True).reshape(m * m, p * p)
            D = np.concatenate(
                [_effect_derivatives(layout, k, units), _residual_derivatives(layout, k, natural)]
            )
            P += (D.reshape(r, -1) @ G).reshape(r, p, p)
            VD = V @ D
            Q += (np.einsum("iab,jbc->ijac", D, VD, optimize=True).reshape(r * r, -1)) @ G
            trace += n_rep * np.einsum("iab,jba->ij", VD, VD, optimize=True)
            first += n_rep * np.einsum("iaa->i", VD)
            if not natural.linear:
                second += _second_derivatives(layout, k, natural, len(units)) @ G
    phi = np.concatenate([np.zeros(len(units)), natural.phi])
    terms = VarianceDerivatives(phi, information, P, Q.reshape(r, r, p, p), trace, first)
    return terms, None if natural.linear else second.reshape(r, r, p, p)


def _effect_derivatives(layout, k: int, units) -> np.ndarray:
    """dV/dSigma_ab of pattern k for every free entry, (r, m, m)."""
    m, at = layout.m[k], layout.row_ptr[k]
    out = np.zeros((len(units), m, m))
    for i, (f, a, b) in enumerate(units):
        Z = layout.Z[at : at + m, layout.z_ptr[f] : layout.z_ptr[f + 1]]
        level = layout.level[at : at + m, f]
        D = np.outer(Z[:, a], Z[:, b])
        D = D if a == b else D + D.T
        out[i] = D * (level[:, None] == level)
    return out


def _residual_derivatives(layout, k: int, natural: _Parameter) -> np.ndarray:
    """dR/dphi of pattern k by central differences, (r, m, m)."""
    out = np.empty((len(natural.phi), layout.m[k], layout.m[k]))
    for i, h in enumerate(natural.steps):
        e = h * np.eye(len(natural.phi))[i]
        up, down = (
            _kernel.pattern_residual(layout, k, *natural.to_theta(natural.phi + s * e))
            for s in (1.0, -1.0)
        )
        out[i] = (up - down) / (2 * h)
    return out


def _second_derivatives(layout, k: int, natural: _Parameter, offset: int) -> np.ndarray:
    """d2R/dphi dphi of pattern k, (r^2, m^2), zero for the random effects' parameters."""
    q, m = len(natural.phi), layout.m[k]
    out = np.zeros((q + offset, q + offset, m, m))
    steps = 10.0 * natural.steps

    def R(*moves):
        phi = natural.phi.copy()
        for i, sign in moves:
            phi[i] += sign * steps[i]
        return _kernel.pattern_residual(layout, k, *natural.to_theta(phi))

    center = R()
    for i in range(q):
        for j in range(i + 1):
            if i == j:
                D = (R((i, 1)) - 2 * center + R((i, -1))) / steps[i] ** 2
            else:
                D = R((i, 1), (j, 1)) - R((i, 1), (j, -1))
                D = (D - R((i, -1), (j, 1)) + R((i, -1), (j, -1))) / (4 * steps[i] * steps[j])
            out[offset + i, offset + j] = out[offset + j, offset + i] = D
    return out.reshape((q + offset) ** 2, m * m)
