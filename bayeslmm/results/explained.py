"""R2, intraclass correlation and shares of variance of a fit: tables, draws, bootstrap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.bayes.draws import coefficient_draws, covariance_draws
from bayeslmm.bayes.responses import phi_draws
from bayeslmm.errors import DataError
from bayeslmm.protocols import is_posterior
from bayeslmm.results.estimates import likelihood_estimates, posterior_estimates
from bayeslmm.results.population_average import effect_variances, population_mean
from bayeslmm.results.robust import variances
from bayeslmm.results.shares import (
    Shares,
    VarianceParts,
    distribution_sd,
    icc_shares,
    r2_shares,
    residual_scale,
    term_shares,
    variance_parts,
)
from bayeslmm.results.support import refuse_unless_derived
from bayeslmm.results.tables import check_level, summarize_draws

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["fitted_parts", "likelihood_shares", "posterior_r2", "posterior_shares"]

_R2 = ("nakagawa", "gelman")
_BLOCK = 4_000_000


def fitted_parts(fit: PosteriorResult | LikelihoodResult) -> VarianceParts:
    """Variances of the fixed part, the random effects and the residuals: draws or estimates."""
    refuse_unless_derived(
        fit.model, "A share of variance", related=True, heavy_tails=True, residuals=True,
        families=True,
    )  # fmt: skip
    found = _parameter_draws(fit) if is_posterior(fit) else _estimates(fit)
    return variance_parts(fit.model, *found)


def posterior_shares(
    fit: PosteriorResult, kind: str, *, at=None, level: float, interval: str, draws: bool
) -> pd.DataFrame | xr.Dataset:
    """Posterior of shares of variance.

    Parameters
    ----------
    kind : {"icc", "term"}
    at
        As in :func:`bayeslmm.results.shares.icc_shares`.
    draws : bool
        A Dataset with dimensions (chain, draw, ...) instead of a table.
    """
    refuse_unless_derived(
        fit.model, "A share of variance", related=True, heavy_tails=True, residuals=at is None,
        families=True,
    )  # fmt: skip
    shares = icc_shares(fit.model, at) if kind == "icc" else term_shares(fit.model)
    return _posterior(fit, shares, shares.values(*_parameter_draws(fit)), level, interval, draws)


def posterior_r2(
    fit: PosteriorResult, method: str, *, level: float, interval: str, draws: bool
) -> pd.DataFrame | xr.Dataset:
    """Posterior of R2; see ``PosteriorFit.r2``."""
    _check_method(method)
    refuse_unless_derived(
        fit.model, "R2", related=True, heavy_tails=True, residuals=True, families=True
    )
    if method == "gelman" and fit.model.design.family.name == "ordinal":
        raise DataError(
            'method="gelman" is a share of the variance of the response, which ordered categories '
            'have none of. Use method="nakagawa", of the linear predictor.'
        )
    shares = r2_shares(fit.model)
    values = _gelman(fit) if method == "gelman" else shares.values(*_parameter_draws(fit))
    return _posterior(fit, shares, values, level, interval, draws)


def likelihood_shares(
    fit: LikelihoodResult,
    kind: str,
    *,
    at=None,
    method: str = "nakagawa",
    level: float,
    n_sims: int,
    random_seed: int | None,
    progressbar: bool,
) -> pd.Series | pd.DataFrame:
    """Estimates of shares of variance, with bootstrap intervals where ``n_sims`` is positive.

    Parameters
    ----------
    kind : {"r2", "icc", "term"}

    Raises
    ------
    ValueError
        If the method needs a posterior.
    """
    check_level(level)
    _check_method(method)
    if method == "gelman":
        raise ValueError(
            'method="gelman" is a distribution over posterior draws: use model.fit().r2(). '
            'A REML or ML fit has method="nakagawa".'
        )
    model = fit.model
    refuse_unless_derived(
        model, "A share of variance", related=True, heavy_tails=True, residuals=at is None,
        families=True,
    )  # fmt: skip
    shares = {"r2": r2_shares, "term": term_shares}.get(kind, lambda m: icc_shares(m, at))(model)

    def evaluate(solution) -> np.ndarray:
        values = shares.values(*_estimates(fit, solution))
        names[:] = values
        return _stacked(shares, values)

    names: list[str] = []
    columns = {"estimate": evaluate(fit._solution)}
    if n_sims:
        from bayeslmm.results.bootstrap import bootstrap_statistics

        found = bootstrap_statistics(
            fit, evaluate, n_sims=n_sims, random_seed=random_seed, progressbar=progressbar
        )
        tail = (1 - level) / 2
        columns["lower"], columns["upper"] = np.quantile(found, [tail, 1 - tail], axis=0)
    table = _labeled(shares, names, pd.DataFrame(columns))
    if n_sims or shares.points is not None:
        return table
    return table["estimate"].rename(shares.name)


def _check_method(method: str) -> None:
    if method not in _R2:
        raise ValueError(f"method must be one of {', '.join(map(repr, _R2))}, not {method!r}.")


def _estimates(fit: LikelihoodResult, solution=None) -> tuple:
    """beta (p,), 0 where aliased, Sigmas and sigma of a solution, the fit's by default."""
    solution = fit._solution if solution is None else solution
    if not fit.design.family.gaussian:
        beta = np.zeros(len(fit.design.coef_names))
        beta[fit.kept] = solution.beta
        return (
            beta,
            solution.Sigmas,
            distribution_sd(fit.model, beta, solution.Sigmas, solution.phi),
        )
    found = likelihood_estimates(fit, solution)
    return found.beta, found.Sigmas, np.asarray(solution.sigma)


def _parameter_draws(fit: PosteriorResult) -> tuple:
    """beta (chains, draws, p), Sigmas [(chains, draws, q_k, q_k)], sigma (chains, draws).

    Variances, also where residuals or effects are Student-t. For sigma stands the root of the
    distribution-specific variance where the response is not Gaussian.
    """
    from bayeslmm.bayes.residual_draws import mean_sigma

    if not fit.model.design.family.gaussian:
        beta = coefficient_draws(fit.model.design, fit.posterior)[1]
        Sigmas = covariance_draws(fit.model.design, fit.names, fit.posterior)
        phi = phi_draws(fit.model.design, fit.posterior)
        return beta, Sigmas, distribution_sd(fit.model, beta, Sigmas, phi)

    found, design = posterior_estimates(fit), fit.model.design
    Sigmas, sigma = variances(fit.names, fit.posterior, found.Sigmas)
    if design.residual is not None:
        sigma = mean_sigma(design, fit.posterior)
    return found.beta, Sigmas, sigma


def _posterior(fit, shares: Shares, values, level: float, interval: str, draws: bool):
    check_level(level, interval)
    if draws:
        return _dataset(fit, shares, values)
    stacked = _stacked(shares, values)
    table = summarize_draws(stacked, range(stacked.shape[-1]), level=level, interval=interval)
    return _labeled(shares, list(values), table)


def _stacked(shares: Shares, values: dict[str, np.ndarray]) -> np.ndarray:
    """(..., k): points outermost, names within a point."""
    stacked = np.stack(list(values.values()), axis=-1)
    if shares.points is None:
        return stacked
    return stacked.reshape(*stacked.shape[:-2], -1)


def _labeled(shares: Shares, names: list[str], table: pd.DataFrame) -> pd.DataFrame:
    """Labels in front of the columns, or as the index where names are the only labels."""
    if shares.points is None:
        table.index = pd.Index(names, name=shares.name)
        return table
    labels = shares.points.loc[shares.points.index.repeat(len(names))].reset_index(drop=True)
    if len(names) > 1:
        labels[_column(shares.name, labels)] = names * len(shares.points)
    return pd.concat([labels, table.reset_index(drop=True)], axis=1)


def _column(name: str, points: pd.DataFrame) -> str:
    while name in points.columns:
        name += "_"
    return name


def _dataset(fit: PosteriorResult, shares: Shares, values: dict[str, np.ndarray]) -> xr.Dataset:
    """Draws under the names of the table; a "/" is not allowed in those of a Dataset."""
    import xarray as xr

    posterior = fit.posterior
    coords: dict[str, Any] = {"chain": posterior["chain"], "draw": posterior["draw"]}
    dims: tuple[str, ...] = ("chain", "draw")
    if shares.points is not None:
        dims = (*dims, shares.dim)
        first = shares.points.iloc[:, 0]
        one = shares.points.shape[1] == 1 or shares.dim == "term"
        unique = one and first.is_unique
        coords[shares.dim] = np.array(first.tolist() if unique else range(len(first)))
        for name, column in shares.points.items():
            if name not in (*dims, *values):
                coords[str(name)] = (shares.dim, np.array(column.tolist()))
    variables = {_variable(name, dims): (dims, array) for name, array in values.items()}
    return xr.Dataset(variables, coords)


def _variable(name: str, dims: tuple[str, ...]) -> str:
    name = name.replace("/", "\u2215")
    return f"{name}_" if name in dims else name


def _gelman(fit: PosteriorResult) -> dict[str, np.ndarray]:
    """Bayesian R2 (Gelman, Goodrich, Gabry and Vehtari 2019, The American Statistician 73(3)).

    Variance of the predicted means over the rows, divided by itself plus the modeled variance of
    what they leave (eq. 3). Conditional: the means have the groups' own effects, and the
    errors are left. Marginal: the means are x'beta, and effects and errors are left. The offset
    explains nothing. In blocks of draws, since each needs all rows.
    """
    posterior, design = fit.posterior, fit.model.design
    if not design.family.gaussian:
        return _gelman_of_means(fit)
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    block = max(1, _BLOCK // (chains * design.n_rows))
    residual = residual_scale(fit.model) * _parameter_draws(fit)[2] ** 2
    marginal, conditional = np.empty((chains, draws)), np.empty((chains, draws))
    for start in range(0, draws, block):
        at = slice(start, start + block)
        part = posterior.isel(draw=at)
        fixed, random = _predictor_parts(fit, part)
        left = random.var(axis=-1, ddof=1) + residual[:, at]
        explained = fixed.var(axis=-1, ddof=1)
        marginal[:, at] = explained / (explained + left)
        explained = (fixed + random).var(axis=-1, ddof=1)
        conditional[:, at] = explained / (explained + residual[:, at])
    return {"marginal": marginal, "conditional": conditional}


def _gelman_of_means(fit: PosteriorResult) -> dict[str, np.ndarray]:
    """As :func:`_gelman`, of the mean of a response that is not Gaussian.

    What means leave is the mean variance of the responses given them. Marginal means are those
    of the population, not of the average group. Counts of trials are taken per trial.
    """
    posterior, design, family = fit.posterior, fit.model.design, fit.model.design.family
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    trials = np.ones(design.n_rows) if design.trials is None else design.trials
    Z = [block.Z for block in design.blocks]
    block = max(1, _BLOCK // (chains * design.n_rows))
    marginal, conditional = np.empty((chains, draws)), np.empty((chains, draws))
    for start in range(0, draws, block):
        at = slice(start, start + block)
        part = posterior.isel(draw=at)
        fixed, random = _predictor_parts(fit, part)
        fixed = fixed + design.offset
        phi = phi_draws(design, part)[:, :, None]
        own = family.mean(fixed + random, phi)
        left = (family.variance(fixed + random, phi, trials) / trials**2).mean(axis=-1)
        variance = effect_variances(covariance_draws(design, fit.names, part), Z)
        average = population_mean(family, fixed, np.broadcast_to(variance, fixed.shape), phi)
        explained, others = average.var(axis=-1, ddof=1), (own - average).var(axis=-1, ddof=1)
        marginal[:, at] = explained / (explained + others + left)
        explained = own.var(axis=-1, ddof=1)
        conditional[:, at] = explained / (explained + left)
    return {"marginal": marginal, "conditional": conditional}


def _predictor_parts(fit: PosteriorResult, posterior) -> tuple[np.ndarray, np.ndarray]:
    """x'beta and z'b of each draw and row, without the offset."""
    from bayeslmm.bayes.tree import linear_predictor

    design = fit.model.design
    fixed = coefficient_draws(design, posterior)[1] @ design.X.T
    total = linear_predictor(design, fit.names, posterior)
    return fixed, total - fixed - design.offset
