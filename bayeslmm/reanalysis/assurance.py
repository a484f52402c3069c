"""How many groups? Power, and assurance: the probability of success before the study is done.

Assurance (O'Hagan, Stevens and Campbell 2005, Pharmaceutical Statistics 4(3)) averages power over
a prior on the effect. Responses are simulated, each is fitted by REML and by its posterior, and
successes are counted. The priors of the analysis are frozen: the default ones depend on the
response and would move with every simulated one.

A shift of the effect moves its REML estimate and nothing else, and its integrated likelihood as a
whole, so that one simulated study serves a drawn and a fixed effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from bayeslmm.bayes.importance import MAX_K_HAT
from bayeslmm.bayes.marginal import MarginalDensity, marginal_density, marginal_obstacle
from bayeslmm.errors import DataError, PriorError, listed
from bayeslmm.gaussian import (
    CrossProducts,
    Solution,
    aliased_columns,
    combination_moments,
    prepare,
    single_threaded_blas,
    solve,
    with_prior,
)
from bayeslmm.likelihood.optimize import can_search, optimize
from bayeslmm.likelihood.refits import MANY, ManyResponses
from bayeslmm.likelihood.satterthwaite import satterthwaite_df, variance_curvature
from bayeslmm.parts.parameters import coef_key, pair_key, sd_key
from bayeslmm.parts.patterns import lower_factor
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.scales import unconstrain
from bayeslmm.progress import progress
from bayeslmm.protocols import is_posterior
from bayeslmm.reanalysis.designs import Rows, resize
from bayeslmm.reanalysis.effects import Effect, split_effect
from bayeslmm.reanalysis.integrated import EffectLikelihood
from bayeslmm.reanalysis.posteriors import _distribution, normal_parameters, posterior_under
from bayeslmm.reanalysis.theta import draw_theta
from bayeslmm.results.printing import returns_table

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, Model, PosteriorResult

__all__ = ["Assurance", "assurance"]


@dataclass(frozen=True)
class Assurance:
    """Probabilities of success by the number of groups.

    Attributes
    ----------
    table : pandas.DataFrame
        Indexed by the number of groups; ``n_rows``; ``power`` and ``assurance`` of the REML test,
        ``power_posterior`` and ``assurance_posterior`` of the posterior criterion; ``width`` and
        ``width_posterior``, mean widths of the intervals at the fixed effect; ``mc_error``, the
        largest Monte Carlo standard error of the four probabilities.
    effect, factor : str
    effect_prior, analysis_prior : Prior
    design_value : float
        The fixed effect that power is for.
    alpha, threshold : float
    n_sims : int
    refits : int
        Posteriors that had to be sampled again under the analysis prior.
    random_seed : int
    """

    table: pd.DataFrame
    effect: str
    factor: str
    effect_prior: Prior
    analysis_prior: Prior
    design_value: float
    alpha: float
    threshold: float
    n_sims: int
    refits: int
    random_seed: int

    def plot(self, ax=None):
        """Curves against the number of groups.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
        """
        from bayeslmm.reanalysis.figures import assurance_curves

        return assurance_curves(self, ax)

    def describe(self) -> str:
        """The table and what success means, in words."""
        lines = [
            f"{self.effect}: {self.n_sims} simulated studies for each number of groups "
            f"({self.factor})",
            f"Success: REML test significant at {self.alpha:g} in the direction of benefit; "
            f"posterior P(benefit) at least {self.threshold:g}",
            f"Power at an effect of {self.design_value:.4g}; assurance over {self.effect_prior!r}; "
            f"analyzed with {self.analysis_prior!r}",
            "",
            self.table.round(4).to_string(),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


def assurance(
    model: Model | LikelihoodResult | PosteriorResult,
    effect,
    effect_prior: Prior | float,
    n_groups,
    *,
    factor: str | None = None,
    n_sims: int = 500,
    design_value: float | None = None,
    analysis_prior: Prior | None = None,
    alpha: float = 0.05,
    threshold: float = 0.975,
    direction: str = "higher is better",
    parameters: Mapping[str, float] | None = None,
    draws: int = 1000,
    cores: int | None = None,
    random_seed: int | None = None,
    progressbar: bool = True,
) -> Assurance:
    """Power and assurance of a study like this one, by simulation.

    Parameters
    ----------
    model : Model, LikelihoodFit or PosteriorFit
        Its rows are the template of the design. Parameters other than the effect are the REML
        estimates; those of the fit; or, of a posterior fit, drawn anew for every study. A design
        without data can have any response if `parameters` gives all that matters.
    effect : str, dict or array
        A coefficient or a contrast.
    effect_prior : Prior or float
        What the effect may be; a number is an effect known exactly.
    n_groups : sequence of int
        Numbers of groups to try.
    factor : str, optional
        Grouping factor whose number of levels changes; may be left out if there is only one.
    n_sims : int
        Studies simulated for each number of groups.
    design_value : float, optional
        Effect for which power is computed; by default the mean of `effect_prior`.
    analysis_prior : Prior, optional
        On the effect in the analysis; by default the model's. All other priors are the model's,
        frozen.
    alpha : float
        Two-sided level of the REML test (Satterthwaite); intervals have level 1 - alpha.
    threshold : float
        Posterior probability of benefit that counts as success.
    direction : {"higher is better", "lower is better"}
    parameters : dict, optional
        Values of coefficients or components by name, such as ``{"sigma": 20}``.
    draws : int
        Draws of the covariance parameters for each posterior.
    cores : int, optional
        Studies done side by side; results do not depend on it.
    random_seed : int, optional
    progressbar : bool

    Returns
    -------
    Assurance

    Raises
    ------
    ValueError
        If an option, the effect or a parameter does not exist.
    PriorError
        If the effect's prior is improper, or the model's priors are not those of the marginal
        posterior.
    DataError
        If a design cannot estimate the effect.

    References
    ----------
    O'Hagan, Stevens and Campbell (2005), Pharmaceutical Statistics 4(3);
    https://doi.org/10.1002/pst.175

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", blm.load_dataset("sleepstudy"))
    >>> result = blm.assurance(
    ...     model, "Days", blm.Prior("Normal", mu=5, sigma=2), [6, 12], n_sims=10, draws=400,
    ...     random_seed=1, progressbar=False,
    ... )
    >>> result.table.index.tolist()
    [6, 12]
    """
    from bayeslmm.bayes.streams import seed_of

    plan = _Plan.of(
        model, effect, effect_prior, factor, design_value, analysis_prior, alpha, threshold,
        direction, parameters, draws,
    )  # fmt: skip
    sizes = _sizes(n_groups)
    _check_count("n_sims", n_sims, 2)
    seed = seed_of(random_seed)
    workers = cores or os.cpu_count() or 1
    studies = [plan.study(size) for size in sizes]
    jobs = (
        (study, *job)
        for at, study in enumerate(studies)
        for job in study.jobs(np.random.SeedSequence([seed, at, sim]) for sim in range(n_sims))
    )
    total = n_sims * len(studies)
    with single_threaded_blas(), ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda job: job[0].run(*job[1:]), jobs)
        results = np.array(
            list(progress(done, "Simulating studies", total=total, show=progressbar))
        )
    results = results.reshape(len(sizes), n_sims, -1)
    return Assurance(
        _summary(sizes, studies, results),
        plan.effect.label,
        plan.factor,
        plan.effect_prior,
        plan.analysis_prior,
        plan.design_value,
        float(alpha),
        float(threshold),
        n_sims,
        int(results[:, :, 6].sum()),
        seed,
    )


@returns_table
def _summary(sizes, studies, results: np.ndarray) -> pd.DataFrame:
    share = results.mean(axis=1)
    n = results.shape[1]
    table = pd.DataFrame(
        {
            "n_rows": [study.rows.n for study in studies],
            "power": share[:, 0],
            "assurance": share[:, 1],
            "power_posterior": share[:, 2],
            "assurance_posterior": share[:, 3],
            "width": share[:, 4],
            "width_posterior": share[:, 5],
        },
        index=pd.Index(sizes, name="n_groups"),
    )
    errors = np.sqrt(share[:, :4] * (1 - share[:, :4]) / n)
    table["mc_error"] = errors.max(axis=1)
    return table


@dataclass(frozen=True)
class _Plan:
    """What does not change with the number of groups."""

    model: Model
    effect: Effect
    factor: str
    effect_prior: Prior
    analysis_prior: Prior
    design_value: float
    alpha: float
    threshold: float
    sign: int
    truths: list[tuple[np.ndarray, list[np.ndarray], float]]
    density: MarginalDensity
    draws: int

    @classmethod
    def of(
        cls, model, effect, effect_prior, factor, design_value, analysis_prior, alpha, threshold,
        direction, parameters, draws,
    ) -> _Plan:  # fmt: skip
        from bayeslmm.results.identification import sigma_is_known
        from bayeslmm.results.support import refuse_unless_derived
        from bayeslmm.results.tables import check_level

        check_level(alpha)
        check_level(threshold)
        _check_count("draws", draws, 200)
        if direction not in ("lower is better", "higher is better"):
            raise ValueError(
                f'direction must be "lower is better" or "higher is better", not {direction!r}.'
            )
        base = getattr(model, "model", model)
        refuse_unless_derived(base, "Assurance")
        if sigma_is_known(base):
            raise DataError(
                "Assurance is not available where sigma or standard errors are known: its analyses "
                "estimate sigma. Simulate with simulate() and fit the model by refit()."
            )
        priors = model.priors if hasattr(model, "priors") else base.priors
        split = split_effect(base.design, priors, effect)
        if not isinstance(effect_prior, Prior):
            value = float(effect_prior)
            effect_prior = Prior("Normal", mu=value, sigma=1e-9 * max(abs(value), 1.0))
        if not effect_prior.is_proper:
            raise PriorError("Nothing can be simulated from a flat effect_prior.")
        trial = priors.copy()
        if np.count_nonzero(split.row) == 1:
            trial[coef_key(base.design.coef_names[int(np.argmax(split.row != 0))])] = Prior("Flat")
        if obstacle := marginal_obstacle(base.design, trial):
            raise PriorError(f"The marginal posterior is not available: {obstacle}.")
        if design_value is None:
            design_value = float(_distribution(effect_prior).mean())
            if not np.isfinite(design_value):
                raise ValueError("This effect_prior has no mean: give design_value.")
        return cls(
            base,
            split,
            _factor(base, factor),
            effect_prior,
            _analysis_prior(split, analysis_prior),
            float(design_value),
            float(alpha),
            float(threshold),
            1 if direction == "higher is better" else -1,
            _truths(model, base, split, parameters),
            marginal_density(base.design, trial, base.problem),
            draws,
        )

    def study(self, n_levels: int) -> _Study:
        rows = resize(self.model.design, self.factor, n_levels, self.effect.row)
        if len(bad := aliased_columns(rows.X)) and set(bad) - set(self._aliased):
            names = listed(self.model.design.coef_names[j] for j in bad)
            raise DataError(
                f"With {n_levels} groups {names} cannot be estimated: ask for more groups."
            )
        if len(bad):
            raise DataError("The model matrix has aliased columns: leave them out of the formula.")
        total = sum(f.n_levels * f.Z.shape[1] for f in rows.factors)
        if any(f.n_levels * f.Z.shape[1] >= rows.n for f in rows.factors) or total == 0:
            raise DataError("There are as many random effects as rows in such a study.")
        products = CrossProducts.from_rows(
            np.zeros(rows.n), rows.X, rows.factors, weights=rows.weights
        )
        return _Study(self, rows, prepare(products, self.density.system.patterns).symbolic)

    @cached_property
    def effects(self):
        """The distribution that effects are drawn from."""
        return _distribution(self.effect_prior)

    @property
    def _aliased(self) -> list[int]:
        names = self.model.design.coef_names
        return [names.index(name) for name in self.model.aliased]


@dataclass(frozen=True)
class _Simulated:
    """One simulated study: response, the covariance parameters it is from, effects to add, seed."""

    y: np.ndarray
    Ls: list[np.ndarray]
    sigma: float
    shifts: tuple[float, float]
    seed: int


@dataclass(frozen=True)
class _Study:
    """One number of groups."""

    plan: _Plan
    rows: Rows
    symbolic: object

    def jobs(self, seeds: Iterable[np.random.SeedSequence]) -> list[tuple]:
        """Simulated studies with their REML fits, None where that is still to be made."""
        simulated = [self._simulated(seed) for seed in seeds]
        solutions: list[Solution | None] = [None] * len(simulated)
        problem = self._problem(simulated[0].y)
        if len(simulated) >= MANY and can_search(problem):
            rows = self.rows
            many = ManyResponses.of(problem, rows.X, rows.factors, rows.weights, True)
            found = many.fits(np.array([one.y for one in simulated]))
            pairs = zip(found.solutions(), found.sure, strict=True)
            solutions = [solution if sure else None for solution, sure in pairs]
        return list(zip(simulated, solutions, strict=True))

    def _simulated(self, seed: np.random.SeedSequence) -> _Simulated:
        plan = self.plan
        rng = np.random.default_rng(seed)
        beta, Ls, sigma = plan.truths[int(rng.integers(len(plan.truths)))]
        drawn = float(plan.effects.rvs(random_state=rng))
        y = self._response(beta, Ls, sigma, rng)
        return _Simulated(y, Ls, sigma, (plan.design_value, drawn), int(rng.integers(2**31)))

    def run(self, study: _Simulated, solution: Solution | None) -> tuple[float, ...]:
        """power, assurance, power_posterior, assurance_posterior, widths, refits."""
        problem = self._problem(study.y)
        if solution is None:
            solution = solve(problem, optimize(problem, reml=True).theta, True)
        tests, width = self._reml(problem, solution, study.shifts)
        posterior, width_posterior, refits = self._posterior(
            problem, study.y, study.Ls, study.sigma, study.shifts, study.seed
        )
        return (*tests, *posterior, width, width_posterior, refits)

    def _problem(self, y: np.ndarray):
        rows, patterns = self.rows, self.plan.density.system.patterns
        products = CrossProducts.from_rows(y, rows.X, rows.factors, weights=rows.weights)
        return prepare(products, patterns, symbolic=self.symbolic)

    def _response(self, beta, Ls, sigma, rng) -> np.ndarray:
        rows = self.rows
        noise = rng.standard_normal(rows.n)
        if rows.weights is not None:
            noise /= np.sqrt(rows.weights)
        y = rows.X @ beta + sigma * noise
        for factor, L in zip(rows.factors, Ls, strict=True):
            b = rng.standard_normal((factor.n_levels, len(L))) @ L.T
            y += (factor.Z * b[factor.codes]).sum(axis=1)
        return y

    def _reml(self, problem, solution: Solution, shifts):
        """Whether each shift is found significant, and the interval's width."""
        plan, row = self.plan, self.plan.effect.row
        curvature = variance_curvature(problem, solution.theta, reml=True)
        df = float(satterthwaite_df(row[None], solution.vcov, curvature)[0])
        df = df if np.isfinite(df) and df > 0 else 1.0
        se = float(np.sqrt(row @ solution.vcov @ row))
        estimate = float(row @ solution.beta)
        t = [plan.sign * (estimate + shift) / se for shift in shifts]
        tests = [float(stdtr(df, -value) <= plan.alpha / 2) for value in t]
        return tests, 2 * se * float(stdtrit(df, 1 - plan.alpha / 2))

    def _posterior(self, problem, y, Ls, sigma, shifts, seed: int):
        plan = self.plan
        flat = with_prior(problem, plan.effect.rest)
        own = plan.density.with_model(problem, plan.effect.rest)
        likelihood = self._likelihood(flat, own, Ls, sigma, seed, 0.0, np.inf)
        wins, refits, width = [], 0, np.nan
        for at, shift in enumerate(shifts):
            moved = replace(likelihood, mean=likelihood.mean + shift)
            posterior = posterior_under(moved, plan.analysis_prior)
            if posterior.k_hat > MAX_K_HAT:
                posterior = self._again(y, shift, Ls, sigma, seed, posterior)
                refits += 1
            good = posterior.survival(0.0) if plan.sign > 0 else posterior.cdf(0.0)
            wins.append(float(good >= plan.threshold))
            if at == 0:
                low, high = posterior.interval(1 - plan.alpha)
                width = high - low
        return wins, width, float(refits)

    def _again(self, y, shift, Ls, sigma, seed, first):
        """Draw theta under the analysis prior itself (or a normal one near its posterior)."""
        plan = self.plan
        base = normal_parameters(plan.analysis_prior) or (first.mean, 3 * first.sd)
        problem = self._problem(y + self.rows.X @ plan.effect.direction * shift)
        flat = with_prior(problem, plan.effect.rest)
        own = plan.density.with_model(problem, plan.effect.with_normal(*base))
        likelihood = self._likelihood(flat, own, Ls, sigma, seed, *base)
        return posterior_under(likelihood, plan.analysis_prior)

    def _likelihood(self, flat, density, Ls, sigma, seed, mean, sd) -> EffectLikelihood:
        first = _coordinates(density, Ls, sigma)
        theta = draw_theta(density, seed, self.plan.draws, 1, first)
        m, v = combination_moments(flat, theta.factors, theta.sigma, self.plan.effect.row)
        return EffectLikelihood(
            m[:, 0], v[:, 0, 0], theta.log_weights, mean, sd, theta.inefficiency, k_hat=theta.k_hat
        )


def _coordinates(density: MarginalDensity, Ls: list[np.ndarray], sigma: float) -> np.ndarray:
    """Unconstrained coordinates of true parameters, away from a vanishing variance."""
    F = np.concatenate([np.zeros(0), *(L.ravel() for L in Ls)])
    x = density.position(F, np.log([sigma]), np.zeros(0))
    m, first = density.correlations.n_effects, density.first_correlation
    least = unconstrain(density.scales, np.append(np.full(m, 1e-3 * sigma), sigma))
    x[:m] = np.maximum(x[:m], least[:m])
    x[first:] = np.clip(x[first:], -3.0, 3.0)
    return x


def _factor(model: Model, factor: str | None) -> str:
    names = [block.name for block in model.design.blocks]
    if not names:
        raise ValueError("The model has no groups, so their number cannot change.")
    if factor is None and len(names) == 1:
        return names[0]
    if factor not in names:
        raise ValueError(f"factor must be one of {', '.join(map(repr, names))}, not {factor!r}.")
    return factor


def _analysis_prior(effect: Effect, prior: Prior | None) -> Prior:
    if prior is not None:
        if not isinstance(prior, Prior):
            raise PriorError(f"analysis_prior must be a blm.Prior, not {prior!r}.")
        return prior
    if not np.isfinite(effect.sd):
        return Prior("Flat")
    return Prior("Normal", mu=effect.mean, sigma=effect.sd)


def _truths(model, base: Model, effect: Effect, parameters: Mapping[str, float] | None):
    """Values of (beta with the effect at 0, absolute factors, sigma) to simulate from."""
    if is_posterior(model):
        if parameters:
            raise ValueError("A posterior fit brings its own parameters; give the model instead.")
        return _posterior_truths(model, effect)
    fit = model if hasattr(model, "components") else None
    values = dict(parameters or {})
    names = list(base.design.coef_names)
    from bayeslmm.priors.parameters import component_names

    known = [n for block in base.design.blocks for n in component_names(block)] + ["sigma"]
    unknown = [key for key in values if key not in {*names, *known}]
    if unknown:
        raise ValueError(
            f"There is no parameter {unknown[0]!r}. Parameters: {listed([*names, *known])}."
        )
    missing = [n for n in known if n not in values]
    if fit is None and (missing or not parameters):
        fit = base.reml()
    beta = np.zeros(len(names)) if fit is None else fit.fixef("normal")["estimate"].to_numpy()
    beta = np.nan_to_num(beta.copy())
    components = {} if fit is None else fit.components().to_dict()
    for key, value in values.items():
        if key in names:
            beta[names.index(key)] = value
        else:
            components[key] = float(value)
    Ls = [_factor_matrix(block, components) for block in base.design.blocks]
    if not components["sigma"] > 0:
        raise ValueError("sigma must be positive.")
    return [(beta - effect.direction * (effect.row @ beta), Ls, float(components["sigma"]))]


def _factor_matrix(block, components: Mapping[str, float]) -> np.ndarray:
    """Lower triangular factor of a block's covariance from its named components."""
    sd = np.array([components[sd_key(e, block.name)] for e in block.effects])
    if np.any(sd < 0):
        raise ValueError(f"Standard deviations of {block.name} must not be negative.")
    R = np.eye(len(sd))
    for i, j in block.correlated_pairs():
        value = components[pair_key(block.effects[i], block.effects[j], block.name)]
        R[i, j] = R[j, i] = np.nan_to_num(value)
    if np.linalg.eigvalsh(R)[0] < -1e-8:
        raise ValueError(f"The correlations of {block.name} do not form a correlation matrix.")
    return lower_factor(sd[:, None] * R * sd)


def _posterior_truths(fit: PosteriorResult, effect: Effect):
    from bayeslmm.bayes.draws import coefficient_draws, covariance_draws

    posterior = fit.posterior
    beta = coefficient_draws(fit.model.design, posterior)[1]
    beta = beta.reshape(-1, beta.shape[-1])
    matrices = [
        S.reshape(-1, *S.shape[2:])
        for S in covariance_draws(fit.model.design, fit.names, posterior)
    ]
    sigma = posterior["sigma"].to_numpy().ravel()
    at = np.linspace(0, len(sigma) - 1, min(1000, len(sigma))).astype(int)
    return [
        (
            beta[i] - effect.direction * (effect.row @ beta[i]),
            [lower_factor(S[i]) for S in matrices],
            float(sigma[i]),
        )
        for i in at
    ]


def _sizes(n_groups) -> list[int]:
    sizes = [n_groups] if np.ndim(n_groups) == 0 else list(n_groups)
    for size in sizes:
        _check_count("n_groups", size, 2)
    if not sizes:
        raise ValueError("n_groups is empty.")
    return [int(size) for size in sizes]


def _check_count(name: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}.")
