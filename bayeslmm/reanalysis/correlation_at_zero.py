"""Is a correlation of random effects zero?

Under LKJ(eta) for q effects every correlation has the margin 2 Beta(a, a) - 1 with a = eta - 1 +
q/2 (Lewandowski, Kurowicka and Joe 2009, J. Multivariate Analysis 100(9), section 2.4). Written
with the pair first, the correlation is a canonical partial correlation, independent of the others
before the data: its conditional posterior density at zero, normalized by quadrature, is averaged
over draws of everything else. The null model has the prior of the rest given that it is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma, log
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.marginal import MarginalDensity
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.parts.parameters import corr_key, pair_key, same_key
from bayeslmm.parts.patterns import lower_root
from bayeslmm.reanalysis.components import (
    BREAKS,
    averaged_density,
    quadrature,
    thinned,
)

if TYPE_CHECKING:
    from bayeslmm.protocols import Model

__all__ = ["CorrelationPair", "correlation_pair", "log_correlation_bayes_factor"]

_NODES = 10

#: atanh of the largest correlation looked at: nearer to one nothing can be told in doubles.
_FARTHEST = 9.0


@dataclass(frozen=True)
class CorrelationPair:
    """One correlation, and where its block's partial correlations are.

    Attributes
    ----------
    name, key : str
        As the tables print it; its prior.
    order : tuple of int
        Effects of the block, by position in it, the pair first.
    start : int
        First of the block's numbers u, column by column, among all correlations.
    effects : tuple of int
        The two, by position among all random effects.
    """

    name: str
    key: str
    order: tuple[int, ...]
    start: int
    effects: tuple[int, int]


def correlation_pair(model: Model, name: str) -> CorrelationPair | None:
    """The pair a name stands for; None if it is not the name of a random-effects correlation."""
    start, first = 0, 0
    for block in model.design.blocks:
        pairs = block.correlated_pairs()
        for part in block.pattern:
            q = len(part)
            for a in range(q):
                for b in range(a + 1, q):
                    one, two = block.effects[part[a]], block.effects[part[b]]
                    names = [pair_key(one, two, block.name), pair_key(two, one, block.name)]
                    if len(pairs) == 1:
                        names.append(corr_key(block.name))
                    if any(same_key(text, name) for text in names):
                        order = (a, b, *(i for i in range(q) if i not in (a, b)))
                        effects = first + part[a], first + part[b]
                        key = corr_key(block.name)
                        return CorrelationPair(names[0], key, order, start, effects)
            start += q * (q - 1) // 2
        first += block.n_effects
    return None


def log_correlation_bayes_factor(
    density: MarginalDensity,
    x: np.ndarray,
    pair: CorrelationPair,
    nodes: int = _NODES,
    *,
    effective: float = np.inf,
) -> tuple[float, float]:
    """log BF of a free correlation against zero, and its Monte Carlo standard error.

    Parameters
    ----------
    density : MarginalDensity
    x : (chains, draws, d) array
        Posterior draws.
    pair : CorrelationPair
    nodes : int
        Gauss-Legendre nodes per panel.
    effective : float
        Effective draws behind resampled ones.
    """
    q = len(pair.order)
    first = density.first_correlation + pair.start
    at = np.arange(first, first + q * (q - 1) // 2)
    here = at - density.first_correlation
    # exponent of the pair's (1 - z^2) in atanh z: that of the first column
    a = float(density.prior.exponent[here[0]])
    flat = x.reshape(-1, x.shape[-1])
    chosen = thinned(len(flat))
    moved = _reordered(flat[np.ix_(chosen, at)], pair.order)
    u, weights = _panels(moved[:, 0], nodes)
    back = tuple(np.argsort(pair.order))
    terms = np.empty(len(chosen))
    with single_threaded_blas():
        for k, i in enumerate(chosen):
            block = np.repeat(moved[k][None], len(u), axis=0)
            block[:, 0] = u
            points = np.repeat(flat[i][None], len(u), axis=0)
            points[:, at] = _reordered(block, back)
            # the prior of the block as the density has it out, that of the pair by itself in
            own = _log_sech(points[:, at]) @ (2.0 * density.prior.exponent[here])
            values = density.values(points) - own + 2.0 * a * _log_sech(u)
            terms[k] = values[0] - np.logaddexp.reduce(values[1:] + np.log(weights[1:]))
    log_density, error = averaged_density(terms, x.shape[0], effective)
    # d atanh z / dz is one at zero
    at_prior = -((2 * a - 1) * log(2.0) + 2 * lgamma(a) - lgamma(2 * a))
    return at_prior - log_density, error


def _log_sech(u: np.ndarray) -> np.ndarray:
    """Half of log(1 - tanh(u)^2)."""
    return log(2.0) - np.logaddexp(u, -u)


def _reordered(u: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Partial correlations (n, r), as atanh and column by column, with the effects reordered."""
    q = len(order)
    if q == 2 or order == tuple(range(q)):  # one correlation is the same either way
        return u
    z, at = np.tanh(np.clip(u, -_FARTHEST, _FARTHEST)), 0
    L, left = np.zeros((len(u), q, q)), np.ones((len(u), q))
    for j in range(q):
        L[:, j, j] = np.sqrt(left[:, j])
        for i in range(j + 1, q):
            L[:, i, j] = z[:, at] * np.sqrt(left[:, i])
            left[:, i] *= 1.0 - z[:, at] ** 2
            at += 1
    # the same rows in another order, made triangular by a rotation
    turned = lower_root(L[:, list(order)])
    rest = np.sqrt(np.cumsum(turned[:, :, ::-1] ** 2, axis=2)[:, :, ::-1])
    ratios = [turned[:, i, j] / rest[:, i, j] for j in range(q) for i in range(j + 1, q)]
    return np.arctanh(np.clip(np.stack(ratios, axis=1), -1 + 1e-15, 1 - 1e-15))


def _panels(u: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Zero (first) and Gauss-Legendre nodes with weights, panels set by the draws."""
    breaks = np.quantile(u, BREAKS)
    width = max(breaks[-1] - breaks[0], 1e-3)
    out = width * np.array([0.15, 0.5, 1.0, 2.0, 4.0, 8.0])
    edges = np.concatenate([breaks[0] - out, breaks, breaks[-1] + out, [-_FARTHEST, _FARTHEST]])
    edges = np.unique(np.clip(edges, -_FARTHEST, _FARTHEST))
    points, w = quadrature(edges, nodes)
    return np.append(0.0, points), np.append(0.0, w)
