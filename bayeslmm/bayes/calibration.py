"""Simulation-based calibration: does the sampler recover what the priors put in?

Parameters are drawn from the priors, a response from the model, and the posterior of that response
sampled; over many such simulations the rank of the true value among posterior draws is uniform if
and only if the computation is right (Talts, Betancourt, Simpson, Vehtari & Gelman 2018,
arXiv:1804.06788). Priors, X, Z and weights are frozen: the default priors depend on the response,
and rescaling them to each simulated one would make ranks of a correct program non-uniform.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.assembly import system_of
from bayeslmm.bayes.choice import METHODS
from bayeslmm.bayes.coefficients import coefficient_priors
from bayeslmm.bayes.importance import MAX_K_HAT, importance_sample
from bayeslmm.bayes.laplace_posterior import samples_effects, whitened_obstacle
from bayeslmm.bayes.marginal import (
    MarginalDensity,
    marginal_density,
    marginal_obstacle,
    modeled_obstacle,
)
from bayeslmm.bayes.marginal_fitting import sample_covariances
from bayeslmm.bayes.mode import MODE_EVALUATIONS, find_mode
from bayeslmm.bayes.nuts import DRAW_EVALUATIONS
from bayeslmm.bayes.response_calibration import ResponseSimulator
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.compiling import expect
from bayeslmm.errors import PriorError, SamplingError
from bayeslmm.formula.components import component_map, residual_component_names
from bayeslmm.gaussian import draw_levels, single_threaded_blas
from bayeslmm.gaussian.system import Theta
from bayeslmm.parts.scales import draw_scales, unconstrain
from bayeslmm.priors.parameters import component_names
from bayeslmm.progress import progress

if TYPE_CHECKING:
    from bayeslmm.protocols import Model

__all__ = ["Calibration", "sbc"]

#: Posterior draws made per draw kept: neighbors in a chain are correlated, ranks must not be.
_THIN = 8
_TUNE = 150
_PROPOSALS = 2000


@dataclass(frozen=True)
class Calibration:
    """Ranks of the true values among posterior draws, over simulations.

    Attributes
    ----------
    ranks : pandas.DataFrame
        One row per simulation, one column per parameter: number of the ``n_draws`` posterior
        draws below the true value, 0 to ``n_draws``.
    truth : pandas.DataFrame
        The values drawn from the priors.
    n_draws : int
        Posterior draws each truth is ranked among.
    method : str
    fallbacks : int
        Simulations that importance sampling refused and NUTS did.
    """

    ranks: pd.DataFrame
    truth: pd.DataFrame
    n_draws: int
    method: str
    fallbacks: int

    def uniformity(self, bins: int | None = None) -> pd.DataFrame:
        """Chi-square test of uniform ranks per parameter.

        Parameters
        ----------
        bins : int, optional
            By default 20, fewer where a bin would expect fewer than 10 simulations.

        Returns
        -------
        pandas.DataFrame
            Columns ``chi2 df p``.
        """
        from scipy import stats

        n = len(self.ranks)
        if bins is None:
            bins = max(2, min(20, n // 10))
        edges = np.linspace(0, self.n_draws + 1, bins + 1).round()
        expected = n * np.diff(edges) / (self.n_draws + 1)
        rows = {}
        for name, ranks in self.ranks.items():
            counts = np.histogram(ranks, edges - 0.5)[0]
            chi2 = float(((counts - expected) ** 2 / expected).sum())
            rows[name] = (chi2, bins - 1, float(stats.chi2.sf(chi2, bins - 1)))
        return pd.DataFrame.from_dict(rows, orient="index", columns=["chi2", "df", "p"])

    def coverage(self, levels: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)) -> pd.DataFrame:
        """Share of simulations whose central interval covers the truth, per parameter and level.

        The columns are the levels; a right program is within about ``2 sqrt(level (1 - level) /
        n_sims)`` of each.
        """
        # a uniform position within its rank is uniform: a rank counts by its share inside
        low = self.ranks.to_numpy() / (self.n_draws + 1)
        width = 1.0 / (self.n_draws + 1)
        table = {}
        for level in levels:
            inside = np.minimum(low + width, 0.5 + level / 2) - np.maximum(low, 0.5 - level / 2)
            table[level] = (np.clip(inside, 0.0, width) / width).mean(axis=0)
        return pd.DataFrame(table, index=self.ranks.columns)

    def plot(self, **options: Any):
        """Rank plots (ArviZ's ECDF differences), one panel per parameter.

        Returns
        -------
        arviz_plots.PlotCollection
        """
        import arviz as az
        import xarray as xr

        u = (self.ranks + 0.5) / (self.n_draws + 1)
        panels = {name: (("chain", "draw"), u[name].to_numpy()[None]) for name in u}
        tree = xr.DataTree.from_dict({"prior_sbc": xr.Dataset(panels)})
        return az.plot_ecdf_pit(tree, group="prior_sbc", **options)

    def __repr__(self) -> str:
        table = self.uniformity().join(self.coverage((0.5, 0.9)).add_prefix("coverage "))
        head = (
            f"Simulation-based calibration: {len(self.ranks)} simulations, ranks among "
            f"{self.n_draws} draws, {self.method}"
        )
        if self.method == "importance":
            head += f" ({self.fallbacks} by NUTS after a refusal)"
        return f"{head}\n{table.round(3).to_string()}"


def sbc(
    model: Model,
    n_sims: int = 200,
    *,
    method: str = "nuts",
    n_draws: int = 99,
    cores: int | None = None,
    random_seed: int | None = None,
    progressbar: bool = True,
) -> Calibration:
    """Check a model's posterior computation by simulation from its priors.

    Parameters
    ----------
    model : Model
        Its rows, covariates, weights and *current* priors are used, its response is not.
    n_sims : int
        Simulated data sets; 500 or more for a sharp test.
    method : {"nuts", "importance"}
        The NUTS of :meth:`bayeslmm.LMM.fit`, or importance sampling with NUTS where its
        k-hat is above 0.7.
    n_draws : int
        Posterior draws, thinned, each true value is ranked among.
    cores : int, optional
        Simulations run side by side; results do not depend on it.
    random_seed : int, optional
    progressbar : bool

    Returns
    -------
    Calibration

    Raises
    ------
    PriorError
        If a prior is flat, or not one the marginal posterior knows.
    SamplingError
        If a simulation cannot be fitted.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari and Gelman (2018), theorem 1;
    https://arxiv.org/abs/1804.06788

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff"))
    >>> blm.sbc(model, 20, random_seed=1, progressbar=False).ranks.columns.tolist()
    ['Intercept', 'sd(Intercept | Batch)', 'sigma']
    """
    _check(model, n_sims, method, n_draws)
    seeds = np.random.SeedSequence(random_seed).spawn(n_sims)
    workers = cores or os.cpu_count() or 1
    simulator: _Simulator | ResponseSimulator
    steady: AbstractContextManager
    if not samples_effects(model.design, model.priors):
        simulator = _Simulator.of(model, method, n_draws)
        sampling = DRAW_EVALUATIONS * (_TUNE + _THIN * n_draws) if method == "nuts" else _PROPOSALS
        ahead = n_sims * (MODE_EVALUATIONS + sampling)
        steady = simulator.density.steady(ahead, model.design, random_seed)
    else:
        expect(np.inf)  # rows are too many evaluations for Python
        simulator, steady = ResponseSimulator.of(model, method, n_draws), nullcontext()
    with single_threaded_blas(), steady, ThreadPoolExecutor(workers) as pool:
        found = pool.map(simulator.run, seeds)
        results = list(progress(found, "Calibrating", total=n_sims, show=progressbar))
    ranks = pd.DataFrame([r[0] for r in results], columns=simulator.names)
    truth = pd.DataFrame([r[1] for r in results], columns=simulator.names)
    known = [key for key, prior in model.priors.items() if prior.name == "Fixed"]
    return Calibration(
        ranks.drop(columns=known),  # a known value has no rank
        truth.drop(columns=known),
        n_draws,
        method,
        sum(r[2] for r in results),
    )


@dataclass(frozen=True)
class _Simulator:
    """What stays fixed over simulations."""

    model: Model
    density: MarginalDensity
    coef_mean: np.ndarray
    coef_sd: np.ndarray
    uncenter: np.ndarray
    method: str
    n_draws: int
    names: list[str]

    @classmethod
    def of(cls, model: Model, method: str, n_draws: int) -> _Simulator:
        design = model.design
        mean, sd = coefficient_priors(design, model.priors)
        names = list(design.coef_names)
        for block in design.blocks:
            names += component_names(block)
        return cls(
            model,
            marginal_density(design, model.priors, system_of(design)),
            mean,
            sd,
            np.linalg.inv(model.priors.combinations()),
            method,
            n_draws,
            [*names, *residual_component_names(design.residual)],
        )

    def run(self, seed: np.random.SeedSequence) -> tuple[np.ndarray, np.ndarray, bool]:
        """Ranks, true values, and whether importance sampling fell back to NUTS."""
        rng = np.random.default_rng(seed)
        beta, x = self._parameters(rng)
        truth, y = self._simulated(beta, x, rng)
        density = self._density_of(y)
        draws, fell_back = self._draws(density, x, rng)
        posterior = self._posterior(density, draws, rng)
        return (posterior < truth).sum(axis=0), truth, fell_back

    def _parameters(self, rng) -> tuple[np.ndarray, np.ndarray]:
        """beta and the unconstrained covariance parameters, from the priors."""
        prior = self.density.prior
        if self.density.fixed.lifted is None:
            beta = self.uncenter @ rng.normal(self.coef_mean, self.coef_sd)
        at = unconstrain(prior.scales, draw_scales(prior.scales, 1, rng)[0])
        u = np.arctanh(2 * rng.beta(prior.exponent, prior.exponent) - 1)
        own = prior.coefficients.scales
        more = unconstrain(own, draw_scales(own, 1, rng)[0])
        x = np.concatenate([at, u, more])
        if self.density.fixed.lifted is not None:
            beta = self.density.fixed_at(x[None])(0).draw(rng)
        return beta, x

    def _simulated(self, beta, x, rng) -> tuple[np.ndarray, np.ndarray]:
        """True values in the order of the names, and y - offset of a simulated data set."""
        design, system = self.model.design, self.density.system
        sd, F, eta, c = self.density.constrained(x)
        y = design.X @ beta
        for block, L in zip(design.blocks, system.split(F[0]), strict=True):
            b = draw_levels(block.relationship, block.n_levels, L, rng)
            y = y + (block.Z * b[block.codes]).sum(axis=1)
        root = system.residual_root(Theta(F[0], eta[0], c[0]))
        y = y + root(rng.standard_normal(design.n_rows), inverse=False)
        return self._named(beta[None], sd, F, eta, c)[0], y

    def _density_of(self, y: np.ndarray) -> MarginalDensity:
        """The density for another response: symbolic analysis and priors are kept."""
        system = self.density.system.with_response(y, self.model.design.X)
        return replace(self.density, system=system)

    def _posterior(self, density: MarginalDensity, draws, rng) -> np.ndarray:
        """Draws of all parameters in the order of the names."""
        sd, F, eta, c = density.computed(draws)
        normals = rng.standard_normal((self.n_draws, density.system.n_normals))
        beta = density.given(draws).draw(slice(0, self.n_draws), normals)[0]
        sd, F = density.maps.flat_to_formula(sd, F, density.system.split)
        return self._named(beta, sd, F, eta, c)

    def _draws(self, density: MarginalDensity, truth, rng) -> tuple[np.ndarray, bool]:
        """n_draws of the covariance parameters, independent for all practical purposes."""
        mode = find_mode(density, (0.5,), first=truth)
        fell_back = False
        if self.method == "importance":
            sample = importance_sample(density, mode, _PROPOSALS, rng)
            if sample.k_hat <= MAX_K_HAT:
                return sample.x[sample.resample(self.n_draws, rng)], False
            fell_back = True
        sampled = sample_covariances(
            density,
            mode,
            Sampling(
                draws=self.n_draws * _THIN,
                tune=_TUNE,
                chains=1,
                cores=1,
                random_seed=int(rng.integers(2**31)),
            ),
            draw_rest=False,
        )
        return sampled.x[0, ::_THIN], fell_back

    def _named(self, beta, sd, F, eta, c) -> np.ndarray:
        """Columns in the order of the names, from (n, ...) arrays."""
        design, columns, start = self.model.design, [beta], 0
        for block, L in zip(design.blocks, self.density.system.split(F), strict=True):
            q = block.n_effects
            part = sd[:, start : start + q]
            columns.append(part)
            unit = L / part[:, :, None]
            pairs = block.correlated_pairs()
            if pairs:
                R = unit @ unit.transpose(0, 2, 1)
                columns.append(np.stack([R[:, i, j] for i, j in pairs], axis=1))
            start += q
        return np.concatenate([*columns, component_map(design.residual, eta, c)], axis=1)


def _check(model: Model, n_sims: int, method: str, n_draws: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, not {method!r}.")
    for name, value, least in (("n_sims", n_sims, 1), ("n_draws", n_draws, 9)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SamplingError(
                f"{name} must be a whole number of at least {least}, not {value!r}."
            )
    improper = [key for key, prior in model.priors.items() if not prior.is_proper]
    if improper:
        raise PriorError(
            f"Nothing can be simulated from the flat prior of {improper[0]}. Give it a proper "
            'prior, such as blm.Prior("Normal", mu=0, sigma=...).'
        )
    if obstacle := modeled_obstacle(model.design):
        raise PriorError(f"Calibration draws responses anew, and no covariates: {obstacle}.")
    if samples_effects(model.design, model.priors):
        if obstacle := whitened_obstacle(model.design, model.priors):
            raise PriorError(f"Calibration samples the compiled joint density, but {obstacle}.")
    elif obstacle := marginal_obstacle(model.design, model.priors):
        raise PriorError(f"Calibration samples the marginal posterior, but {obstacle}.")
