"""Coordinates in which the likelihood of a response that is not Gaussian is searched.

Entries of the factors in units of what they may change by, the family's parameters as unbounded
numbers (thresholds at the predictors' means), and coefficients of columns that are orthonormal
under the weights of the model without random effects: all then vary by about one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular

from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.laplace.quadrature import QuadratureEvaluation, evaluate_by_quadrature
from bayeslmm.laplace.system import LaplaceEvaluation, Mode, ResponseSystem
from bayeslmm.laplace.transforms import is_ordered, natural, pullback, unbounded
from bayeslmm.parts.patterns import CovariancePattern, flat_positions, lower_root

__all__ = [
    "ResponseCoordinates",
    "ResponsePoint",
    "decorrelating_maps",
    "mapped_factors",
    "predictor_unit",
]

#: Standard deviation of effects, in units of the linear predictor, that searches begin with.
_USUAL = 0.5


@dataclass(frozen=True)
class ResponsePoint:
    """A log-likelihood in coordinates.

    Attributes
    ----------
    value : float
    gradient : (d,) array
    d_Sigma : (sum q_k^2,) array
        Derivatives in the covariance matrices.
    mode : Mode or None
    """

    value: float
    gradient: np.ndarray
    d_Sigma: np.ndarray
    mode: Mode | None


@dataclass(frozen=True)
class ResponseCoordinates:
    """Between x and (F, phi, beta) of a system.

    Attributes
    ----------
    system : ResponseSystem
    n_quadrature : int
        Nodes per dimension; 1 is Laplace's approximation.
    unit : float
        Of the linear predictor.
    R : (p, p) array
        Upper triangular: R beta are the coefficients of orthonormal columns.
    center : (p,) array
        Where thresholds are: means of the columns, else zeros.
    """

    system: ResponseSystem
    n_quadrature: int
    unit: float
    R: np.ndarray
    center: np.ndarray

    @classmethod
    def of(cls, system: ResponseSystem, n_quadrature: int = 1) -> ResponseCoordinates:
        """Coordinates scaled by the model without random effects."""
        phi, beta = system.no_effects
        eta = system.offset + system.X @ beta
        w = np.maximum(np.nan_to_num(-system.slopes(eta, phi)[2], posinf=0.0), 0.0)
        w = np.maximum(w, max(1e-8 * w.max(initial=0.0), 1e-300))
        center = np.zeros(system.p)
        if is_ordered(system.family):
            center = w @ system.X / w.sum()
        R = np.linalg.qr(np.sqrt(w)[:, None] * (system.X - center), mode="r")
        return cls(system, n_quadrature, predictor_unit(system), R, center)

    @cached_property
    def index(self) -> np.ndarray:
        """Position of each free entry in the flat factors."""
        return flat_positions(self.system.patterns)

    @cached_property
    def sizes(self) -> list[np.ndarray]:
        """Root mean square of each random-effect column over the unit: what standard deviations
        are multiplied by to be in units of the linear predictor.
        """
        roots = [np.sqrt(np.mean(f.Z**2, axis=0)) for f in self.system.factors]
        return [np.where(root > 0, root, 1.0) / self.unit for root in roots]

    @cached_property
    def units(self) -> np.ndarray:
        """What each entry of the factors changes by."""
        rows = [
            _USUAL / (size[p.entries[0]] * np.sqrt(f.n_levels))
            for size, p, f in zip(
                self.sizes, self.system.patterns, self.system.factors, strict=True
            )
        ]
        return np.concatenate([*rows, np.zeros(0)])

    @property
    def n_factors(self) -> int:
        """Free entries of the factors."""
        return len(self.index)

    @property
    def n_phi(self) -> int:
        """Parameters of the family."""
        return self.system.family.n_phi

    @property
    def phi_unit(self) -> float:
        """What an unbounded parameter of the family changes by."""
        return 2.0 / np.sqrt(self.system.n)

    def natural(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """F, phi and beta."""
        r, s = self.n_factors, self.n_phi
        F = np.zeros(int(self.system.layout.f_ptr[-1]))
        F[self.index] = x[:r] * self.units
        beta = self._coefficients(x[r + s :])
        return F, natural(self.system.family, self._unbounded(x, beta)), beta

    def _coefficients(self, gamma: np.ndarray) -> np.ndarray:
        return solve_triangular(self.R, gamma) if len(gamma) else np.zeros(0)

    def _unbounded(self, x: np.ndarray, beta: np.ndarray) -> np.ndarray:
        r, s = self.n_factors, self.n_phi
        w = x[r : r + s] * self.phi_unit
        if s and is_ordered(self.system.family):
            w = np.append(w[0] + self.center @ beta, w[1:])
        return w

    def x_of(self, F: np.ndarray, phi: np.ndarray, beta: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`natural`."""
        w = unbounded(self.system.family, phi)
        if len(w) and is_ordered(self.system.family):
            w[0] -= self.center @ beta
        return np.concatenate([F[self.index] / self.units, w / self.phi_unit, self.R @ beta])

    def slope_of_coefficients(self, x: np.ndarray) -> np.ndarray:
        """d beta / dx, (p, d)."""
        out = np.zeros((self.system.p, len(x)))
        if self.system.p:
            out[:, len(x) - self.system.p :] = solve_triangular(self.R, np.eye(self.system.p))
        return out

    def starts(self) -> list[np.ndarray]:
        """Coefficients without effects, with usual and with small effects."""
        phi, beta = self.system.no_effects
        found = []
        for sd in (_USUAL, 0.1 * _USUAL) if self.n_factors else (_USUAL,):
            parts = [np.diag(sd / size).ravel() for size in self.sizes]
            found.append(self.x_of(np.concatenate([*parts, np.zeros(0)]), phi, beta))
        return found

    def evaluate(self, x: np.ndarray, start=None, *, gradient: bool = True) -> ResponsePoint:
        """The log-likelihood, nan where it cannot be evaluated.

        Parameters
        ----------
        start : pair of arrays, optional
            b and U of a mode near by.
        """
        system = self.system
        F, phi, beta = self.natural(x)
        nothing = ResponsePoint(np.nan, np.full(len(x), np.nan), np.full(len(F), np.nan), None)
        if not (np.all(np.isfinite(phi)) and np.all(np.isfinite(beta))):
            return nothing
        found: LaplaceEvaluation | QuadratureEvaluation
        with np.errstate(all="ignore"):
            if self.n_quadrature > 1:
                by_nodes, at = evaluate_by_quadrature(
                    system, F, phi, beta, self.n_quadrature, start=start
                )
                found, d_F = by_nodes, by_nodes.d_F
            else:
                found, at = system.evaluate(F, phi, beta, gradient=gradient, start=start)
                d_F = self._in_factors(found.d_Sigma, F)
        if not np.isfinite(found.value):
            return nothing
        if not gradient:
            return ResponsePoint(found.value, np.full(len(x), np.nan), found.d_Sigma, at)
        d_w = pullback(system.family, self._unbounded(x, beta), found.d_phi)
        d_beta = found.d_beta
        if len(d_w) and is_ordered(system.family):
            d_beta = d_beta + self.center * d_w[0]
        d_gamma = solve_triangular(self.R, d_beta, trans="T") if len(beta) else np.zeros(0)
        slope = np.concatenate([d_F[self.index] * self.units, d_w * self.phi_unit, d_gamma])
        return ResponsePoint(found.value, slope, found.d_Sigma, at)

    def _in_factors(self, d_Sigma: np.ndarray, F: np.ndarray) -> np.ndarray:
        split = self.system.template.split
        parts = [(2.0 * D @ L).ravel() for D, L in zip(split(d_Sigma), split(F), strict=True)]
        return np.concatenate([*parts, np.zeros(0)])

    def mapped(self, Ks: list[np.ndarray | None]) -> ResponseCoordinates:
        """The same for effects of the columns Z_k K_k."""
        return self._with_system(self.system.with_effects(Ks))

    def _with_system(self, system: ResponseSystem) -> ResponseCoordinates:
        """The same for other effects of the same rows."""
        system.__dict__["no_effects"] = self.system.no_effects
        return replace(self, system=system)

    def permuted(self, factor: int, first: tuple[int, ...]) -> ResponseCoordinates:
        """The same with some effects of a factor before the others."""
        system = self.system
        f, pattern = system.factors[factor], system.patterns[factor]
        order = [*first, *(e for e in range(f.q) if e not in first)]
        place = np.argsort(order)
        blocks = tuple(tuple(sorted(int(place[e]) for e in b)) for b in pattern.blocks)
        factors, patterns = list(system.factors), list(system.patterns)
        factors[factor] = FactorRows(f.codes, f.Z[:, order], f.n_levels)
        patterns[factor] = CovariancePattern(pattern.q, blocks)
        return self._with_system(replace(system, factors=tuple(factors), patterns=tuple(patterns)))


def predictor_unit(system: ResponseSystem) -> float:
    """What a difference of linear predictors is measured in: 1 on logarithmic scales and those of
    latent variables, else the responses' own.
    """
    y = system.y / system.trials
    if system.family.name == "lognormal":
        return float(np.std(np.log(y))) or 1.0
    if system.family.link.name == "identity":
        return float(np.std(y)) or 1.0
    if system.family.link.name == "inverse":
        return 1.0 / float(np.mean(y))
    return 1.0


def decorrelating_maps(system: ResponseSystem) -> list[np.ndarray | None]:
    """K such that correlated effects of the columns Z K have uncorrelated columns of unit size.

    Their covariance is then on a scale of its own, wherever the covariates have their origin.
    """
    Ks: list[np.ndarray | None] = []
    for pattern, f in zip(system.patterns, system.factors, strict=True):
        K = np.eye(pattern.q)
        for block in pattern.blocks:
            columns = f.Z[:, list(block)]
            size = np.sqrt(np.mean(columns**2, axis=0))
            if len(block) == 1 or not np.all(size > 0):
                continue
            R = np.linalg.qr(columns / size / np.sqrt(len(columns)), mode="r")
            if np.abs(np.diag(R)).min() > 1e-6:
                K[np.ix_(block, block)] = np.linalg.inv(R) / size[:, None]
        Ks.append(None if np.array_equal(K, np.eye(pattern.q)) else K)
    return Ks


def mapped_factors(split, F: np.ndarray, Ks, how) -> np.ndarray:
    """Flat factors of K L L' K', or with K^-1 in place of K."""
    parts = [
        L.ravel() if K is None else lower_root(how(K, L)).ravel()
        for L, K in zip(split(F), Ks, strict=True)
    ]
    return np.concatenate([*parts, np.zeros(0)])
