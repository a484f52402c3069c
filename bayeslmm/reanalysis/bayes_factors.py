"""Bayes factors, each with its Monte Carlo error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.bayes.laplace_posterior import sampled_because, samples_effects
from bayeslmm.bayes.marginal import MarginalDensity, marginal_density, marginal_obstacle
from bayeslmm.errors import DataError, PriorError
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.scales import fixed_scales
from bayeslmm.priors.parameters import component_names
from bayeslmm.priors.propriety import refuse_improper_posterior
from bayeslmm.protocols import is_posterior
from bayeslmm.reanalysis.bridge import Evidence, bridge_sampling
from bayeslmm.reanalysis.comparable import (
    refuse_improper,
    refuse_other_data,
    refuse_two_priors,
)
from bayeslmm.reanalysis.components import (
    component_position,
    log_component_bayes_factor,
    log_evidences_ratio,
)
from bayeslmm.reanalysis.correlation_at_zero import (
    CorrelationPair,
    correlation_pair,
    log_correlation_bayes_factor,
)
from bayeslmm.reanalysis.joint import JointTest, term_columns
from bayeslmm.reanalysis.posteriors import normal_parameters
from bayeslmm.reanalysis.response_evidence import response_evidence
from bayeslmm.reanalysis.reweighting import BF_ERROR, Reweighter
from bayeslmm.reanalysis.sources import source_and_likelihood
from bayeslmm.reanalysis.theta import (
    draw_evidence,
    draw_theta,
    effective_resampled,
    fitted_factors,
    fitted_theta,
)

if TYPE_CHECKING:
    from bayeslmm.parts.prior import Prior
    from bayeslmm.priors.table import Priors
    from bayeslmm.protocols import Model, PosteriorResult

__all__ = ["BayesFactor", "bayes_factor", "log_marginal_likelihood", "savage_dickey"]

#: Multiples of the prior's scale for which the curve of a default prior is made.
_CURVE = np.geomspace(0.1, 10.0, 9)


@dataclass(frozen=True)
class BayesFactor:
    """Evidence for one model against another.

    Attributes
    ----------
    log_bf10 : float
        Log of p(y | model 1) / p(y | model 0).
    relative_error : float
        Monte Carlo standard error of ``log_bf10``, which is the relative error of ``bf10``.
    method : str
    model1, model0 : str
        What is compared, in words.
    default_priors : tuple of str
        Parameters that only one model has, or that are tested, whose prior is a default.
    curve : pandas.Series or None
        ``bf10`` by the scale of the tested prior.
    """

    log_bf10: float
    relative_error: float
    method: str
    model1: str
    model0: str
    default_priors: tuple[str, ...] = field(default=())
    curve: pd.Series | None = None

    @property
    def bf10(self) -> float:
        """For model 1 against model 0."""
        return float(np.exp(self.log_bf10))

    @property
    def bf01(self) -> float:
        """For model 0 against model 1."""
        return float(np.exp(-self.log_bf10))

    def posterior_probability(self, prior_probability: float = 0.5) -> float:
        """Probability of model 1, given its prior probability.

        Raises
        ------
        ValueError
            If the prior probability is not between 0 and 1.
        """
        if not 0 < prior_probability < 1:
            raise ValueError(f"A prior probability is between 0 and 1, not {prior_probability!r}.")
        log_odds = self.log_bf10 + np.log(prior_probability) - np.log1p(-prior_probability)
        return float(np.exp(-np.logaddexp(0.0, -log_odds)))

    def __repr__(self) -> str:
        lines = [
            f"Bayes factor {self.bf10:.4g} for model 1 against model 0 "
            f"(log {self.log_bf10:.3f}, Monte Carlo error {100 * self.relative_error:.2g} %)",
            f"  model 1: {self.model1}",
            f"  model 0: {self.model0}",
            f"  by {self.method}",
        ]
        if self.default_priors:
            lines.append(
                f"Depends on the scale of a default prior ({', '.join(self.default_priors)}): "
                "set a prior you can defend."
            )
        if self.curve is not None:
            pairs = ", ".join(f"{scale:.3g}: {bf:.3g}" for scale, bf in self.curve.items())
            lines.append(f"By scale of that prior: {pairs}")
        return "\n".join(lines)


def log_marginal_likelihood(
    fit: PosteriorResult, *, method: str = "bridge", draws: int = 4000, random_seed: int = 0
) -> Evidence:
    """log p(y) of a model, coefficients and random effects integrated out exactly.

    Of a response that is not Gaussian, and of Student-t residuals and effects, they are part of
    what is sampled.

    Parameters
    ----------
    fit : PosteriorResult
        Its draws of the covariance parameters are bridged, where they come from chains. An
        importance sample has an estimate of its own, which is returned instead: its resampled
        draws repeat each other, and a bridge from them would understate its error. Where effects
        are sampled chains are drawn anew, in the coordinates of the bridge.
    method : {"bridge", "importance"}
        Importance sampling draws anew.
    draws : int
        For importance sampling.
    random_seed : int

    Returns
    -------
    Evidence
        ``value`` and its Monte Carlo standard ``error``.

    Raises
    ------
    PriorError
        If a prior is improper, or not one the marginal posterior knows.
    SamplingError
        If the bridge does not settle.

    References
    ----------
    - Meng and Wong (1996), Statistica Sinica 6(4), eq. 4.1;
      https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n43/j6n43.htm
    - Warp-III: Meng and Schilling (2002), Journal of Computational and Graphical Statistics 11(3);
      https://doi.org/10.1198/106186002457
    - Error: Fruehwirth-Schnatter (2004), Econometrics Journal 7(1);
      https://doi.org/10.1111/j.1368-423X.2004.00125.x

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff"))
    >>> fit = model.fit(method="importance", random_seed=1)
    >>> round(blm.log_marginal_likelihood(fit).value)
    -169
    """
    if method not in ("bridge", "importance"):
        raise ValueError(f'method must be "bridge" or "importance", not {method!r}.')
    refuse_improper(fit.priors)
    info, sampled = fit.info, samples_effects(fit.model.design, fit.priors)
    density = None if sampled else _density(fit)  # which refuses what has none
    if method == "bridge" and info.log_marginal_likelihood is not None:
        return Evidence(
            info.log_marginal_likelihood, info.log_marginal_likelihood_error, "importance"
        )
    if density is None:
        return response_evidence(fit, method=method, draws=draws, random_seed=random_seed)
    # without one of its own an importance sample is of other rows than the fit has now
    if method == "importance" or info.method == "importance" or fit.conditioning is not None:
        return draw_evidence(density, random_seed, draws)
    rng = np.random.default_rng(np.random.SeedSequence([random_seed, 12]))
    with single_threaded_blas():
        x = fitted_theta(fit, density)
        known = np.flatnonzero(fixed_scales(density.scales))
        x[..., known] = rng.standard_normal((*x.shape[:2], len(known)))
        return bridge_sampling(density, x, rng)


def bayes_factor(
    fit1: PosteriorResult, fit0: PosteriorResult, *, random_seed: int = 0
) -> BayesFactor:
    """Bayes factor of two fitted models by bridge or importance sampling.

    Parameters
    ----------
    fit1, fit0 : PosteriorResult
        Of the same response in the same rows; priors of parameters that both have must be equal.
    random_seed : int

    Returns
    -------
    BayesFactor

    Raises
    ------
    ValueError
        If the fits have other rows, responses or weights.
    PriorError
        If a prior is improper, or a shared parameter has two priors. (Default priors are scaled
        to the data, and so the same in both models unless a coefficient changes its meaning.)

    Notes
    -----
    A Savage-Dickey ratio (Dickey 1971) compares the two models under the same prior of all other
    parameters, and depends on the prior of the tested one however many data there are. It reads the
    posterior's density at the value: far out in a tail few draws say how the covariance parameters
    there are distributed, so that the Monte Carlo error grows and the size of a very large factor,
    unlike its direction, is uncertain. An improper prior has no density to compare with and is
    refused.

    References
    ----------
    Dickey (1971), Annals of Mathematical Statistics 42(1);
    https://doi.org/10.1214/aoms/1177693507. Those of bridge sampling are in
    :func:`bayeslmm.log_marginal_likelihood`.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> fits = [
    ...     blm.LMM(f"Reaction ~ Days + {term}", data).fit(method="importance", random_seed=1)
    ...     for term in ("(Days | Subject)", "(1 | Subject)")
    ... ]
    >>> bool(blm.bayes_factor(*fits).bf10 > 1e6)
    True
    """
    refuse_other_data(fit1, fit0)
    for fit in (fit1, fit0):
        refuse_improper(fit.priors)
    refuse_two_priors(fit1.priors, fit0.priors)
    top = log_marginal_likelihood(fit1, random_seed=random_seed)
    bottom = log_marginal_likelihood(fit0, random_seed=random_seed + 1)
    only_one = [
        key
        for a, b in ((fit1.priors, fit0.priors), (fit0.priors, fit1.priors))
        for key in a
        if key not in set(b) and a.is_default(key)
    ]
    return BayesFactor(
        top.value - bottom.value,
        float(np.hypot(top.error, bottom.error)),
        " and ".join(f"{name} sampling" for name in dict.fromkeys((top.method, bottom.method))),
        fit1.model.design.formula.text,
        fit0.model.design.formula.text,
        tuple(only_one),
    )


def savage_dickey(
    model: Model | PosteriorResult,
    parameter,
    *,
    value: float = 0.0,
    prior: Prior | None = None,
    curve: bool = True,
    draws: int = 4000,
    random_seed: int = 0,
) -> BayesFactor:
    """Bayes factor of a parameter against a fixed value of it, within one model.

    For a coefficient or contrast the exact conditional density at ``value`` is averaged over draws
    of the covariance parameters, or of all else where the response is not Gaussian or residuals or
    effects are Student-t (where these do not reach, both marginal likelihoods are computed);
    the modules ``joint``, ``components`` and ``correlation_at_zero`` of ``bayeslmm.reanalysis``
    say how all coefficients of a term at once, a standard deviation and a correlation are tested.

    Parameters
    ----------
    model : Model or PosteriorFit
    parameter : str, dict or array
        A coefficient, a contrast, a term such as a factor, a standard deviation such as
        ``"sd(Days | Subject)"``, or a correlation such as ``"corr(Intercept, Days | Subject)"``.
    value : float
        Under the null model; 0 for everything but a coefficient or contrast.
    prior : Prior, optional
        Of the coefficient or contrast under the alternative; by default the model's. For a term, a
        normal prior that each of its coefficients gets.
    curve : bool
        Whether to add the Bayes factor for other scales of a normal prior.
    draws : int
    random_seed : int

    Returns
    -------
    BayesFactor

    Raises
    ------
    PriorError
        If the parameter's prior is improper: a flat prior says that any data are infinitely
        unlikely under the alternative.
    ValueError
        If there is no such parameter.
    DataError
        If the response is not Gaussian, or residuals or effects are Student-t, and the parameter is
        not one coefficient or contrast.

    References
    ----------
    - Dickey (1971), Annals of Mathematical Statistics 42(1);
      https://doi.org/10.1214/aoms/1177693507
    - Wagenmakers, Lodewyckx, Kuriyal and Grasman (2010), Cognitive Psychology 60(3);
      https://doi.org/10.1016/j.cogpsych.2009.12.001

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", blm.load_dataset("sleepstudy"))
    >>> bool(blm.savage_dickey(model, "Days", prior=blm.Prior("Normal", mu=0, sigma=10)).bf10 > 100)
    True
    """
    if not np.isfinite(value):
        raise ValueError(f"value must be finite, not {value!r}.")
    base: Any = getattr(model, "model", model)
    if not isinstance(parameter, str) or parameter in base.design.coef_names:
        return _coefficient(model, parameter, value, prior, curve, draws, random_seed)
    if value != 0:
        raise ValueError(f"{parameter} is tested against 0 only.")
    columns = term_columns(base.design, parameter)
    if columns is not None and len(columns) == 1:
        name = base.design.coef_names[columns[0]]
        return _coefficient(model, name, value, prior, curve, draws, random_seed)
    if samples_effects(base.design, model.priors):
        raise DataError(
            f"The test of {parameter} within a model is not available with "
            f"{sampled_because(base.design)}: that of several coefficients, or of a component, "
            "rests on the likelihood with coefficients and random effects integrated out in closed "
            "form. Fit the model with and without it and give both to blm.bayes_factor(fit1, fit0)."
        )
    if columns is not None:
        return _term(model, parameter, columns, prior, draws, random_seed)
    position, pair = component_position(base, parameter), correlation_pair(base, parameter)
    if position is None and pair is None:
        raise ValueError(_what_works(base, parameter))
    if prior is not None:
        raise ValueError(f"{parameter} is tested under the model's own prior: set it there.")
    fit = _fitted(model, draws, random_seed)
    if position is not None:
        return _component(fit, position, draws, random_seed)
    assert pair is not None  # or there had been a position
    return _correlation(fit, pair)


def _what_works(model: Model, name: str) -> str:
    """That a parameter is not one of those, and how to get what may be meant."""
    design = model.design
    works = [*design.coef_names, *(t.name for t in design.terms if t.name != "Intercept")]
    for block in design.blocks:
        works += component_names(block)
    text = f"{name!r} cannot be tested against a value. What can be: "
    text += ", ".join(dict.fromkeys(works)) + ', or a contrast such as {"a": 1, "b": -1}.'
    return text + (
        " For anything else, such as all random effects of a factor, fit both models and give them "
        "to blm.bayes_factor(fit1, fit0)."
    )


def _fitted(model, draws: int, random_seed: int) -> PosteriorResult:
    """The fit given, or one of the model; its draws must be of its own posterior."""
    from bayeslmm.results.loo import refuse_old_theta

    if not is_posterior(model):
        return model.fit(draws=max(draws // 4, 250), random_seed=random_seed, progressbar=False)
    refuse_old_theta(model)
    return model


def _correlation(fit: PosteriorResult, pair: CorrelationPair) -> BayesFactor:
    _refuse_other_columns(fit, pair.name, pair.effects)
    density = _density(fit)
    log_bf, error = log_correlation_bayes_factor(
        density, fitted_theta(fit, density), pair, effective=effective_resampled(fit)
    )
    return BayesFactor(
        log_bf,
        error,
        "conditional density at zero, averaged",
        f"{pair.name} ~ {fit.priors[pair.key]!r}",
        f"{pair.name} = 0",
        (pair.key,) if fit.priors.is_default(pair.key) else (),
    )


def _term(model, name: str, columns, prior, draws: int, random_seed: int) -> BayesFactor:
    base, priors = getattr(model, "model", model), model.priors
    keys = [coef_key(base.design.coef_names[j]) for j in columns]
    default = prior is None and any(priors.is_default(key) for key in keys)
    if prior is not None:
        if normal_parameters(prior) is None:
            raise PriorError(f"The coefficients of a term need a normal prior, not {prior!r}.")
        priors = priors.copy()
        for key in keys:
            priors[key] = prior
    refuse_improper_posterior(base.design, priors)
    density = _density_of(base, priors)
    test = JointTest.of(base, priors, density, columns)
    drawn = is_posterior(model) and prior is None
    if drawn and (model.conditioning is None or model.conditioning.reweighted):
        theta = fitted_factors(model)
    else:
        theta = draw_theta(density, random_seed, draws)
    log_bf, error = test.log_bayes_factor(theta)
    method = "Savage-Dickey"
    if error > BF_ERROR and all(prior.is_proper for prior in priors.values()):
        found = test.log_evidences_ratio(random_seed, draws)
        if found[1] < error:
            (log_bf, error), method = found, "marginal likelihoods"
    said = ", ".join(f"{key} ~ {priors[key]!r}" for key in keys)
    return BayesFactor(
        log_bf, error, method, said, f"all coefficients of {name} = 0", (name,) if default else ()
    )


def _coefficient(model, parameter, value, prior, with_curve, draws, random_seed) -> BayesFactor:
    from bayeslmm.reanalysis.reanalyze import model_prior

    source, likelihood = source_and_likelihood(
        model, parameter, random_seed=random_seed, draws=draws
    )
    label = source.effect.label
    default = prior is None and _has_default(source, label)
    chosen = model_prior(source) if prior is None else prior
    if chosen is None or not chosen.is_proper:
        raise PriorError(
            f"The prior on {label} is flat, and a Bayes factor needs a proper one: spread over an "
            "infinite range, a prior makes any data infinitely unlikely. Give prior=, such as "
            'blm.Prior("Normal", mu=0, sigma=...), with the effects you would expect.'
        )
    draws_of = Reweighter(source, [likelihood])
    log_bf, error, method = draws_of.log_bayes_factor(draws_of.posterior(chosen), value)
    curve = None
    normal = normal_parameters(chosen)
    if normal is not None and with_curve:
        sds = normal[1] * _CURVE
        factors = [
            draws_of.log_bayes_factor(draws_of.posterior(_normal(normal[0], sd)), value)[0]
            for sd in sds
        ]
        curve = pd.Series(np.exp(factors), index=pd.Index(sds, name="scale"), name="bf10")
    return BayesFactor(
        log_bf,
        error,
        method,
        f"{label} ~ {chosen!r}",
        f"{label} = {value:g}",
        (label,) if default else (),
        curve,
    )


def _normal(mean: float, sd: float) -> Prior:
    from bayeslmm.parts.prior import Prior

    return Prior("Normal", mu=mean, sigma=float(sd))


def _has_default(source, label: str) -> bool:
    """Whether the effect's prior is one the user did not set."""
    from bayeslmm.parts.parameters import coef_key

    names = source.model.design.coef_names
    used = [coef_key(names[j]) for j in np.flatnonzero(source.effect.row)]
    return any(source.priors.is_default(key) for key in used)


def _component(fit: PosteriorResult, position: int, draws: int, random_seed: int) -> BayesFactor:
    keys = [p.key for p in fit.priors.parameters if p.kind == "sd"]
    key = keys[position]
    if not fit.priors[key].is_proper:
        raise PriorError(
            f"The prior of {key} is flat, and a Bayes factor needs a proper one, such as "
            'blm.Prior("HalfNormal", sigma=...).'
        )
    _refuse_other_columns(fit, key, [position])
    density = _density(fit)
    x = fitted_theta(fit, density)
    resampled = effective_resampled(fit)
    log_bf, error = log_component_bayes_factor(density, x, position, effective=resampled)
    method = "conditional density at zero, averaged"
    if error > BF_ERROR:
        rng = np.random.default_rng(np.random.SeedSequence([random_seed, 13]))
        found = log_evidences_ratio(density, position, draws, rng)
        if found is not None and found[1] < error:
            (log_bf, error), method = found, "marginal likelihoods"
    return BayesFactor(
        log_bf,
        error,
        method,
        f"{key} ~ {fit.priors[key]!r}",
        f"{key} = 0",
        (key,) if fit.priors.is_default(key) else (),
    )


def _refuse_other_columns(fit: PosteriorResult, name: str, effects: Sequence[int]) -> None:
    """Refuse parameters whose default prior is about the means of the covariates.

    Parameters
    ----------
    effects : sequence of int
        Positions among all random effects.
    """
    moved: list[bool] = []
    maps = fit.priors.effect_maps().matrices
    for block, K in zip(fit.model.design.blocks, maps, strict=True):
        moved += [False] * block.n_effects if K is None else (np.eye(len(K)) != K).any(1).tolist()
    if any(moved[i] for i in effects):
        raise PriorError(
            f"The default prior of {name} is about the means of the covariates, and the value is "
            "tested where they are zero. Set a prior on it (and on the correlations), which then "
            "is about the formula's columns, or center the covariates."
        )


def _density(fit: PosteriorResult) -> MarginalDensity:
    return _density_of(fit.model, fit.priors)


def _density_of(model: Model, priors: Priors) -> MarginalDensity:
    from bayeslmm.results.support import refuse_unless_derived

    refuse_unless_derived(model, "The marginal likelihood", related=True, residuals=True)
    if obstacle := marginal_obstacle(model.design, priors):
        raise PriorError(
            f"The marginal likelihood is not available: {obstacle}. Use normal priors on "
            "coefficients and priors of the usual families on standard deviations."
        )
    return marginal_density(model.design, priors, model.problem)
