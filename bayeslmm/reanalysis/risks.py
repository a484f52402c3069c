"""Population-average risks with and without an effect, under every prior on it.

In a logit model the odds ratio of a group is not that of the population, and neither is a risk
ratio or a risk difference. So the rows of the data are moved by the effect, and their means are
averaged over the distribution of the random effects (:mod:`bayeslmm.results.population_average`)
and over the rows. On every slice of the joint density these averages are smooth functions of the
effect: they are computed at a few of its values, and every prior on it costs nothing more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bayeslmm.bayes.whitened_fitting import in_formula, low_draws
from bayeslmm.formula import Design
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.priors.table import Priors
from bayeslmm.reanalysis.posteriors import EffectPosterior, log_prior_density
from bayeslmm.reanalysis.slices import SliceLikelihood
from bayeslmm.results.averages import EVENTS, interval_scale
from bayeslmm.results.population_average import (
    effect_variances,
    population_mean,
    population_probabilities,
)
from bayeslmm.results.printing import returns_table

__all__ = ["Risks", "Rows", "rows_with_and_without"]

#: Values of the effect at which averages are computed: of a polynomial on the scale of the link.
_NODES = 7
#: Values of the effect per slice that stand for its conditional distribution.
_QUANTILES = 8
#: Numbers that are held at a time.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Rows:
    """Rows of the data without and with an effect, those that are alike counted.

    Attributes
    ----------
    X : (2, n, p) array
        Columns of the coefficients; the two differ by the effect in the linear predictor.
    Z : tuple of (2, n, q_k) arrays
    offset : (n,) array
    shares : (n,) array
        Of all rows.
    """

    X: np.ndarray
    Z: tuple[np.ndarray, ...]
    offset: np.ndarray
    shares: np.ndarray


def rows_with_and_without(design: Design, row: np.ndarray) -> tuple[Rows | None, list[str]]:
    """The rows of a design moved by an effect, and what there is to say about it.

    A 0/1 column is set to zero without the effect and to its weight with it (1, of a lone
    coefficient), and so are the other columns of its factor to zero; columns of negative weight
    are moved in the rows without it. A numeric column stays as observed, and is moved by its
    weight. Where no rows are that, as for an intercept, there are none.
    """
    if design.family.link.name == "inverse":
        return None, ["Risks are not available with the inverse link: its means have no average."]
    moved = np.flatnonzero(row)
    binary = np.isin(design.X, (0.0, 1.0)).all(axis=0)
    both = np.stack([design.X, design.X])
    zeroed: set[int] = set()
    components: set[str] = set()
    notes = []
    for term in design.terms:
        columns = np.arange(len(row))[term.columns]
        mine = np.intersect1d(columns, moved)
        if not len(mine):
            continue
        if not term.components:
            return None, ["Risks are not available: no rows differ by the intercept alone."]
        components |= _variables(" ".join(term.components))
        zeroed |= set((columns if binary[columns].all() else mine[binary[mine]]).tolist())
    products = [
        term.name
        for term in design.terms
        if components & _variables(" ".join(term.components))
        and not np.isin(np.arange(len(row))[term.columns], moved).any()
    ]
    if products:
        notes.append(f"Risks: columns of {', '.join(products)} stay as observed.")
    both[:, :, sorted(zeroed)] = 0.0
    for j in moved:
        both[int(row[j] > 0), :, j] += abs(row[j])
    names = list(design.coef_names)
    Z = []
    for block in design.blocks:
        effects = np.stack([block.Z, block.Z])
        for k, effect in enumerate(block.effects):
            if effect in names and names.index(effect) in zeroed | set(moved.tolist()):
                effects[:, :, k] = both[:, :, names.index(effect)]
            elif effect != "Intercept" and components & _variables(effect):
                why = f"the random effect {effect} of {block.name} moves with it in another coding"
                return None, [f"Risks are not available: {why}."]
        Z.append(effects)
    return _counted(both, Z, design.offset), notes


def _variables(text: str) -> set[str]:
    """Names of what a term is made of, without functions and levels."""
    return set(re.findall(r"[^\W\d][\w.]*(?![\w.]*\()", re.sub(r"\[[^\]]*\]", "", text)))


def _counted(X: np.ndarray, Z: list[np.ndarray], offset: np.ndarray) -> Rows:
    whole = np.hstack([*X, *(part for z in Z for part in z), offset[:, None]])
    _, first, counts = np.unique(whole, axis=0, return_index=True, return_counts=True)
    return Rows(
        X[:, first], tuple(z[:, first] for z in Z), offset[first], counts / len(offset)
    )  # fmt: skip


@dataclass
class Risks:
    """Averages over rows and groups, as functions of the effect on every slice.

    Attributes
    ----------
    design : Design
    priors : Priors
    rows : Rows
    posteriors : dict of str to EffectPosterior
        Of :class:`bayeslmm.reanalysis.slices.SliceLikelihood`.
    """

    design: Design
    priors: Priors
    rows: Rows
    posteriors: dict[str, EffectPosterior]
    _curves: dict[int, tuple] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Columns: without, with, their ratio and their difference."""
        if self.design.family.name in EVENTS:
            return "risk_without", "risk_with", "risk_ratio", "risk_difference"
        return "mean_without", "mean_with", "ratio", "difference"

    @returns_table
    def table(self, level: float) -> pd.DataFrame:
        """One row per prior.

        Parameters
        ----------
        level : float

        Returns
        -------
        pandas.DataFrame
            Population averages without and with the effect, their ratio and difference, each with
            ``_lower`` and ``_upper``; posterior means, of the ratio the median.
        """
        rows = {name: self._row(posterior, level) for name, posterior in self.posteriors.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("prior")

    def _row(self, posterior: EffectPosterior, level: float) -> dict[str, float]:
        e, weights = _conditional(posterior)
        without, with_it = self._at(posterior.likelihood, e)
        out: dict[str, float] = {}
        of = (without, with_it, with_it / without, with_it - without)
        for name, values in zip(self.names, of, strict=True):
            ends = (1 - level) / 2, (1 + level) / 2
            low, middle, high = _quantiles(values, weights, (ends[0], 0.5, ends[1]))
            center = middle if name.endswith("ratio") else float((weights * values).sum())
            out |= {name: center, f"{name}_lower": low, f"{name}_upper": high}
        return out

    def _at(self, likelihood, e: np.ndarray) -> np.ndarray:
        """Averages (2, n, m) without and with the effect at values e (n, m) of it."""
        if id(likelihood) not in self._curves:
            alike = [p for p in self.posteriors.values() if p.likelihood is likelihood]
            low = min(p.quantile(1e-4) for p in alike)
            high = max(p.quantile(1 - 1e-4) for p in alike)
            middle, half = 0.5 * (low + high), 0.5 * (high - low)
            x = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
            values = self._averages(likelihood, middle + half * x)
            self._curves[id(likelihood)] = middle, half, x, values
        middle, half, x, values = self._curves[id(likelihood)]
        at = np.clip((e - middle) / half, -1.0, 1.0)
        # Chebyshev's polynomials, from their values at their roots
        total = np.zeros((2, *e.shape))
        for degree in range(_NODES):
            T = np.cos(degree * np.arccos(x))
            size = (values @ T) * (1.0 if degree == 0 else 2.0) / _NODES
            total += size[:, :, None] * np.cos(degree * np.arccos(at))
        return interval_scale(self.design.family).inverse(total)

    def _averages(self, likelihood: SliceLikelihood, e: np.ndarray) -> np.ndarray:
        """Averages (2, n, m), on the scale of the link, at values e (m,) that all slices share."""
        slices = likelihood.slices
        assert slices is not None  # of a response that is not Gaussian
        Z = slices.z(e[None]).reshape(-1, slices.density.n_dim)
        with single_threaded_blas():
            low, _ = low_draws(slices.density, Z)
        beta, phi, _, factors = in_formula(slices.density.laplace, self.priors, low)
        Sigmas = [F @ F.transpose(0, 2, 1) for F in factors]
        out = np.empty((2, len(Z)))
        step = max(1, _BLOCK // len(self.rows.offset))
        for start in range(0, len(Z), step):
            part = slice(start, start + step)
            for side in (0, 1):
                eta = beta[part] @ self.rows.X[side].T + self.rows.offset
                variance = effect_variances(
                    [Sigma[part] for Sigma in Sigmas], [z[side] for z in self.rows.Z]
                )
                out[side, part] = self._mean(eta, variance, phi[part, None]) @ self.rows.shares
        scale = interval_scale(self.design.family)
        return scale.link(out).reshape(2, -1, len(e))

    def _mean(self, eta: np.ndarray, variance: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """Of ordered categories the probability of those above the first: odds of the model's
        coefficients are of being above any of them.
        """
        family = self.design.family
        variance = np.broadcast_to(variance, eta.shape)
        if family.name == "ordinal":
            return 1.0 - population_probabilities(family, eta, variance, phi)[..., 0]
        return population_mean(family, eta, variance, phi)


def _conditional(posterior: EffectPosterior) -> tuple[np.ndarray, np.ndarray]:
    """Values of the effect (n, m) that stand for its distribution on every slice, and weights."""
    grid = np.asarray(posterior.grid)
    logs = posterior.likelihood.on(grid, slice(None)) + log_prior_density(posterior.prior, grid)
    heights = np.exp(logs - logs.max(axis=1, keepdims=True))
    steps = 0.5 * np.diff(grid) * (heights[:, 1:] + heights[:, :-1])
    total = np.hstack([np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)])
    total /= total[:, -1:]
    n = len(total)
    # other quantiles on every slice, evenly spread over all of them
    shift = np.modf(np.arange(n) * (np.sqrt(5.0) - 1.0) / 2.0)[0]
    at = (np.arange(_QUANTILES) + shift[:, None]) / _QUANTILES
    e = np.array([np.interp(p, own, grid) for p, own in zip(at, total, strict=True)])
    return e, np.repeat(posterior.weights[:, None] / _QUANTILES, _QUANTILES, axis=1)


def _quantiles(values: np.ndarray, weights: np.ndarray, at) -> np.ndarray:
    order = np.argsort(values, axis=None)
    total = np.cumsum(weights.ravel()[order])
    middle = total - 0.5 * weights.ravel()[order]
    return np.interp(at, middle / total[-1], values.ravel()[order])
