"""Does a variance component belong in the model? sd = 0 against sd > 0.

Savage-Dickey at the boundary: the conditional posterior density of the standard deviation at zero,
normalized by quadrature along the standard deviation, averaged over draws of everything else. No
kernel estimate, which is biased at a boundary.

With correlated effects, sd = 0 leaves the other effects' correlations with the margin of their
prior: LKJ(eta + 1/2) for the smaller matrix (Lewandowski, Kurowicka and Joe 2009, section 2.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.importance import MAX_K_HAT, importance_sample
from bayeslmm.bayes.marginal import MarginalDensity
from bayeslmm.bayes.mode import find_mode
from bayeslmm.errors import PriorError
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.parts.parameters import same_key
from bayeslmm.parts.scales import scale_terms

if TYPE_CHECKING:
    from bayeslmm.protocols import Model

__all__ = [
    "BREAKS",
    "averaged_density",
    "component_position",
    "log_component_bayes_factor",
    "log_evidences_ratio",
    "quadrature",
    "thinned",
]

#: Draws the quadrature is repeated for, and nodes per panel.
_DRAWS = 400
#: Probabilities of the draws' quantiles between which panels of a quadrature lie.
BREAKS = (0.0005, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9995)
_NODES = 10

#: This small beside its typical value, a standard deviation is zero.
_ZERO = 1e-7


def component_position(model: Model, name: str) -> int | None:
    """Position of ``sd(effect | factor)`` among the standard deviations; None if not one."""
    keys = [p.key for p in model.priors.parameters if p.kind == "sd"]
    return next((at for at, key in enumerate(keys) if same_key(key, str(name))), None)


def log_component_bayes_factor(
    density: MarginalDensity,
    x: np.ndarray,
    position: int,
    nodes: int = _NODES,
    *,
    effective: float = np.inf,
) -> tuple[float, float]:
    """log BF of sd > 0 against sd = 0, and its Monte Carlo standard error.

    Parameters
    ----------
    density : MarginalDensity
    x : (chains, draws, d) array
        Posterior draws.
    position : int
        Of the standard deviation.
    nodes : int
        Gauss-Legendre nodes per panel.
    effective : float
        Effective draws behind resampled ones.

    Raises
    ------
    PriorError
        If the prior's density at zero is zero or infinite, or the prior is improper.
    """
    prior_at_zero = _log_prior_at_zero(density, position)
    flat = x.reshape(-1, x.shape[-1])
    chosen = thinned(len(flat))
    s, weights = _panels(np.exp(flat[:, position]), nodes)
    log_s = np.log(s)
    terms = np.empty(len(chosen))
    with single_threaded_blas():
        for i, at in enumerate(chosen):
            points = np.repeat(flat[at][None], len(s), axis=0)
            points[:, position] = log_s
            # the density of log s, less log s, is that of s
            values = density.values(points) - log_s
            zero = values[0]
            log_mass = np.logaddexp.reduce(values[1:] + np.log(weights[1:]))
            terms[i] = zero - log_mass
    log_density, error = averaged_density(terms, x.shape[0], effective)
    return prior_at_zero - log_density, error


def thinned(n: int) -> np.ndarray:
    """Positions of the draws that a quadrature is repeated for."""
    return np.linspace(0, n - 1, min(_DRAWS, n)).astype(int)


def averaged_density(terms: np.ndarray, chains: int, effective: float) -> tuple[float, float]:
    """Log of the mean of densities from their logs, and its Monte Carlo standard error.

    Parameters
    ----------
    terms : (n,) array
        Log densities given thinned draws, chain after chain.
    chains : int
    effective : float
        Effective draws behind resampled ones.
    """
    terms = np.where(np.isfinite(terms), terms, -np.inf)
    log_density = float(np.logaddexp.reduce(terms) - np.log(len(terms)))
    return log_density, _chain_error(np.exp(terms - log_density), chains, effective)


@dataclass(frozen=True)
class WithoutComponent:
    """The density with one standard deviation at zero: one coordinate less.

    The correlations of that effect no longer meet the likelihood; they stay, with their prior, and
    integrate to one. What mode finding and importance sampling ask of a density is here.
    """

    full: MarginalDensity
    position: int
    zero: float
    log_prior: float

    @property
    def n_dim(self) -> int:
        """Coordinates left."""
        return self.full.n_dim - 1

    @property
    def correlations(self):
        """Of the full density."""
        return self.full.correlations

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and gradient."""
        value, gradient = self.full(np.insert(x, self.position, self.zero))
        return value - self.log_prior, np.delete(gradient, self.position)

    def value(self, x: np.ndarray) -> float:
        """Log density."""
        return self.full.value(np.insert(x, self.position, self.zero)) - self.log_prior

    def values(self, X: np.ndarray) -> np.ndarray:
        """Log density at each row."""
        return self.full.values(np.insert(X, self.position, self.zero, axis=1)) - self.log_prior

    def starting_points(self, shares: tuple[float, ...]) -> list[np.ndarray]:
        """As those of the full density."""
        return [np.delete(point, self.position) for point in self.full.starting_points(shares)]

    def spread(self) -> np.ndarray:
        """As that of the full density."""
        return np.delete(self.full.spread(), self.position)


def log_evidences_ratio(
    density: MarginalDensity, position: int, draws: int, rng: np.random.Generator
) -> tuple[float, float] | None:
    """log BF of sd > 0 against sd = 0 from both marginal likelihoods; None where k-hat refuses.

    Parameters
    ----------
    density : MarginalDensity
    position : int
    draws : int
        Importance draws for each.
    rng : numpy.random.Generator
    """
    log_prior = _log_prior_at_zero(density, position)
    typical = density.starting_points((0.5,))[0][position]
    zero = float(typical + np.log(_ZERO))
    null = WithoutComponent(density, position, zero, log_prior + zero)
    with single_threaded_blas():
        pair = [importance_sample(d, find_mode(d), draws, rng) for d in (density, null)]
    if max(sample.k_hat for sample in pair) > MAX_K_HAT:
        return None
    one, zeroed = pair
    error = np.hypot(one.log_evidence_error, zeroed.log_evidence_error)
    return one.log_evidence - zeroed.log_evidence, float(error)


def _log_prior_at_zero(density: MarginalDensity, position: int) -> float:
    """Log prior density of the standard deviation at zero."""
    scales = density.scales
    if scales.lower[position] > 0 or np.isfinite(scales.upper[position]):
        raise PriorError(
            "The prior of this standard deviation is bounded, so that zero is not a smooth end of "
            "it. Use HalfNormal, HalfStudentT or Exponential, or blm.bayes_factor(fit1, fit0)."
        )
    one = type(scales)(*(part[position : position + 1] for part in scales))
    value, again = (float(scale_terms(one, np.array([at]))[0]) - at for at in (-20.0, -25.0))
    if not np.isfinite(value) or abs(value - again) > 1e-3:
        raise PriorError(
            "The prior density of this standard deviation is zero or infinite at zero, where the "
            "Bayes factor needs it. Use HalfNormal, HalfStudentT or Exponential, or "
            "blm.bayes_factor(fit1, fit0)."
        )
    return value


def _panels(sd: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Zero (first) and Gauss-Legendre nodes with weights, panels set by the draws."""
    breaks = np.quantile(sd, BREAKS)
    low, high = breaks[0], breaks[-1]
    edges = np.unique([0.0, 0.25 * low, 0.5 * low, *breaks, 1.5 * high, 3 * high, 8 * high])
    s, w = quadrature(edges, nodes)
    return np.append(_ZERO * breaks[4], s), np.append(0.0, w)


def quadrature(edges: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points and weights of every panel between the edges."""
    node, weight = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * np.diff(edges)[:, None]
    middle = 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * node).ravel(), (half * weight).ravel()


def _chain_error(relative: np.ndarray, chains: int, effective: float = np.inf) -> float:
    """Standard error of the mean of thinned draws, autocorrelation and resampling included."""
    from arviz_stats.base import array_stats

    n = len(relative) // chains * chains
    ess = float(array_stats.ess(relative[:n].reshape(chains, -1), method="mean"))
    ess = ess if np.isfinite(ess) else 1.0
    ess = float(np.clip(ess, 1.0, len(relative)))
    return float(np.std(relative) * np.sqrt(1.0 / ess + 1.0 / effective))
