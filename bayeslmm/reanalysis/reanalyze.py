"""One effect under many priors, beside the REML table."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.laplace_posterior import heavy_effects
from bayeslmm.errors import ModelWarning, PriorError
from bayeslmm.parts.prior import Prior
from bayeslmm.reanalysis.integrated import EffectSource
from bayeslmm.reanalysis.posteriors import EffectPosterior, normal_parameters
from bayeslmm.reanalysis.prior_sets import EffectScale, prior_set
from bayeslmm.reanalysis.response_source import ResponseSource
from bayeslmm.reanalysis.reweighting import Reweighter
from bayeslmm.reanalysis.risks import Risks, rows_with_and_without
from bayeslmm.reanalysis.sources import source_and_likelihood
from bayeslmm.results.printing import format_table, returns_table

if TYPE_CHECKING:
    from bayeslmm.protocols import Model, PosteriorResult

__all__ = ["Reanalysis", "reanalyze"]

_LIKELIHOOD_ROWS = {"REML, Satterthwaite": "satterthwaite", "REML, Kenward-Roger": "kenward-roger"}


@dataclass(frozen=True)
class Reanalysis:
    """What an effect looks like under each prior.

    Attributes
    ----------
    effect : str
    scale : EffectScale
        Minimal important difference, direction, region of practical equivalence.
    priors : dict of str to Prior
    posteriors : dict of str to EffectPosterior
    bayes_factors : pandas.DataFrame
        ``bf10`` (against no effect), its relative Monte Carlo error, and how it was computed.
    reference_rows : pandas.DataFrame
        The rows of the original analysis.
    level : float
    notes : tuple of str
        What was done beyond reweighting, and what to be careful with.
    risk_curves : Risks or None
        What :attr:`risks` is computed from.
    """

    effect: str
    scale: EffectScale
    priors: dict[str, Prior]
    posteriors: dict[str, EffectPosterior]
    bayes_factors: pd.DataFrame
    reference_rows: pd.DataFrame
    level: float
    notes: tuple[str, ...] = field(default=())
    risk_curves: Risks | None = field(default=None, repr=False)

    @cached_property
    def risks(self) -> pd.DataFrame | None:
        """Population averages without and with the effect, one row per prior.

        The rows of the data are moved by the effect: a 0/1 column is set to 0 and to 1 (and the
        other levels of its factor to 0), to a numeric one its weight in the effect is added (1, of
        a lone coefficient), and of a contrast the columns of positive weight are compared with
        those of negative weight. Means of the response are averaged over the distribution of the
        random effects and over the rows.

        Returns
        -------
        pandas.DataFrame or None
            ``risk_without risk_with risk_ratio risk_difference`` where means are probabilities (of
            ordered categories of those above the first), otherwise ``mean_without mean_with ratio
            difference``; posterior means (of ratios medians), each with ``_lower`` and ``_upper``
            at ``level``. None for Gaussian responses, whose difference is the effect itself, for
            published estimates, and where no rows differ by the effect alone (the notes say so).
        """
        return None if self.risk_curves is None else self.risk_curves.table(self.level)

    @property
    @returns_table
    def table(self) -> pd.DataFrame:
        """One row per prior, and those of the original analysis.

        Returns
        -------
        pandas.DataFrame
            ``estimate sd lower upper``: posterior mean, standard deviation and equal-tailed
            interval (for a ratio: the median, the standard deviation of its logarithm, and the
            interval of the ratio); ``p_benefit p_mcid p_rope p_harm``: probability of any
            benefit, of one beyond the minimal important difference, of the region of practical
            equivalence, of harm; ``bf10``: Bayes factor against no effect; ``k_hat``: Pareto
            shape of the weights. The likelihood's rows have ``df`` and ``p`` instead.
        """
        rows = {
            name: effect_row_values(posterior, self.scale, self.level)
            for name, posterior in self.posteriors.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table["bf10"] = self.bayes_factors["bf10"]
        table["k_hat"] = [p.k_hat for p in self.posteriors.values()]
        table["k_hat"] = table["k_hat"].where(np.isfinite(table["k_hat"]))
        if len(self.reference_rows):
            table = pd.concat([table, self.reference_rows])
        table.index.name = "prior"
        return table

    def plot(self, kind: str = "forest", ax=None):
        """Draw the posteriors.

        Parameters
        ----------
        kind : {"forest", "density"}
            Means and intervals of all rows; or prior and posterior densities.
        ax : matplotlib.axes.Axes, optional
            For the forest.

        Returns
        -------
        matplotlib axes (an array of them for densities)

        Raises
        ------
        ValueError
            If there is no such kind.
        """
        from bayeslmm.reanalysis import figures

        if kind == "forest":
            return figures.forest(self, ax)
        if kind == "density":
            return figures.densities(self)
        raise ValueError(f'kind must be "forest" or "density", not {kind!r}.')

    def plot_prior_posterior(self):
        """Prior and posterior densities under each prior; as ``plot("density")``."""
        return self.plot("density")

    def describe(self) -> str:
        """The table with what it means, in words."""
        s = self.scale
        unit = np.exp if s.ratio else float
        better = "higher" if s.sign > 0 else "lower"
        mcid = f"{unit(s.sign * s.mcid) if s.ratio else s.mcid:.4g}"
        lines = [
            f"Effect: {self.effect} ({better} is better)",
            f"Minimal important difference: {mcid}" + ("" if s.given else " (default)"),
            f"Region of practical equivalence: {unit(s.rope[0]):.4g} to {unit(s.rope[1]):.4g}",
            "",
            "Priors" + (" (on the log of the ratio)" if s.ratio else ""),
            *(f"  {name}: {prior!r}" for name, prior in self.priors.items()),
            "",
            format_table(self.table),
        ]
        if self.risks is not None:
            lines += ["", "Averages over rows and groups", format_table(self.risks)]
        return "\n".join([*lines, *([""] if self.notes else []), *self.notes])

    def __repr__(self) -> str:
        return self.describe()


def reanalyze(
    model: Model | PosteriorResult,
    effect,
    priors="standard",
    *,
    mcid: float | None = None,
    rope=None,
    direction: str = "higher is better",
    level: float = 0.95,
    draws: int = 4000,
    random_seed: int = 0,
    cores: int | None = None,
) -> Reanalysis:
    """An effect of a mixed model under a set of priors, next to REML (or maximum likelihood).

    The covariance parameters are sampled once. Given them the effect is normal in closed form, so
    that another prior on it reweights the draws exactly; where the Pareto k-hat of the weights is
    above 0.7 they are drawn again under that prior. All other priors stay as they are.

    Where the response is not Gaussian, residuals or effects are Student-t, or another coefficient's
    prior is not normal, parameters and random effects are sampled together, and the effect's exact
    conditional density is taken along slices through the draws
    (module ``bayeslmm.reanalysis.slices``). Effects of responses that are not Gaussian whose
    exponentials are ratios (of odds, risks, rates, means, hazards) are shown as ratios, priors are
    on their logarithms, and ``risks`` adds population-average risks. With a probit, identity or
    inverse link, and a complementary log-log one of ordered categories or shares, they are on the
    scale of the link.

    Parameters
    ----------
    model : Model or PosteriorFit
        A fit's draws and priors are used as they are; a model is sampled (importance sampling,
        NUTS where that is refused), and so is the model of a fit where slices are taken, under the
        fit's priors.
    effect : str, dict or array
        A coefficient, or a contrast such as ``{"drug[B]": 1, "drug[A]": -1}``. A prior on
        ``"Intercept"`` is here on that coefficient itself.
    priors : str or dict of str to Prior
        ``"standard"``, the set of ``bayeslmm.reanalysis.prior_sets.standard_priors``; or your own.
    mcid : float, optional
        Minimal clinically important difference, positive, in units of the effect (a ratio where
        the effect is one); by default half a standard deviation of the response, a ratio of 1.5,
        or with another link half a standard deviation of the latent variable or half a unit of
        the linear predictor (all per standard deviation of a numeric predictor; see
        ``bayeslmm.reanalysis.prior_sets.default_mcid``).
    rope : float or (float, float), optional
        Region of practical equivalence; by default what is smaller than ``mcid``.
    direction : {"higher is better", "lower is better"}
    level : float
        Probability inside the intervals.
    draws : int
        Draws of the covariance parameters.
    random_seed : int
    cores : int, optional

    Returns
    -------
    Reanalysis

    Raises
    ------
    ValueError
        If the effect or an option does not exist.
    PriorError
        If a prior is not one for an effect, the priors are not ones that slices can be taken
        under, or a flat prior on the effect leaves its posterior improper. Of a named set the flat
        prior is then left out, and the notes say so.
    SamplingError
        If the covariance parameters cannot be sampled.

    References
    ----------
    - Zampieri, Casey, Shankar-Hari, Harrell and Harhay (2021), American Journal of Respiratory and
      Critical Care Medicine 203(5); https://doi.org/10.1164/rccm.202006-2381CP
    - Spiegelhalter, Freedman and Parmar (1994), Journal of the Royal Statistical Society A 157(3);
      https://doi.org/10.2307/2983527

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", blm.load_dataset("sleepstudy"))
    >>> result = blm.reanalyze(model, "Days", mcid=5, direction="lower is better")
    >>> result.table.loc["sceptical, strong", "p_harm"].round(2)
    np.float64(1.0)
    """
    from bayeslmm.results.tables import check_level

    check_level(level)
    source, likelihood = source_and_likelihood(
        model, effect, random_seed=random_seed, draws=draws, cores=cores
    )
    row = source.effect.row
    design = source.model.design
    scale = EffectScale.in_design(design, row, mcid, rope, direction)
    chosen = prior_set(priors, scale, model_prior(source))
    notes = default_note(scale, priors)
    if isinstance(priors, str) and (improper := source.flat_obstacle()):
        chosen = {name: prior for name, prior in chosen.items() if prior.name != "Flat"}
        notes.append(f"There is no reference row. {improper}")
    draws_of = Reweighter(source, [likelihood])
    posteriors = {name: draws_of.posterior(prior, name) for name, prior in chosen.items()}
    factors = _bayes_factors(draws_of, posteriors)
    curves = None
    if not design.family.gaussian:  # else a difference of means is the effect itself
        rows, said = rows_with_and_without(design, row)
        if design.modeled:
            rows, said = None, ["Risks are not available: values of covariates are unknown."]
        elif heavy_effects(design, source.priors):
            rows, said = None, ["Risks are not available: averages are over normal effects."]
        notes += said
        curves = rows if rows is None else Risks(design, source.priors, rows, posteriors)
    reference, warned = _likelihood_rows(source.model, row, scale.ratio, level)
    return Reanalysis(
        source.effect.label,
        scale,
        chosen,
        posteriors,
        factors,
        reference,
        level,
        (*notes, *dict.fromkeys(draws_of.notes), *warned),
        curves,
    )


def default_note(scale: EffectScale, priors) -> list[str]:
    """Says that a default stands in for the minimal important difference."""
    if scale.given:
        return []
    size = f"{np.exp(scale.mcid) if scale.ratio else scale.mcid:.4g}"
    note = f"No mcid was given: {size} stands in."
    if isinstance(priors, str):
        note += " The sceptical, enthusiastic and pessimistic priors rest on it."
    return [note]


def model_prior(source: EffectSource | ResponseSource) -> Prior | None:
    """The prior the model itself has for the effect."""
    from bayeslmm.parts.parameters import coef_key

    row, names = source.effect.row, source.model.design.coef_names
    at = np.flatnonzero(row)
    if len(at) == 1 and row[at[0]] == 1:
        own = source.priors[coef_key(names[at[0]])]
        if names[at[0]] != "Intercept" and normal_parameters(own) is None:
            return own
    if not np.isfinite(source.effect.sd):
        return None
    return Prior("Normal", mu=source.effect.mean, sigma=source.effect.sd)


def _bayes_factors(draws_of: Reweighter, posteriors: dict[str, EffectPosterior]) -> pd.DataFrame:
    rows = {}
    for name, posterior in posteriors.items():
        log_bf, error, method = draws_of.log_bayes_factor(posterior)
        rows[name] = (np.exp(log_bf), error, method)
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["bf10", "relative_error", "method"]
    )


def _likelihood_rows(model: Model, row: np.ndarray, ratio: bool, level: float):
    """REML with each choice of degrees of freedom, or ML, and what there is to say about it."""
    gaussian = model.design.family.gaussian
    what, ways = ("REML", _LIKELIHOOD_ROWS) if gaussian else ("ML", {"ML, Wald": "normal"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ModelWarning)
        try:
            fit = model.reml() if gaussian else model.ml()
            rows = {
                name: fit.contrast(row, ddf=ddf, level=level).iloc[0] for name, ddf in ways.items()
            }
        except (ValueError, PriorError) as err:
            return pd.DataFrame(), (f"{what} is not available: {err}",)
    table = pd.DataFrame(rows).T.astype(float).rename(columns={"se": "sd"})
    if ratio:
        ends = ["estimate", "lower", "upper"]
        table[ends] = np.exp(table[ends])
    said = dict.fromkeys(f"{what}: {w.message}" for w in caught)
    shown = ["estimate", "sd", "lower", "upper", "df", "p"]
    return table[[name for name in shown if name in table]], tuple(said)


def effect_row_values(
    posterior: EffectPosterior, scale: EffectScale, level: float
) -> dict[str, float]:
    """A posterior's row of the table; see :attr:`Reanalysis.table`."""
    lower, upper = posterior.interval(level)
    up = scale.sign > 0
    low, high = scale.rope
    values = {
        "estimate": posterior.quantile(0.5) if scale.ratio else posterior.mean,
        "sd": posterior.sd,
        "lower": lower,
        "upper": upper,
    }
    if scale.ratio:
        values |= {key: float(np.exp(values[key])) for key in ("estimate", "lower", "upper")}
    inside = 1.0 - posterior.cdf(low) - posterior.survival(high)
    return values | {
        "p_benefit": posterior.survival(0.0) if up else posterior.cdf(0.0),
        "p_mcid": posterior.survival(scale.mcid) if up else posterior.cdf(-scale.mcid),
        "p_rope": float(np.clip(inside, 0.0, 1.0)),
        "p_harm": posterior.cdf(0.0) if up else posterior.survival(0.0),
    }
