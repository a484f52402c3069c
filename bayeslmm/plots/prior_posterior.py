"""Prior densities over posterior draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.draws import coefficient_draws, component_draws, prior_covariance_draws
from bayeslmm.parts.parameters import Parameter, coef_key, pair_key, sd_key
from bayeslmm.parts.prior import SHRINKAGE, Prior
from bayeslmm.plots.estimates import pick
from bayeslmm.plots.style import GROUP, PRIOR, grid_of_axes

if TYPE_CHECKING:
    from bayeslmm.protocols import PosteriorResult

__all__ = ["parameter_draws", "plot_prior_posterior", "prior_density"]

_MOST = 16


def plot_prior_posterior(
    fit: PosteriorResult, parameters: str | list[str] | None = None, *, whole_prior: bool = False
) -> np.ndarray:
    """Posterior draws as histograms with the density of the prior over them.

    The prior of ``Intercept`` is on the intercept at the predictors' means, so that is what its
    panel shows; likewise other defaults are shown for what they are about (see
    :class:`bayeslmm.priors.table.Priors`), as the title says. A correlation's is
    its margin under the LKJ prior (Lewandowski, Kurowicka and Joe 2009, J. Multivariate Analysis
    100: a Beta on (-1, 1)). A flat prior has no line.

    Parameters
    ----------
    fit : PosteriorResult
    parameters : str or list of str, optional
        Rows of ``fit.summary()``; by default all, up to 16.
    whole_prior : bool
        Make room for the prior (its central 90 %) instead of the posterior alone.

    Returns
    -------
    ndarray of Axes
        One per parameter.

    Raises
    ------
    PlotError
        If there is no such parameter.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff"))
    >>> post = model.fit(random_seed=1, progressbar=False)
    >>> [ax.get_title() for ax in post.plot_prior_posterior("sigma")]
    ['sigma']
    """
    draws, moved = _prior_draws(fit)
    priors = parameter_priors(fit)
    names = [name for name in draws if name in priors]
    chosen = names[:_MOST] if parameters is None else pick("parameter", parameters, names)
    axes = grid_of_axes(len(chosen), columns=3, panel=(3.1, 2.4))
    for ax, name in zip(axes, chosen, strict=True):
        values, (prior, parameter, dimension) = draws[name].ravel(), priors[name]
        grid = _range(values, prior, parameter, whole_prior)
        bins = int(np.clip(np.sqrt(len(values)), 10, 40))
        ax.hist(values, bins=bins, density=True, color=GROUP, alpha=0.55, label="posterior")
        density = prior_density(prior, grid, dimension)
        if density is None:
            ax.plot([], [], color=PRIOR, linewidth=2, label="prior")
            ax.set_xlabel(f"prior: {prior.name.lower()}", fontsize="small")
        else:
            ax.plot(grid, density, color=PRIOR, linewidth=2, label="prior")
            ax.set_xlabel(f"prior: {prior!r}", fontsize="small")
        ax.set_xlim(grid[0], grid[-1])
        ax.set_yticks([])
        ax.tick_params(labelsize="small")
        ax.locator_params(axis="x", nbins=5)
        ax.set_title(_title(fit, name, moved), fontsize="small")
    figure = axes[0].get_figure()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small"
    )
    return axes


def parameter_draws(fit: PosteriorResult) -> dict[str, np.ndarray]:
    """Draws (chains, draws) of coefficients and variance components by their names."""
    design, posterior = fit.model.design, fit.posterior
    coefs, beta = coefficient_draws(design, posterior)
    components, values = component_draws(design, fit.names, posterior)
    named = {coef_key(name): beta[..., j] for j, name in enumerate(coefs)}
    return named | {name: values[..., j] for j, name in enumerate(components)}


def _prior_draws(fit: PosteriorResult) -> tuple[dict[str, np.ndarray], set[str]]:
    """As :func:`parameter_draws`, of what each prior is about; and which differ by that."""
    draws, design, priors = parameter_draws(fit), fit.model.design, fit.priors
    found = {}
    beta = coefficient_draws(design, fit.posterior)[1]
    for name, row in zip(design.coef_names, priors.combinations(), strict=True):
        if np.count_nonzero(row) > 1:
            found[coef_key(name)] = beta @ row
    Sigmas = prior_covariance_draws(design, fit.names, fit.posterior, priors)
    for block, K, S in zip(design.blocks, priors.effect_maps().matrices, Sigmas, strict=True):
        if K is None:
            continue
        sd = np.sqrt(np.diagonal(S, axis1=-2, axis2=-1))
        for i in np.flatnonzero((np.eye(len(K)) != K).any(axis=1)):
            found[sd_key(block.effects[i], block.name)] = sd[..., i]
        for i, j in block.correlated_pairs():
            name = pair_key(block.effects[i], block.effects[j], block.name)
            found[name] = S[..., i, j] / (sd[..., i] * sd[..., j])
    return draws | found, set(found)


def _title(fit: PosteriorResult, name: str, moved: set[str]) -> str:
    if name not in moved:
        return name
    if name == "Intercept":
        return "Intercept at the predictors' means"
    if fit.priors.components()[name][0].kind in ("sd", "corr"):
        return f"{name}, at the covariates' means"
    return f"{name}, later columns adjusted"


def parameter_priors(fit: PosteriorResult) -> dict[str, tuple[Prior, Parameter, int]]:
    """Prior and parameter of each number and, for a correlation, the size of its matrix."""
    found = {
        name: (fit.priors[parameter.key], parameter, component.size)
        for name, (parameter, component) in fit.priors.components().items()
    }
    # a known value has no density, before or after the data
    return {name: known for name, known in found.items() if known[0].name != "Fixed"}


def prior_density(prior: Prior, grid: np.ndarray, dimension: int = 0) -> np.ndarray | None:
    """Density of a prior.

    Parameters
    ----------
    prior : Prior
    grid : ndarray, shape (m,)
        Where.
    dimension : int
        For an LKJ prior, the size q of the correlation matrix: one correlation r then has
        (r + 1) / 2 ~ Beta(a, a) with a = eta + q / 2 - 1.

    Returns
    -------
    ndarray of shape (m,), or None for a flat prior and for one of several coefficients together

    Examples
    --------
    >>> import bayeslmm as blm
    >>> prior_density(blm.Prior("LKJ", eta=1), np.array([0.0, 0.5]), 2)
    array([0.5, 0.5])
    """
    if not prior.is_proper or prior.name in SHRINKAGE:
        return None
    if prior.name == "LKJ":
        from scipy.special import betaln, xlog1py

        a = prior.parameters["eta"] + dimension / 2 - 1
        u = (np.clip(grid, -1, 1) + 1) / 2
        with np.errstate(divide="ignore"):
            log_u = np.log(u) * (a - 1) if a != 1 else np.zeros_like(u)
        return np.exp(log_u + xlog1py(a - 1, -u) - betaln(a, a)) / 2
    pm, distribution = _in_pymc(prior)
    # the quick compilation: one evaluation does not repay the thorough one
    return np.exp(pm.logp(distribution, grid).eval(mode="FAST_COMPILE"))


def _in_pymc(prior: Prior):
    """PyMC, and the prior as its distribution."""
    from bayeslmm.bayes.sampling import quiet_pymc

    pm = quiet_pymc()
    return pm, getattr(pm, prior.name).dist(**prior.parameters)


def _range(values: np.ndarray, prior: Prior, parameter: Parameter, whole: bool) -> np.ndarray:
    """Where the density is drawn: around the posterior, or over the prior's central 90 %."""
    low, high = float(values.min()), float(values.max())
    room = 0.25 * (high - low) or 1.0
    low, high = low - room, high + room
    if whole and prior.is_proper and prior.name not in ("LKJ", *SHRINKAGE):
        pm, distribution = _in_pymc(prior)
        sample = pm.draw(distribution, 2000, random_seed=0)
        ends = np.quantile(sample, [0.05, 0.95])
        low, high = min(low, ends[0]), max(high, ends[1])
    if parameter.support[0] == 0:
        low = max(low, 0.0)
    if parameter.kind == "corr":
        low, high = -1.0, 1.0
    return np.linspace(low, high, 400)
