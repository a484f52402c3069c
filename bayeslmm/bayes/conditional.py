"""From draws of the covariance parameters to draws of everything: exact, given each of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeslmm.bayes.effect_summaries import EffectSink, summarized
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.residual_draws import residual_values
from bayeslmm.formula import Design
from bayeslmm.formula.residual import ResidualDesign
from bayeslmm.gaussian import FixedPrior, single_threaded_blas
from bayeslmm.gaussian._coefficients import CoefficientPrior
from bayeslmm.gaussian.system import System, Theta
from bayeslmm.parts.patterns import pair_values
from bayeslmm.priors.effect_maps import EffectMaps

__all__ = ["GivenCovariances", "factor_values", "posterior_values"]

Drawn = tuple[np.ndarray, list[np.ndarray]]

#: Standard normals held at a time by one worker: 1.6 MB stay in the cache.
_NORMALS = 200_000


@dataclass(frozen=True)
class GivenCovariances:
    """n draws of the covariance parameters, and how everything else is drawn given them.

    Attributes
    ----------
    sds : (n, m) array
        Standard deviations of all effects computed with, factor after factor.
    factors : list of (n, q_k, q_k) arrays
        Lower triangular, Sigma_k = F_k F_k'.
    residual : dict of str to (n, ...) array
        Variables of the residuals: ``sigma`` and what their structure adds.
    draw : callable
        ``draw(rows, normals)`` gives exact draws of (beta, b), one per row of a slice of the n.
    n_normals : int
        Standard normals that one of them takes.
    shapes : list of (int, int)
        Levels and effects of each grouping factor.
    n_coefficients : int
    maps : EffectMaps
        From the effects computed with to those of the formula.
    """

    sds: np.ndarray
    factors: list[np.ndarray]
    residual: dict[str, np.ndarray]
    draw: Callable[[slice, np.ndarray], Drawn]
    n_normals: int
    shapes: list[tuple[int, int]]
    n_coefficients: int
    maps: EffectMaps = EffectMaps()

    @property
    def n(self) -> int:
        """Draws."""
        return len(self.sds)

    @classmethod
    def of(
        cls,
        system: System,
        fixed: FixedPrior,
        sds: np.ndarray,
        theta: Theta,
        residual: ResidualDesign | None,
        maps: EffectMaps = EffectMaps(),  # noqa: B008 - frozen
        prior_at: Callable[[int], CoefficientPrior] | None = None,
    ) -> GivenCovariances:
        """Of n draws of theta: F (n, f), eta (n, s) and c (n, k).

        ``prior_at`` gives the prior of the coefficients at each draw where it is not the same.
        """
        F, eta, c = theta.F, theta.eta, theta.c

        def draw(rows: slice, normals: np.ndarray) -> Drawn:
            if prior_at is None:
                return system.draw(F[rows], eta[rows], c[rows], fixed, normals)
            found = []
            for d, i in enumerate(range(rows.start, rows.stop)):
                at = slice(i, i + 1)
                found.append(system.draw(F[at], eta[at], c[at], prior_at(i), normals[d : d + 1]))
            beta, effects = zip(*found, strict=True)
            return np.concatenate(beta), [np.concatenate(b) for b in zip(*effects, strict=True)]

        values, factors = residual_values(residual, eta, c), system.split(F)
        shapes = system.effect_shapes
        return cls(sds, factors, values, draw, system.n_normals, shapes, system.p, maps)


def posterior_values(
    given: GivenCovariances,
    design: Design,
    names: ModelNames,
    *,
    chains: int,
    random_seed: int,
    cores: int,
    drawn: Drawn | None = None,
    random_effects: str = "draws",
) -> dict[str, np.ndarray]:
    """Every variable of a posterior from draws of the covariance parameters.

    beta and b are drawn from their exact conditional distribution at each draw.

    Parameters
    ----------
    given : GivenCovariances
    chains : int
        Divides the number of draws.
    random_seed : int
        The result depends on it and not on ``cores``.
    cores : int
        Threads.
    drawn : (beta, b), optional
        (n, p) and [(n, J_k, q_k)] where they were drawn already.
    random_effects : {"draws", "summary"}
        Whether to give the draws of b, or their means, standard deviations and quantiles.

    Returns
    -------
    dict of ndarray
        ``beta``, ``sigma``, what the residuals' structure adds and, for every factor g, ``sd_g``,
        ``corr_g``, ``b_g``; each of shape (chains, draws, ...), or ``b_g`` an
        :class:`EffectSummary`.
    """
    shape = (chains, given.n // chains)
    summarize = random_effects == "summary"
    if drawn is None:
        beta, effects = _conditional_draws(given, random_seed, cores, summarize)
    else:
        beta, effects = drawn[0], given.maps.effects(drawn[1])
        effects = summarized(effects) if summarize else effects
    all_sds, factors = given.maps.to_formula(given.sds, given.factors)
    values = {"beta": beta.reshape(*shape, -1)} if design.coef_names else {}
    values |= {name: v.reshape(*shape, *v.shape[1:]) for name, v in given.residual.items()}
    return values | factor_values(design, names, all_sds, factors, effects, shape)


def factor_values(
    design: Design, names: ModelNames, all_sds: np.ndarray, factors, effects, shape: tuple
) -> dict[str, Any]:
    """Variables of the grouping factors, (chains, draws, ...).

    Parameters
    ----------
    all_sds : (n, m) array
        Of all effects, factor after factor.
    factors : sequence of (n, q_k, q_k) arrays
    effects : sequence of (n, J_k, q_k) arrays or EffectSummary
    shape : tuple of int
        Chains and draws.
    """
    values: dict[str, Any] = {}
    start = 0
    for k, (block, factor) in enumerate(zip(design.blocks, names.factors, strict=True)):
        q, b = block.n_effects, effects[k]
        sd = all_sds[:, start : start + q]
        values[factor.sd] = sd.reshape(*shape, q)
        if pairs := block.correlated_pairs():
            values[factor.corr] = pair_values(_correlations(factors[k], sd), pairs).reshape(
                *shape, len(pairs)
            )
        drawn = isinstance(b, np.ndarray)
        values[factor.b] = b.reshape(*shape, block.n_levels, q) if drawn else b
        start += q
    return values


def _correlations(F: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """(n, q, q) correlation matrices; a diagonal is one but for rounding."""
    L = np.divide(F, sd[:, :, None], out=np.zeros_like(F), where=sd[:, :, None] > 0)
    return np.clip(L @ L.transpose(0, 2, 1), -1.0, 1.0)


def _conditional_draws(
    given: GivenCovariances, random_seed: int, cores: int, summarize: bool
) -> tuple[np.ndarray, list]:
    """beta (n, p) and b [(n, J_k, q_k)] or summaries, in chunks with a random stream each."""
    n = given.n
    size = int(np.clip(_NORMALS // max(given.n_normals, 1), 1, 500))
    starts = range(0, n, size)
    streams = np.random.SeedSequence([random_seed, 1]).spawn(len(starts))
    beta = np.empty((n, given.n_coefficients))
    sink = EffectSink(n, given.shapes) if summarize else None
    effects = [] if summarize else [np.empty((n, *shape)) for shape in given.shapes]

    def draw(start, stream):
        rows = slice(start, min(start + size, n))
        rng = np.random.Generator(np.random.SFC64(stream))  # the fastest of numpy's
        normals = rng.standard_normal((rows.stop - rows.start, given.n_normals))
        beta[rows], found = given.draw(rows, normals)
        found = given.maps.effects(found)
        if sink is not None:
            sink.put(start, found)
            return
        for whole, part in zip(effects, found, strict=True):
            whole[rows] = part

    with single_threaded_blas(), ThreadPoolExecutor(max(1, cores)) as pool:
        list(pool.map(draw, starts, streams))
    return beta, effects if sink is None else sink.summaries()
