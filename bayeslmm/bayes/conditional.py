"""From draws of the covariance parameters to draws of everything: exact, given each of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bayeslmm.bayes.effect_summaries import EffectSink, summarized
from bayeslmm.bayes.marginal import MarginalDensity
from bayeslmm.bayes.names import ModelNames
from bayeslmm.formula import Design
from bayeslmm.gaussian import MarginalModel, draw_conditional_many, single_threaded_blas
from bayeslmm.priors.effect_maps import EffectMaps

__all__ = ["posterior_values", "values_given_covariances"]

Drawn = tuple[np.ndarray, list[np.ndarray]]

#: Standard normals held at a time by one worker: 1.6 MB stay in the cache.
_NORMALS = 200_000


def posterior_values(
    density: MarginalDensity,
    design: Design,
    names: ModelNames,
    x: np.ndarray,
    *,
    random_seed: int,
    cores: int,
    drawn: Drawn | None = None,
    random_effects: str = "draws",
) -> dict[str, np.ndarray]:
    """Every variable of a posterior from unconstrained draws.

    beta and b are drawn from their exact conditional distribution at each draw.

    Parameters
    ----------
    x : ndarray, shape (chains, draws, d)
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
        ``beta``, ``sigma`` and, for every factor g, ``sd_g``, ``corr_g``, ``b_g``; each of shape
        (chains, draws, ...), or ``b_g`` an :class:`EffectSummary`.
    """
    sds, F, sigma = density.computed(x.reshape(-1, x.shape[-1]))
    return values_given_covariances(
        density.model,
        design,
        names,
        sds,
        density.factors(F),
        sigma,
        maps=density.maps,
        chains=len(x),
        random_seed=random_seed,
        cores=cores,
        drawn=drawn,
        random_effects=random_effects,
    )


def values_given_covariances(
    model: MarginalModel,
    design: Design,
    names: ModelNames,
    sds: np.ndarray,
    factors: list[np.ndarray],
    sigma: np.ndarray,
    *,
    maps: EffectMaps = EffectMaps(),  # noqa: B008 - frozen
    chains: int,
    random_seed: int,
    cores: int,
    drawn: Drawn | None = None,
    random_effects: str = "draws",
) -> dict[str, np.ndarray]:
    """As :func:`posterior_values`, from the covariance parameters themselves.

    Parameters
    ----------
    model : MarginalModel
    sds : ndarray, shape (n, m)
        Standard deviations of all effects of `model`, factor after factor.
    factors : list of ndarray, shapes (n, q_k, q_k)
        Lower triangular, Sigma_k = F_k F_k'.
    sigma : ndarray, shape (n,)
    maps : EffectMaps
        From the effects of `model` to those of the formula.
    chains : int
        Divides n.
    """
    shape = (chains, len(sigma) // chains)
    summarize = random_effects == "summary"
    if drawn is None:
        beta, effects = _conditional_draws(
            model, factors, sigma, maps, random_seed, cores, summarize
        )
    else:
        beta, effects = drawn[0], maps.effects(drawn[1])
        effects = summarized(effects) if summarize else effects
    sds, factors = maps.to_formula(sds, factors)
    values = {"beta": beta.reshape(*shape, -1)} if design.coef_names else {}
    values["sigma"] = sigma.reshape(shape)
    start = 0
    for k, (block, factor) in enumerate(zip(design.blocks, names.factors, strict=True)):
        q = block.n_effects
        sd = sds[:, start : start + q]
        values[factor.sd] = sd.reshape(*shape, q)
        if block.correlated_pairs():
            values[factor.corr] = _correlations(factors[k], sd).reshape(*shape, q, q)
        b = effects[k]
        values[factor.b] = b if summarize else b.reshape(*shape, block.n_levels, q)
        start += q
    return values


def _correlations(F: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """(n, q, q) correlation matrices with a diagonal of exactly one."""
    L = np.divide(F, sd[:, :, None], out=np.zeros_like(F), where=sd[:, :, None] > 0)
    R = np.clip(L @ L.transpose(0, 2, 1), -1.0, 1.0)
    diagonal = np.arange(R.shape[-1])
    R[:, diagonal, diagonal] = 1.0
    return R


def _conditional_draws(
    model: MarginalModel, factors, sigma, maps, random_seed: int, cores: int, summarize: bool
):
    """beta (n, p) and b [(n, J_k, q_k)] or summaries, in chunks with a random stream each."""
    n = len(sigma)
    size = int(np.clip(_NORMALS // max(model.n_normals, 1), 1, 500))
    starts = range(0, n, size)
    streams = np.random.SeedSequence([random_seed, 1]).spawn(len(starts))
    problem = model.problem
    beta = np.empty((n, problem.p))
    shapes = [
        (levels, pattern.q)
        for levels, pattern in zip(problem.n_levels, problem.patterns, strict=True)
    ]
    sink = EffectSink(n, shapes) if summarize else None
    effects = [] if summarize else [np.empty((n, *shape)) for shape in shapes]

    def draw(start, stream):
        rows = slice(start, min(start + size, n))
        rng = np.random.Generator(np.random.SFC64(stream))  # the fastest of numpy's
        normals = rng.standard_normal((rows.stop - rows.start, model.n_normals))
        parts = [np.ascontiguousarray(L[rows]) for L in factors]
        beta[rows], found = draw_conditional_many(model, parts, sigma[rows], normals)
        found = maps.effects(found)
        if sink is not None:
            sink.put(start, found)
            return
        for whole, part in zip(effects, found, strict=True):
            whole[rows] = part

    with single_threaded_blas(), ThreadPoolExecutor(max(1, cores)) as pool:
        list(pool.map(draw, starts, streams))
    return beta, effects if sink is None else sink.summaries()
