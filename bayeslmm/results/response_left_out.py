"""Rows and groups left out, the effects of a factor integrated by quadrature.

Of responses that are not Gaussian, and of Student-t residuals.

Given coefficients, covariances, the family's own parameters and, with several grouping factors, the
effects of the others, the groups of one factor are independent: what a row or a group adds is an
integral over the effects of that group alone (:mod:`bayeslmm.laplace.groups`), however much they
depend on it. The factor with most levels is taken, whose effects depend most on single rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from arviz_stats.base import array_stats

from bayeslmm.assembly import response_system, trials_and_weights
from bayeslmm.bayes.draws import covariance_factors
from bayeslmm.bayes.laplace_posterior import heavy_effects, whitened_obstacle
from bayeslmm.bayes.marginal import modeled_obstacle
from bayeslmm.bayes.responses import phi_draws
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.tree import linear_predictor
from bayeslmm.errors import SamplingError
from bayeslmm.laplace.groups import MOST_EFFECTS, GroupRows, ParameterDraws, RowsLeftOut
from bayeslmm.progress import progress
from bayeslmm.results.loo_result import K_HAT, Refits, influences

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import PosteriorResult

__all__ = [
    "LeavingOut",
    "by_quadrature",
    "integrated_factor",
    "posterior_without",
    "unit_obstacle",
]

#: Draws times rows that are worked on at once.
_BLOCK = 100_000


def by_quadrature(fit: PosteriorResult) -> bool:
    """Whether densities of what is left out are computed here.

    Of a linear model where its residuals are Student-t and effects can be integrated out.
    """
    design = fit.model.design
    if not design.family.gaussian:
        return True
    if "nu" not in fit.priors or whitened_obstacle(design, fit.priors):
        return False
    return integrated_factor(fit) is not None


def integrated_factor(fit: PosteriorResult) -> int | None:
    """The grouping factor whose effects are integrated out; None where none can be, as Student-t
    effects, and none beside unknown values of covariates.
    """
    design = fit.model.design
    if design.modeled or heavy_effects(design, fit.priors):
        return None
    able = [k for k, b in enumerate(design.blocks) if b.n_effects <= MOST_EFFECTS]
    return max(able, key=lambda k: design.blocks[k].n_levels, default=None)


def unit_obstacle(fit: PosteriorResult, unit: str) -> str | None:
    """Why groups of a factor cannot be left out; None where they can."""
    design = fit.model.design
    if text := modeled_obstacle(design):
        return text
    if heavy_effects(design, fit.priors):
        return "they are Student-t, and quadrature is for normal ones"
    block = design.block(unit)
    if block.n_effects > MOST_EFFECTS:
        return (
            f"{unit} has {block.n_effects} random effects, and quadrature takes at most "
            f"{MOST_EFFECTS}"
        )
    for other in design.blocks:
        pairs = np.unique(np.stack([other.codes, block.codes]), axis=1).shape[1]
        if other is not block and pairs == len(np.unique(other.codes)):
            return f"the effects of {other.name} are of single levels of {unit}"
    return None


@dataclass(frozen=True)
class LeavingOut:
    """What densities of rows and groups left out are computed by.

    Attributes
    ----------
    fit : PosteriorResult
    factor : int or None
        Whose effects are integrated out; None for densities given all of them.
    rows : GroupRows or None
    """

    fit: PosteriorResult
    factor: int | None
    rows: GroupRows | None

    @classmethod
    def of(cls, fit: PosteriorResult, factor: int | None) -> LeavingOut:
        """Of a fit."""
        if factor is None:
            return cls(fit, None, None)
        return cls(fit, factor, GroupRows.of(response_system(fit.model.design), factor))

    @property
    def conditional(self) -> bool:
        """Whether there are effects or unknown covariates, and densities are given all of them."""
        design = self.fit.model.design
        return self.factor is None and bool(design.blocks or design.modeled)

    @property
    def likelihood(self) -> str:
        """What densities are those of, in words."""
        blocks = self.fit.model.design.blocks
        if self.conditional:
            return "conditional"
        if self.factor is None or len(blocks) == 1:
            return "integrated"
        return f"integrated over {blocks[self.factor].name}"

    def densities(
        self, posterior: xr.Dataset, unit: str, *, progressbar: bool = False
    ) -> np.ndarray:
        """Log densities (m, units) of the units, each given the others and a draw."""
        if unit == "observation":
            return self.by_rows(posterior, progressbar=progressbar).log_density
        return self.by_groups(posterior, progressbar=progressbar)

    def refitted(self, unit: str, units, k_hat: np.ndarray, progressbar: bool) -> Refits:
        """Exact densities of the units with high k-hat: means over the posterior without each."""
        design = self.fit.model.design
        bad = np.flatnonzero(~(k_hat <= K_HAT))
        if not len(bad) or whitened_obstacle(design, self.fit.priors):
            return Refits()
        done = []
        for u in progress(bad, "Exact refits", show=progressbar):
            posterior, reached, effective = posterior_without(self.fit, units[u], int(u))
            own = self.only(units[u]).densities(posterior, unit)
            values = own[:, u if unit == "observation" else 0]
            influence = influences(np.zeros(len(values)), values)
            own_effective = float(array_stats.ess(_by_chain(influence, posterior), method="mean"))
            effective = float(np.nanmin([effective, own_effective, len(values)]))
            error = np.linalg.norm(influence) * np.sqrt(len(values) / effective)
            value = np.logaddexp.reduce(values) - np.log(len(values))
            done.append((u, float(value), reached, effective, float(error)))
        return Refits(*zip(*done, strict=True))

    def only(self, rows: np.ndarray) -> LeavingOut:
        """The same of the groups that rows of the data belong to."""
        if self.rows is None:
            return self
        groups = np.unique(self.rows.codes[np.isin(self.rows.order, rows)])
        return replace(self, rows=self.rows.of_groups(groups))

    def by_rows(
        self, posterior: xr.Dataset, *, distribution: bool = False, progressbar: bool = False
    ) -> RowsLeftOut:
        """Of every row, (m, n) for m draws; nan for rows of other groups after :meth:`only`."""
        if self.rows is None:
            return self._given_effects(posterior)
        n = self.fit.model.design.n_rows
        out = RowsLeftOut(
            *np.full((3, posterior.sizes["chain"] * posterior.sizes["draw"], n), np.nan)
        )
        for part, at in self._parts(posterior, "Leave-one-out", progressbar):
            found = self.rows.left_out(at, distribution=distribution)
            for whole, own in zip(out, found, strict=True):
                whole[part, self.rows.order] = own
        return out

    def by_groups(self, posterior: xr.Dataset, *, progressbar: bool = False) -> np.ndarray:
        """log p(y_g | parameters) of every group, (m, groups)."""
        assert self.rows is not None  # there is a factor to leave out
        parts = self._parts(posterior, "Leave-one-group-out", progressbar)
        return np.concatenate([self.rows.log_likelihoods(at) for _, at in parts])

    def _parts(self, posterior: xr.Dataset, title: str, progressbar: bool):
        """Slices of the draws, and what they are, of the rows in the order of their groups."""
        assert self.rows is not None
        at = self._draws(posterior)
        step = max(1, _BLOCK // len(self.rows.y))
        for start in progress(range(0, len(at.fixed), step), title, show=progressbar):
            part = slice(start, start + step)
            yield part, at.part(part, self.rows.order)

    def _draws(self, posterior: xr.Dataset) -> ParameterDraws:
        assert self.factor is not None  # there are rows of its groups
        design, names = self.fit.model.design, self.fit.names
        own = names.factors[self.factor].b
        others = posterior.assign({own: posterior[own] * 0.0})
        m = posterior.sizes["chain"] * posterior.sizes["draw"]
        return ParameterDraws(
            linear_predictor(design, names, others).reshape(m, -1),
            covariance_factors(design, names, posterior)[self.factor],
            phi_draws(design, posterior).reshape(m, -1),
        )

    def _given_effects(self, posterior: xr.Dataset) -> RowsLeftOut:
        """Densities and distribution functions given all effects."""
        design = self.fit.model.design
        m = posterior.sizes["chain"] * posterior.sizes["draw"]
        eta = linear_predictor(design, self.fit.names, posterior).reshape(m, -1)
        phi = phi_draws(design, posterior).reshape(m, 1, -1)
        trials, weights = trials_and_weights(design)
        return RowsLeftOut(
            weights * design.family.log_density(design.y, eta, phi, trials),
            design.family.cdf(design.y, eta, phi, trials),
            design.family.cdf_below(design.y, eta, phi, trials),
        )


def _by_chain(values: np.ndarray, posterior: xr.Dataset) -> np.ndarray:
    return values.reshape(posterior.sizes["chain"], -1)


def posterior_without(
    fit: PosteriorResult, rows: np.ndarray, number: int
) -> tuple[xr.Dataset, float, float]:
    """Draws of the posterior without some rows, priors as they are.

    By importance sampling where its weights can be trusted, otherwise by NUTS.

    Parameters
    ----------
    rows : ndarray of int
    number : int
        Seeds the draws.

    Returns
    -------
    posterior : xarray.Dataset
    k_hat, effective : float
        0 of chains, and independent draws of the slowest parameter.
    """
    from bayeslmm.bayes.whitened_fitting import fit_whitened, fit_whitened_importance

    design = fit.model.design
    weights = np.ones(design.n_rows) if design.weights is None else design.weights.copy()
    weights[rows] = 0.0  # of residuals an infinite scale, whose density is not asked for
    less = replace(design, weights=weights)
    asked = less, fit.priors, fit.names, lambda: None
    how: dict[str, Any] = {"parameterization": "whitened", "reason": "rows left out"}
    with np.errstate(divide="ignore", invalid="ignore"):
        try:
            sampling = Sampling(draws=1000, random_seed=number + 1)
            idata, info = fit_whitened_importance(*asked, sampling, **how)
            assert info.k_hat is not None  # of weights
            assert info.effective_draws is not None
            return idata["posterior"].to_dataset(), info.k_hat, info.effective_draws
        except SamplingError:  # weights that cannot be trusted
            idata, _ = fit_whitened(*asked, Sampling(draws=250, random_seed=number + 1), **how)
            return idata["posterior"].to_dataset(), 0.0, np.nan
