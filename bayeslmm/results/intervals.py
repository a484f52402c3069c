"""Confidence intervals and simulation of a likelihood fit."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import ModelWarning, listed
from bayeslmm.gaussian import draw_levels, solve
from bayeslmm.likelihood.optimize import optimize
from bayeslmm.likelihood.profile import (
    coefficient_profile,
    component_profile,
    ml_optimum,
    profile_interval,
)
from bayeslmm.likelihood.unbounded import refuse_unbounded
from bayeslmm.parts.patterns import lower_factor
from bayeslmm.priors.table import coef_key
from bayeslmm.progress import progress
from bayeslmm.results.variances import component_values

if TYPE_CHECKING:
    from bayeslmm.gaussian import Solution
    from bayeslmm.protocols import LikelihoodResult

__all__ = ["bootstrap_estimates", "confidence_intervals", "simulate_responses"]

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
    problem = fit._problem
    best, solution = ml_optimum(problem, None if fit.singular else fit.theta)
    refuse_unbounded(problem, best.theta, reml=False)
    values = pd.Series(
        np.concatenate(
            [solution.beta, component_values(fit.design, solution.Sigmas, solution.sigma)]
        ),
        index=all_estimates(fit).index,
    )
    targets = _targets(fit)
    se = pd.concat(
        [
            pd.Series(np.sqrt(np.diag(solution.vcov)), index=values.index[: problem.p]),
            _component_steps(fit, values),
        ]
    )
    rows = {}
    for name in progress(wanted, "Profiles", show=progressbar):
        target = targets[name]
        if target[0] == "sigma" and problem.known_sigma is not None:
            rows[name] = (np.nan, np.nan)
            continue
        if target[0] == "corr" and not np.isfinite(values[name]):
            _warn(f"{name} is not identified (a standard deviation is 0): interval -1 to 1.")
            rows[name] = (-1.0, 1.0)
            continue
        lowest, highest = {"sd": (0.0, np.inf), "corr": (-1.0, 1.0), "sigma": (0.0, np.inf)}.get(
            target[0], (-np.inf, np.inf)
        )
        if target[0] == "beta":
            deviance = coefficient_profile(problem, best.theta, target[1])
        else:
            deviance = component_profile(problem, solution.Sigmas, solution.sigma, target)
        if target[0] == "corr":
            lowest, highest = -1 + 1e-7, 1 - 1e-7
        lower, upper = profile_interval(
            deviance,
            float(np.clip(values[name], lowest, highest)),
            best.criterion,
            step=float(se[name]),
            level=level,
            lowest=1e-6 * values[name] if target[0] == "sigma" else lowest,
            highest=highest,
        )
        if target[0] == "corr":
            lower = -1.0 if lower <= lowest else lower
            upper = 1.0 if upper >= highest else upper
        if not np.isfinite([lower, upper]).all():
            _warn(f"The profile of {name} could not be followed to the end of its interval.")
        rows[name] = (lower, upper)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["lower", "upper"])


def _component_steps(fit: LikelihoodResult, values: pd.Series) -> pd.Series:
    """A first guess of how far each variance component may move."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        se = fit.varcomp()["se"]
    fallback = pd.Series(
        {
            name: 0.2 if name.startswith("corr(") else max(0.3 * values[name], 0.1 * fit.sigma)
            for name in se.index
        }
    )
    return se.where(se.notna() & (se > 0), fallback)


def _targets(fit: LikelihoodResult) -> dict[str, tuple]:
    """What each name stands for."""
    targets: dict[str, tuple] = {}
    for at, j in enumerate(fit.kept):
        targets[coef_key(fit.design.coef_names[j])] = ("beta", at)
    for k, block in enumerate(fit.design.blocks):
        for i, effect in enumerate(block.effects):
            targets[f"sd({effect} | {block.name})"] = ("sd", k, i)
        for i, j in block.correlated_pairs():
            name = f"corr({block.effects[i]}, {block.effects[j]} | {block.name})"
            targets[name] = ("corr", k, i, j)
    targets["sigma"] = ("sigma",)
    return targets


def simulate_responses(fit: LikelihoodResult, n_sims: int, rng: np.random.Generator) -> np.ndarray:
    """Responses (n_sims, n) from the fitted model, new random effects each time."""
    design = fit.design
    mean = fit.fitted("population").to_numpy()
    noise = fit.residual_noise
    out = np.empty((n_sims, design.n_rows))
    roots = [lower_factor(S) for S in fit._solution.Sigmas]
    for s in range(n_sims):
        value = mean + noise(rng.standard_normal(design.n_rows))
        for block, root in zip(design.blocks, roots, strict=True):
            b = draw_levels(block.relationship, block.n_levels, root, rng)
            value = value + np.einsum("nq,nq->n", block.Z, b[block.codes])
        out[s] = value
    return out


def bootstrap_estimates(
    fit: LikelihoodResult, n_sims: int, random_seed: int | None, progressbar: bool
) -> pd.DataFrame:
    """Estimates of the same model on data simulated from it, one row per simulation."""
    check_n_sims(n_sims, least=2)
    rng = np.random.default_rng(random_seed)
    names = all_estimates(fit).index
    start = None if fit.singular else fit.theta
    rows = np.empty((n_sims, len(names)))
    for s in progress(range(n_sims), "Bootstrap", show=progressbar):
        refit = fit.reestimate(simulate_responses(fit, 1, rng)[0], start)
        rows[s] = np.concatenate([refit.solution.beta, refit.components])
    return pd.DataFrame(rows, columns=names)


def check_n_sims(n_sims: int, least: int = 1) -> None:
    """Refuse a number of simulations that is not a whole number, or too small.

    Raises
    ------
    ValueError
    """
    whole = isinstance(n_sims, int | np.integer) and not isinstance(n_sims, bool)
    if not whole or n_sims < least:
        raise ValueError(f"n_sims must be a whole number of at least {least}, not {n_sims!r}.")


@dataclass(frozen=True)
class Estimates:
    """Estimates for another response of the same rows.

    Attributes
    ----------
    solution : Solution
    components : array
        In the order of ``LikelihoodFit.components``.
    deviance : float
    """

    solution: Solution
    components: np.ndarray
    deviance: float


def reestimate(fit: LikelihoodResult, y: np.ndarray, start: np.ndarray | None) -> Estimates:
    """Fit another response, from cross-products alone."""
    problem = with_response(fit, y)
    found = optimize(problem, reml=fit.reml, start=start)
    solution = solve(problem, found.theta, fit.reml)
    components = component_values(fit.design, solution.Sigmas, solution.sigma)
    return Estimates(solution, components, -2 * solution.loglik)


def with_response(fit: LikelihoodResult, y: np.ndarray):
    """The fit's prepared problem with another response."""
    from bayeslmm.assembly import reduce_rows

    cp = reduce_rows(fit.design, y=y, columns=fit.kept)
    return fit._problem.renewed(cp)


def _warn(text: str) -> None:
    warnings.warn(text, ModelWarning, stacklevel=5)
