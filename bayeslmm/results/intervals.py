"""Confidence intervals and simulation of a likelihood fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PACKAGE, ModelWarning, listed
from bayeslmm.gaussian import draw_levels
from bayeslmm.likelihood.profile import profile_interval
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.patterns import lower_factor
from bayeslmm.progress import progress
from bayeslmm.results.response_scale import trials_of

if TYPE_CHECKING:
    from bayeslmm.gaussian import Solution
    from bayeslmm.likelihood.components import Component
    from bayeslmm.likelihood.engine import Estimates, LikelihoodEngine
    from bayeslmm.protocols import LikelihoodResult

__all__ = [
    "bootstrap_estimates",
    "bootstrap_refits",
    "confidence_intervals",
    "response_simulator",
    "simulate_responses",
]

_METHODS = ("profile", "wald", "bootstrap")


def confidence_intervals(
    fit: LikelihoodResult,
    method: str,
    level: float,
    parameters: list[str] | None,
    n_sims: int,
    random_seed: int | None,
    progressbar: bool,
) -> pd.DataFrame:
    """See ``LikelihoodFit.confint``.

    Raises
    ------
    ValueError
        If there is no such method or parameter.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, _METHODS))}, not {method!r}.")
    estimates = all_estimates(fit)
    if isinstance(parameters, str):
        parameters = [parameters]
    wanted = list(estimates.index) if parameters is None else list(parameters)
    unknown = [name for name in wanted if name not in estimates.index]
    if unknown:
        raise ValueError(
            f"There is no parameter {unknown[0]!r}. Parameters: {listed(estimates.index)}."
        )
    if method == "wald":
        limits = _wald(fit, level)
    elif method == "profile":
        limits = _profile(fit, level, wanted, progressbar)
    else:
        draws = bootstrap_estimates(fit, n_sims, random_seed, progressbar)
        tail = (1 - level) / 2
        limits = draws.quantile([tail, 1 - tail]).T.set_axis(["lower", "upper"], axis=1)
    table = pd.concat([estimates.rename("estimate"), limits], axis=1).loc[wanted]
    table.index.name = "parameter"
    return table


def all_estimates(fit: LikelihoodResult) -> pd.Series:
    """Coefficients and variance components; a coefficient called sigma is ``beta(sigma)``."""
    names = [coef_key(fit.design.coef_names[j]) for j in fit.kept]
    beta = pd.Series(fit._solution.beta, index=names)
    return pd.concat([beta, fit.components()])


def _wald(fit: LikelihoodResult, level: float) -> pd.DataFrame:
    fixed = fit.fixef("normal", level=level)[["lower", "upper"]].iloc[fit.kept]
    fixed.index = [coef_key(name) for name in fixed.index]
    return pd.concat([fixed, fit.varcomp(level=level)[["lower", "upper"]]])


def _profile(fit: LikelihoodResult, level: float, wanted: list[str], progressbar: bool):
    """Intervals from the ML deviance, also for a REML fit."""
    engine = fit._engine
    found = engine.optimize(reml=False) if fit.reml else fit.optimum
    solution = engine.solution(found.theta, False)
    engine.refuse_unbounded(solution)
    beta, values = solution.beta, engine.values(solution)
    names = list(all_estimates(fit).index)
    errors = np.sqrt(np.diag(solution.vcov))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        steps = fit.varcomp()["se"].to_numpy()
    rows = {}
    for name in progress(wanted, "Profiles", show=progressbar):
        at = names.index(name)
        if at < len(beta):
            deviance = engine.coefficient_profile(solution, at)
            rows[name] = profile_interval(
                deviance, float(beta[at]), found.criterion, step=float(errors[at]), level=level
            )
        else:
            k = at - len(beta)
            component, value = engine.components[k], float(values[k])
            step = _step(component, value, float(steps[k]), fit.sigma)
            rows[name] = _component_interval(engine, solution, component, value, step, level)
        if np.isnan(rows[name]).any() and not (name == "sigma" and engine.known_sigma):
            _warn(f"The profile of {name} could not be followed to the end of its interval.")
    return pd.DataFrame.from_dict(rows, orient="index", columns=["lower", "upper"])


def _component_interval(
    engine: LikelihoodEngine,
    solution: Solution,
    component: Component,
    value: float,
    step: float,
    level: float,
) -> tuple[float, float]:
    """Profile interval of a variance component; `solution` is that of maximum likelihood."""
    if component.kind == "sigma" and engine.known_sigma is not None:
        return np.nan, np.nan
    if component.is_correlation and not np.isfinite(value):
        _warn(f"{component.name} is not identified (a standard deviation is 0): interval -1 to 1.")
        return -1.0, 1.0
    lowest, highest = component.lowest, component.highest
    if np.isfinite(highest):
        margin = 0.5e-7 * (highest - lowest)
        lowest, highest = lowest + margin, highest - margin
    elif component.kind in ("sigma", "range", "family") and np.isfinite(lowest):
        lowest = 1e-6 * value
    lower, upper = profile_interval(
        engine.component_profile(solution, component),
        float(np.clip(value, lowest, highest)),
        -2 * solution.loglik,
        step=step,
        level=level,
        lowest=lowest,
        highest=highest,
    )
    if np.isfinite(component.highest):
        lower = component.lowest if lower <= lowest else lower
        upper = component.highest if upper >= highest else upper
    return lower, upper


def _step(component: Component, value: float, se: float, sigma: float) -> float:
    """A first guess of how far a variance component may move."""
    if np.isfinite(se) and se > 0:
        return se
    if component.is_correlation or component.kind in ("rho", "log sigma"):
        return 0.2
    return max(0.3 * value, 0.1 * sigma)


def simulate_responses(fit: LikelihoodResult, n_sims: int, rng: np.random.Generator) -> np.ndarray:
    """Responses (n_sims, n) from the fitted model, new random effects each time."""
    simulated = response_simulator(fit)
    return np.array([simulated(rng) for _ in range(n_sims)])


def response_simulator(fit: LikelihoodResult) -> Callable[[np.random.Generator], np.ndarray]:
    """What draws a response (n,) from the fitted model, new random effects each time."""
    design = fit.design
    mean = fit.fitted("population", "link").to_numpy()
    noise = fit.residual_noise
    roots = [lower_factor(S) for S in fit._solution.Sigmas]
    if not design.family.gaussian:
        return _of_family(fit, mean, roots)

    def simulated(rng: np.random.Generator) -> np.ndarray:
        value = mean + noise(rng.standard_normal(design.n_rows))
        for block, root in zip(design.blocks, roots, strict=True):
            b = draw_levels(block.relationship, block.n_levels, root, rng)
            value = value + np.einsum("nq,nq->n", block.Z, b[block.codes])
        return value

    return simulated


def _of_family(fit: LikelihoodResult, mean: np.ndarray, roots: list[np.ndarray]):
    """The same for a response that is not Gaussian; ``mean`` is of the linear predictor."""
    design, phi, trials = fit.design, fit._solution.phi, trials_of(fit)

    def simulated(rng: np.random.Generator) -> np.ndarray:
        eta = mean
        for block, root in zip(design.blocks, roots, strict=True):
            b = draw_levels(block.relationship, block.n_levels, root, rng)
            eta = eta + np.einsum("nq,nq->n", block.Z, b[block.codes])
        return np.asarray(design.family.draw(rng, eta, phi, trials), dtype=float)

    return simulated


def bootstrap_estimates(
    fit: LikelihoodResult, n_sims: int, random_seed: int | None, progressbar: bool
) -> pd.DataFrame:
    """Estimates of the same model on data simulated from it, one row per simulation."""
    names = all_estimates(fit).index
    refits = bootstrap_refits(fit, n_sims, random_seed, progressbar)
    rows = [np.concatenate([refit.solution.beta, refit.components]) for refit in refits]
    return pd.DataFrame(rows, columns=names)


def bootstrap_refits(
    fit: LikelihoodResult, n_sims: int, random_seed: int | None, progressbar: bool,
    generators: Iterable[np.random.Generator] | None = None,
) -> Iterator[Estimates]:  # fmt: skip
    """Estimates for responses simulated from a fit, with a progress bar.

    Parameters
    ----------
    generators : iterable of Generator, optional
        One per response; by default all are drawn by one, made from the seed.

    Raises
    ------
    ValueError
        If ``n_sims`` is not a whole number of at least 2.
    """
    check_n_sims(n_sims, least=2)
    if generators is None:
        generators = repeat(np.random.default_rng(random_seed), n_sims)
    responses = map(response_simulator(fit), generators)
    refits = fit.reestimates(responses, None if fit.singular else fit.theta)
    return progress(refits, "Bootstrap", show=progressbar, total=n_sims)


def check_n_sims(n_sims: int, least: int = 1) -> None:
    """Refuse a number of simulations that is not a whole number, or too small.

    Raises
    ------
    ValueError
    """
    whole = isinstance(n_sims, int | np.integer) and not isinstance(n_sims, bool)
    if not whole or n_sims < least:
        raise ValueError(f"n_sims must be a whole number of at least {least}, not {n_sims!r}.")


def _warn(text: str) -> None:
    warnings.warn(text, ModelWarning, skip_file_prefixes=PACKAGE)
