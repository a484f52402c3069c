"""Leave-one-out cross-validation with coefficients and random effects integrated out.

Given the covariance parameters theta, the predictive of a left-out row is Gaussian in closed form
(leverages), and that of a left-out group is a difference of two marginal likelihoods. Pareto-
smoothed importance sampling (Vehtari, Gelman and Gabry 2017, Statistics and Computing 27) then
corrects for theta alone, which moves little when a row is taken away; rows or groups for which
it still moves too much (k-hat above 0.7, or 0.5 where rows are few) are refitted exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.marginal import (
    fixed_obstacle,
    marginal_density,
    marginal_obstacle,
    sampled_obstacle,
)
from bayeslmm.bayes.residual_draws import correlated
from bayeslmm.bayes.shrinkage import fitted_priors
from bayeslmm.bayes.tree import log_likelihood
from bayeslmm.errors import SamplingError
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.priors.propriety import needed_unit
from bayeslmm.progress import progress
from bayeslmm.results.estimates import posterior_estimates
from bayeslmm.results.left_out import group_densities, row_densities, without_rows
from bayeslmm.results.loo_result import (
    K_HAT,
    Refits,
    efficiency,
    influences,
    refit_above,
    with_errors,
)
from bayeslmm.results.response_left_out import (
    LeavingOut,
    by_quadrature,
    integrated_factor,
    unit_obstacle,
)
from bayeslmm.results.robust import is_robust

if TYPE_CHECKING:
    import pandas as pd

    from bayeslmm.protocols import PosteriorResult

__all__ = ["LeftOut", "leave_one_out"]

_MAX_VALUES = 4e7


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What a leave-one-out result is about, for :func:`bayeslmm.compare_models` to check.

    Attributes
    ----------
    unit : str
    conditional : bool
        Given the random effects, or with them integrated out.
    response : str
    index : pandas.Index
        Labels of the rows.
    y : (n,) array
    levels : tuple
        Groups left out, in order; empty for rows.
    discrete : bool
        Whether densities are probabilities.
    """

    unit: str
    conditional: bool
    response: str
    index: pd.Index
    y: np.ndarray
    levels: tuple
    discrete: bool = False


def leave_one_out(
    fit: PosteriorResult,
    *,
    unit: str = "observation",
    conditional: bool = False,
    draws: int | None = None,
    exact: bool = True,
    progressbar: bool = True,
):
    """See :meth:`bayeslmm.PosteriorFit.loo`."""
    import arviz as az
    import xarray as xr

    design = fit.model.design
    units = _units(fit, unit)
    leaving = None
    if by_quadrature(fit):
        leaving = _leaving_out(fit, unit, conditional)
        conditional = leaving.conditional
    else:
        conditional = _conditional(fit, unit, conditional)
    _refuse_needed(fit, unit, units)
    posterior = _thinned(fit, len(units), draws)
    if leaving is not None:
        values = leaving.densities(posterior, unit, progressbar=progressbar)
    elif conditional:
        values = log_likelihood(design, fit.names, posterior)[fit.names.response].to_numpy()
    else:
        with single_threaded_blas():
            values = _densities(fit, posterior, unit, units, progressbar)
    values = values.reshape(posterior.sizes["chain"], posterior.sizes["draw"], len(units))
    dim = "obs" if unit == "observation" else unit
    data = xr.Dataset(
        {fit.names.response: (("chain", "draw", dim), values)},
        coords={"chain": posterior["chain"], "draw": posterior["draw"]},
    )
    tree = xr.DataTree.from_dict({"posterior": posterior, "log_likelihood": data})
    found = _quiet(lambda: az.loo(tree, pointwise=True))
    refits = Refits()
    if exact and not conditional:
        k_hat = found.pareto_k.to_numpy()
        if leaving is None:
            refits = _refitted(fit, units, k_hat, progressbar)
        else:
            refits = leaving.refitted(unit, units, k_hat, progressbar)
    per_draw = values.reshape(-1, len(units))
    result = with_errors(found, per_draw, efficiency(fit, posterior), refits)
    result.likelihood = "conditional" if conditional else "integrated"
    if leaving is not None:
        result.likelihood = leaving.likelihood
    if "nu" in posterior:
        result.outlier_weights = fit.outlier_weights()
    if not conditional:
        result.p = _effective_parameters(fit, posterior, result)
    result.left_out = LeftOut(
        unit, conditional, design.response, design.index, design.y, _unit_labels(fit, unit),
        design.family.discrete,
    )  # fmt: skip
    return result


def _conditional(fit: PosteriorResult, unit: str, conditional: bool) -> bool:
    """Whether densities are those given the effects, of a Gaussian model."""
    design = fit.model.design
    sampled = is_robust(fit.names, fit.posterior) or bool(design.modeled)
    if (conditional or sampled) and correlated(design):
        advice = fixed_obstacle(design, fit.priors) if sampled else "leave conditional=True out"
        raise SamplingError(
            "With correlated residuals the rows of a group are not independent given the random "
            f"effects, so there is no conditional leave-one-out; {advice}."
        )
    refuse_old_theta(fit)
    if sampled and unit != "observation":
        raise SamplingError(
            "Leaving out a whole group needs coefficients and random effects integrated out, but "
            f'{fixed_obstacle(design, fit.priors)}. Leave out rows: unit="observation".'
        )
    conditional = conditional or sampled  # nothing integrates out exactly
    if conditional:
        _refuse_groups(unit)
    return conditional


def _refuse_groups(unit: str) -> None:
    if unit != "observation":
        raise ValueError('conditional=True goes with unit="observation" only.')


def _leaving_out(fit: PosteriorResult, unit: str, conditional: bool) -> LeavingOut:
    """How densities are computed where effects are integrated out by quadrature."""
    design = fit.model.design
    if conditional:
        _refuse_groups(unit)
        return LeavingOut.of(fit, None)
    if unit == "observation":
        return LeavingOut.of(fit, integrated_factor(fit))
    if obstacle := unit_obstacle(fit, unit):
        raise SamplingError(
            f"Leaving out whole levels of {unit} needs their random effects integrated out, but "
            f'{obstacle}. Leave out rows: unit="observation".'
        )
    return LeavingOut.of(fit, design.blocks.index(design.block(unit)))


def _densities(fit: PosteriorResult, posterior, unit: str, units, progressbar: bool) -> np.ndarray:
    """Log density of every unit left out given each draw, (m, units)."""
    theta = posterior_estimates(fit, posterior).theta()
    priors = given_priors(fit, posterior)
    if unit == "observation":
        return row_densities(fit, theta, progressbar, priors)
    return group_densities(fit, theta, units, progressbar, priors)


def given_priors(fit: PosteriorResult, posterior):
    """Priors of the coefficients given what is not integrated out of them; None if all is."""
    if fixed_obstacle(fit.model.design, fit.priors) is None:
        return None
    return fitted_priors(fit.model.design, fit.priors, posterior)


def _unit_labels(fit: PosteriorResult, unit: str) -> tuple:
    design = fit.model.design
    if unit == "observation":
        return ()
    if unit in [block.name for block in design.blocks]:
        return design.block(unit).levels
    return design.stated_residual.factor.levels


def _refuse_priors(fit: PosteriorResult) -> None:
    if obstacle := sampled_obstacle(fit.model.design, fit.priors):
        raise SamplingError(
            f"Coefficients cannot be integrated out ({obstacle}). conditional=True gives the "
            "leave-one-out of the conditional likelihood."
        )


def _refuse_needed(fit: PosteriorResult, unit: str, units) -> None:
    at = needed_unit(fit.model.design, fit.priors, units)
    if at is not None:
        labels = _unit_labels(fit, unit)
        what = f"row {at}" if unit == "observation" else f"{labels[at]!r} of {unit}"
        raise SamplingError(
            f"Without {what} a coefficient with a flat prior is not identified, so its "
            "leave-one-out density does not exist. Give that coefficient a proper prior."
        )


def refuse_old_theta(fit: PosteriorResult) -> None:
    """Refuse a fit whose variance parameters have not seen all of its rows.

    Raises
    ------
    SamplingError
    """
    if fit.conditioning is not None and not fit.conditioning.reweighted:
        raise SamplingError(
            f"{fit.conditioning.n_rows} rows were added to this fit with the variance parameters "
            "kept, so it is not the posterior given its rows. Use condition_on(..., "
            "reweight=True), or fit the model."
        )


def _units(fit: PosteriorResult, unit: str) -> list[np.ndarray]:
    """Rows of each unit to leave out."""
    design = fit.model.design
    if unit == "observation":
        return [np.array([i]) for i in range(design.n_rows)]
    codes = {block.name: block.codes for block in design.blocks}
    if design.residual is not None and design.residual.factor is not None:
        codes.setdefault(design.residual.factor.name, design.residual.rows.group)
    names = list(codes)
    if unit not in codes:
        raise ValueError(
            f"unit must be 'observation' or a grouping factor ({', '.join(names) or 'none'}), not "
            f"{unit!r}."
        )
    order = np.argsort(codes[unit], kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[unit][order])) + 1)


def _thinned(fit: PosteriorResult, n_units: int, draws: int | None):
    """Evenly spaced draws, as many as keep the densities in memory."""
    posterior = fit.posterior
    available, chains = posterior.sizes["draw"], posterior.sizes["chain"]
    if draws is None:
        draws = int(np.clip(_MAX_VALUES // (n_units * chains), 25, available))
    if not 1 <= draws <= available:
        raise ValueError(f"draws must be between 1 and {available} per chain, not {draws!r}.")
    if draws == available:
        return posterior
    at = np.linspace(0, available - 1, draws).astype(int)
    return posterior.isel(draw=at).assign_coords(draw=np.arange(draws))


def _refitted(fit: PosteriorResult, units, k_hat: np.ndarray, progressbar: bool) -> Refits:
    """Exact densities of the units with high k-hat.

    p(y_u | y_-u) is the mean of p(y_u | y_-u, theta) over the posterior without the unit, drawn
    by importance sampling; the priors stay those of the fit.
    """
    threshold = refit_above(fit.model.design.n_rows)
    bad = np.flatnonzero(~(k_hat <= threshold))
    if not len(bad) or marginal_obstacle(fit.model.design, fit.priors):
        return Refits()
    whole = marginal_density(fit.model.design, fit.priors, fit.model.problem)
    done = []
    with single_threaded_blas():
        for u in progress(bad, "Exact refits", show=progressbar):
            reduced, sample = draws_without(fit, units[u], int(u))
            gain = whole.values(sample.x) - reduced.values(sample.x)
            finite = np.isfinite(gain)
            if sample.k_hat > K_HAT or not finite.any():
                continue
            gain, weights = gain[finite], sample.log_weights[finite]
            value = np.logaddexp.reduce(gain + weights)
            error = float(np.linalg.norm(influences(weights, gain)))
            done.append((u, value, sample.k_hat, sample.effective_draws, error))
    return Refits(*zip(*done, strict=True)) if done else Refits()


def draws_without(fit: PosteriorResult, rows: np.ndarray, number: int):
    """The density of theta without some rows, and importance draws from it.

    Parameters
    ----------
    rows : ndarray of int
        Rows left out.
    number : int
        Seeds the draws.
    """
    from bayeslmm.bayes.importance import importance_sample
    from bayeslmm.bayes.mode import find_mode

    whole = marginal_density(fit.model.design, fit.priors, fit.model.problem)
    # in the same coordinates
    reduced = whole.with_model(without_rows(fit.model, rows), whole.fixed)
    rng = np.random.default_rng([number, 7])
    return reduced, importance_sample(reduced, find_mode(reduced), 4000, rng)


def _effective_parameters(fit: PosteriorResult, posterior, result) -> float:
    """Log score of the data the model has seen minus that of data left out.

    In blocks of draws: the conditional densities of all rows are summed, not kept.
    """
    if correlated(fit.model.design):
        return float("nan")  # rows have no conditional likelihood one by one
    n_draws = posterior.sizes["draw"]
    block = max(1, int(5e6 // (fit.model.design.n_rows * posterior.sizes["chain"])))
    parts = []
    for start in range(0, n_draws, block):
        piece = posterior.isel(draw=slice(start, start + block))
        values = log_likelihood(fit.model.design, fit.names, piece)[fit.names.response]
        flat = values.to_numpy().reshape(-1, fit.model.design.n_rows)
        parts.append(np.logaddexp.reduce(flat, axis=0))
    total = np.logaddexp.reduce(parts, axis=0)
    seen = float((total - np.log(n_draws * posterior.sizes["chain"])).sum())
    return seen - float(result.elpd)


def _quiet(run):
    """Without ArviZ's warning on k-hat: what it asks for is done next, or shown in the result."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return run()
        except ValueError as err:
            if "tail values" not in str(err) and "n_draws_tail" not in str(err):
                raise
            raise SamplingError(
                "Too few different draws for leave-one-out: the largest importance weights are "
                "all equal. Ask for more draws."
            ) from None
