"""Leave-one-out probability integral transform, coefficients and effects integrated out.

PIT_i = P(y <= y_i | y_-i): given theta the predictive of a left-out row is normal in closed form,
so the transform is a weighted mean of normal distribution functions, with the Pareto-smoothed
weights of leave-one-out (Gelfand, Dey and Chang 1992; Vehtari, Gelman and Gabry 2017). Rows whose
k-hat is above 0.7 are refitted. For a response that is not Gaussian it is a mean of distribution
functions with the effects of one factor integrated out by quadrature, and for a discrete one a
uniform number between P(y < y_i) and P(y <= y_i) (Czado, Gneiting and Held 2009, Biometrics 65(4)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from bayeslmm.bayes.laplace_posterior import whitened_obstacle
from bayeslmm.bayes.marginal import marginal_obstacle
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.gaussian.system import Theta
from bayeslmm.progress import progress
from bayeslmm.results.estimates import posterior_estimates
from bayeslmm.results.left_out import normal_log_density, row_predictives
from bayeslmm.results.loo import (
    _refuse_priors,
    _thinned,
    draws_without,
    given_priors,
    refuse_old_theta,
)
from bayeslmm.results.loo_result import K_HAT, refit_above
from bayeslmm.results.response_left_out import (
    LeavingOut,
    by_quadrature,
    integrated_factor,
    posterior_without,
)
from bayeslmm.results.smoothing import smoothed_weights
from bayeslmm.results.support import refuse_unless_derived

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import PosteriorResult

__all__ = ["loo_pit"]


def loo_pit(
    fit: PosteriorResult,
    *,
    draws: int | None = None,
    exact: bool = True,
    random_seed: int | None = None,
    progressbar: bool = True,
) -> xr.DataTree:
    """See :meth:`bayeslmm.PosteriorFit.loo_pit`."""
    import xarray as xr

    design, name = fit.model.design, fit.names.response
    if by_quadrature(fit):
        return _of_family(fit, draws, exact, random_seed, progressbar)
    refuse_unless_derived(fit.model, "LOO-PIT", related=True, residuals=True)
    refuse_old_theta(fit)
    _refuse_priors(fit)
    posterior = _thinned(fit, 2 * design.n_rows, draws)
    with single_threaded_blas():
        theta = posterior_estimates(fit, posterior).theta()
        priors = given_priors(fit, posterior)
        mean, variance = row_predictives(fit, theta, priors=priors, progressbar=progressbar)
        densities = normal_log_density(design.y, mean, variance)
        weights, k_hat = smoothed_weights(-densities.T)  # weights 1 / density
        below = ndtr((design.y - mean) / np.sqrt(variance))
        pit = (weights.T * below).sum(axis=0)
        if exact and not marginal_obstacle(design, fit.priors):
            bad = np.flatnonzero(~(k_hat <= refit_above(design.n_rows)))
            for i in progress(bad, "Exact refits", show=progressbar):
                pit[i] = _refitted(fit, int(i), float(pit[i]))
    rng = np.random.default_rng(random_seed)
    new = mean + np.sqrt(variance) * rng.standard_normal(mean.shape)
    shape = (posterior.sizes["chain"], posterior.sizes["draw"], design.n_rows)
    dims, obs = ("chain", "draw", "obs"), {"obs": np.arange(design.n_rows)}
    coords = {"chain": posterior["chain"], "draw": posterior["draw"], **obs}

    def per_draw(values: np.ndarray) -> xr.Dataset:
        return xr.Dataset({name: (dims, values.reshape(shape))}, coords)

    return xr.DataTree.from_dict(
        {
            "posterior": posterior,
            "observed_data": xr.Dataset({name: (("obs",), design.y)}, obs),
            "posterior_predictive": per_draw(new),
            "log_likelihood": per_draw(densities),
            "loo_pit": xr.Dataset({name: (("obs",), np.clip(pit, 0.0, 1.0))}, obs),
        }
    )


def _of_family(
    fit: PosteriorResult,
    draws: int | None,
    exact: bool,
    random_seed: int | None,
    progressbar: bool,
) -> xr.DataTree:
    """LOO-PIT where effects are integrated out by quadrature."""
    import xarray as xr

    design, name = fit.model.design, fit.names.response
    posterior = _thinned(fit, 3 * design.n_rows, draws)
    leaving = LeavingOut.of(fit, integrated_factor(fit))
    found = leaving.by_rows(posterior, distribution=True, progressbar=progressbar)
    weights, k_hat = smoothed_weights(-found.log_density.T)
    ends = np.stack([(weights.T * part).sum(axis=0) for part in (found.lower, found.upper)])
    if exact and not whitened_obstacle(design, fit.priors):
        bad = np.flatnonzero(~(k_hat <= K_HAT))
        for i in progress(bad, "Exact refits", show=progressbar):
            without = posterior_without(fit, np.array([i]), int(i))[0]
            row = leaving.only(np.array([i])).by_rows(without, distribution=True)
            ends[:, i] = row.lower[:, i].mean(), row.upper[:, i].mean()
    lower, upper = np.clip(ends, 0.0, 1.0)
    rng = np.random.default_rng(random_seed)
    pit = lower + (upper - lower) * rng.random(design.n_rows)
    obs = {"obs": np.arange(design.n_rows)}
    return xr.DataTree.from_dict(
        {
            "observed_data": xr.Dataset({name: (("obs",), design.y)}, obs),
            "loo_pit": xr.Dataset({name: (("obs",), pit)}, obs),
            "loo_pit_lower": xr.Dataset({name: (("obs",), lower)}, obs),
            "loo_pit_upper": xr.Dataset({name: (("obs",), upper)}, obs),
        }
    )


def _refitted(fit: PosteriorResult, row: int, smoothed: float) -> float:
    """PIT of one row under the posterior without it; the smoothed one where that fails."""
    reduced, sample = draws_without(fit, np.array([row]), row)
    if sample.k_hat > K_HAT:
        return smoothed
    theta = Theta(*reduced.natural(sample.x))
    priors = reduced.fixed_at(sample.x)
    mean, variance = row_predictives(fit, theta, [row], priors=priors)
    below = ndtr((fit.model.design.y[row] - mean[:, 0]) / np.sqrt(variance[:, 0]))
    weights = np.exp(sample.log_weights)
    return float((weights * below).sum() / weights.sum())
