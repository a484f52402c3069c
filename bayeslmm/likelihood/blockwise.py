"""REML and ML with structured residuals: the optimum, its curvature, and Kenward-Roger.

Coordinates x are those of :class:`bayeslmm.likelihood.coordinates.Coordinates`, unbounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayeslmm.gaussian import VarianceDerivatives, single_threaded_blas
from bayeslmm.gaussian.blocks import _kernel
from bayeslmm.gaussian.blocks.problem import BlockProblem
from bayeslmm.gaussian.cells.derivatives import cell_derivatives
from bayeslmm.gaussian.cells.problem import CellProblem
from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.likelihood.boundary import BoundarySearch
from bayeslmm.likelihood.coordinates import Coordinates
from bayeslmm.likelihood.kenward_roger import KenwardRoger, adjustment
from bayeslmm.likelihood.optimize import Optimum
from bayeslmm.likelihood.satterthwaite import VarianceCurvature, _pseudo_inverse

__all__ = ["block_curvature", "block_kenward_roger", "optimize_blocks"]


class _Search(BoundarySearch):
    def __init__(self, problem: StructuredProblem, reml: bool):
        self.problem, self.ml, self.patterns = problem, not reml, problem.patterns
        self.coordinates = Coordinates(problem)
        self.flat = problem.prior(None)
        self.n_evaluations = 0
        self.message = ""

    def deviance(self, x: np.ndarray, gradient: bool = True):
        self.n_evaluations += 1
        theta = self.coordinates.theta(x)
        value, *slopes = self.problem.evaluate(theta, self.flat, self.ml, gradient)
        if not np.isfinite(value):
            return np.inf, np.zeros_like(x)
        slope = -2.0 * self.coordinates.gradient(x, theta, *slopes) if gradient else None
        return -2.0 * value, slope

    def descend(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """BFGS from x."""
        from scipy.optimize import minimize

        highest = [1e10]

        def objective(point):
            value, slope = self.deviance(point)
            if not np.isfinite(value) or not np.all(np.isfinite(slope)):
                return highest[0], np.zeros_like(point)  # step back
            highest[0] = abs(value) * 10 + 1e6
            return value, slope

        with np.errstate(all="ignore"):
            found = minimize(
                objective, x, jac=True, method="L-BFGS-B",
                options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-14, "gtol": 1e-5,
                         "maxcor": 30},
            )  # fmt: skip
        self.message = str(found.message)
        return found.x, float(found.fun)

    def value(self, x: np.ndarray) -> float:
        return self.deviance(x, False)[0]

    def slope(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        return self.deviance(x)

    @cached_property
    def _row_units(self) -> list[np.ndarray]:
        """Per effect, what makes its standard deviation one in units of the residual spread."""
        return [scale / self.problem.spread for scale in self.coordinates.column_scales]

    def factors(self, x: np.ndarray) -> list[np.ndarray]:
        Ls = self.problem.split(self.coordinates.theta(x).F)
        return [u[:, None] * L for L, u in zip(Ls, self._row_units, strict=True)]

    def with_factors(self, x: np.ndarray, factors: list[np.ndarray]) -> np.ndarray:
        Ls = [F / u[:, None] for F, u in zip(factors, self._row_units, strict=True)]
        return self.coordinates.with_factors(x, Ls)

    def covariance_slopes(self, x: np.ndarray) -> list[np.ndarray]:
        self.n_evaluations += 1
        slopes = self.problem.evaluate(self.coordinates.theta(x), self.flat, self.ml)[1]
        return [
            D / np.outer(u, u)
            for D, u in zip(self.problem.split(-2.0 * slopes), self._row_units, strict=True)
        ]

    def steps(self, x: np.ndarray) -> np.ndarray:
        return np.ones_like(x)


def optimize_blocks(
    problem: StructuredProblem, *, reml: bool = True, start: np.ndarray | None = None
) -> Optimum:
    """Maximize the (restricted) likelihood.

    Parameters
    ----------
    problem : StructuredProblem
    reml : bool
    start : array, optional
        x to start from; by default the two best of several points.

    Returns
    -------
    Optimum
        ``theta`` is x, see :class:`Coordinates`.
    """
    search = _Search(problem, reml)
    with single_threaded_blas():
        starts = [start] if start is not None else search.coordinates.starts()
        starts = sorted(starts, key=search.value)[:2]
        best, value = None, np.inf
        for point in starts:
            x, found = search.descend(np.asarray(point, dtype=float))
            if best is None or found < value:
                best, value = x, found
        best, value = search.settle(best, value)
        converged = search.is_stationary(best)
    return Optimum(
        theta=best,
        criterion=float(value),
        n_evaluations=search.n_evaluations,
        converged=converged,
        message="" if converged else search.message,
        rank=search.ranks(best),
    )


def block_curvature(problem: StructuredProblem, x: np.ndarray, *, reml: bool) -> VarianceCurvature:
    """Hessian of the deviance and slope of the coefficients' covariance in x.

    Satterthwaite's degrees of freedom do not depend on the coordinates at an inner optimum, where
    the gradient vanishes. Central differences of the exact gradient.
    """
    search = _Search(problem, reml)
    step, d = 1e-4, len(x)
    H = np.empty((d, d))
    jacobian = np.empty((d, problem.p, problem.p))
    with single_threaded_blas():
        for i in range(d):
            e = step * np.eye(d)[i]
            H[i] = (search.deviance(x + e)[1] - search.deviance(x - e)[1]) / (2 * step)
            up, down = (
                problem.solve(search.coordinates.theta(x + s * e), ml=not reml).vcov
                for s in (1.0, -1.0)
            )
            jacobian[i] = (up - down) / (2 * step)
    H = 0.5 * (H + H.T)
    inverse, flat = _pseudo_inverse(H)
    return VarianceCurvature(2 * inverse, jacobian, H, flat)


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
    to_theta: object
    steps: np.ndarray


def _natural_parameters(problem: BlockProblem, theta: Theta, log_linear: bool) -> _Parameter:
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


def block_kenward_roger(
    problem: StructuredProblem, theta: Theta, *, log_linear: bool = False
) -> KenwardRoger:
    """The Kenward-Roger adjustment at a REML optimum.

    Parameters are the entries of the Sigma_k and, of the residual covariance: its entries where
    they are free (unstructured with a variance per time; compound symmetry with one variance),
    else variances (log standard deviations of a log-linear formula) and rho, range or correlations.
    In the latter V is not linear and its second derivatives enter (Kenward and Roger 1997, eq. 5).
    Information is expected.

    Raises
    ------
    TooManyEffectsError
        If a dense matrix over all connected effects would be too large.
    """
    if isinstance(problem, CellProblem):
        with single_threaded_blas():
            terms, second = cell_derivatives(problem, theta, log_linear=log_linear)
    else:
        terms, second = _block_derivatives(problem, theta, log_linear)
    return adjustment(terms, problem.coordinates, second)


def _block_derivatives(problem: BlockProblem, theta: Theta, log_linear: bool):
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
