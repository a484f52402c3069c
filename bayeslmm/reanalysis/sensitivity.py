"""How the conclusion moves as the prior on the effect gets wider, narrower or moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.parts.prior import Prior
from bayeslmm.reanalysis.prior_sets import EffectScale
from bayeslmm.reanalysis.reanalyze import effect_row_values
from bayeslmm.reanalysis.reweighting import Reweighter
from bayeslmm.reanalysis.sources import source_and_likelihood
from bayeslmm.results.printing import Table, format_table

if TYPE_CHECKING:
    from bayeslmm.protocols import Model, PosteriorResult

__all__ = ["Sensitivity", "sensitivity"]


@dataclass(frozen=True)
class Sensitivity:
    """Posterior summaries along a path of normal priors.

    Attributes
    ----------
    effect : str
    moving : {"scale", "center"}
        What changes along the path.
    fixed : float
        The prior's center, or its scale, which does not.
    table : pandas.DataFrame
        Indexed by the scale or center; columns ``estimate sd lower upper p_benefit p_mcid p_rope
        p_harm bf10 k_hat``, as in :attr:`bayeslmm.reanalysis.reanalyze.Reanalysis.table`.
    threshold : float
    tipping_points : tuple of float
        Scales or centers at which P(benefit) crosses the threshold.
    scale : EffectScale
    level : float
    notes : tuple of str
    """

    effect: str
    moving: str
    fixed: float
    table: pd.DataFrame
    threshold: float
    tipping_points: tuple[float, ...]
    scale: EffectScale
    level: float
    notes: tuple[str, ...]

    def plot(self, axes=None):
        """Estimate with its interval, and probabilities, along the path.

        Parameters
        ----------
        axes : sequence of two matplotlib axes, optional

        Returns
        -------
        array of matplotlib axes
        """
        from bayeslmm.reanalysis.figures import sensitivity_curves

        return sensitivity_curves(self, axes)

    def describe(self) -> str:
        """The table and the tipping points, in words."""
        other = "center" if self.moving == "scale" else "scale"
        where = ", ".join(f"{value:.4g}" for value in self.tipping_points)
        if where:
            end = f"crosses {self.threshold:g} at a prior {self.moving} of {where}"
        else:
            first = self.table["p_benefit"].iloc[0]
            side = "above" if first > self.threshold else "below"
            end = f"stays {side} {self.threshold:g} over the whole range"
        lines = [
            f"{self.effect}: prior Normal with its {self.moving} moving ({other} {self.fixed:.4g})",
            f"P(benefit) {end}.",
            "",
            format_table(self.table),
            *self.notes,
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


def sensitivity(
    model: Model | PosteriorResult,
    effect,
    *,
    scale=None,
    center=None,
    threshold: float = 0.95,
    mcid: float | None = None,
    rope=None,
    direction: str = "higher is better",
    level: float = 0.95,
    draws: int = 4000,
    random_seed: int = 0,
    cores: int | None = None,
) -> Sensitivity:
    """The posterior of an effect as its normal prior's scale or center moves.

    Parameters
    ----------
    model, effect, mcid, rope, direction, level, draws, random_seed, cores
        As in :func:`bayeslmm.reanalyze`.
    scale : float or sequence of float, optional
        The prior's standard deviation; a sequence is the path, a number stays. By default 25
        scales from a tenth to thirty times ``mcid``.
    center : float or sequence of float, optional
        The prior's mean, likewise; 0 by default.
    threshold : float
        Tipping points are where P(benefit) crosses it.

    Returns
    -------
    Sensitivity

    Raises
    ------
    ValueError
        If both or neither can move, a value is out of range, or there is no such effect.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", blm.load_dataset("sleepstudy"))
    >>> curve = blm.sensitivity(model, "Days", scale=[0.3, 1, 3, 10], draws=2000)
    >>> len(curve.tipping_points)
    1
    """
    from bayeslmm.results.tables import check_level

    check_level(level)
    if not (isinstance(threshold, int | float) and 0 < threshold < 1):
        raise ValueError(f"threshold must be between 0 and 1, not {threshold!r}.")
    source, likelihood = source_and_likelihood(
        model, effect, random_seed=random_seed, draws=draws, cores=cores
    )
    effect_scale = EffectScale.in_design(
        source.model.design, source.effect.row, mcid, rope, direction
    )
    moving, path, fixed = _path(scale, center, effect_scale.mcid)
    draws_of = Reweighter(source, [likelihood])

    def posterior_at(value: float):
        mu, sigma = (fixed, value) if moving == "scale" else (value, fixed)
        return draws_of.posterior(Prior("Normal", mu=float(mu), sigma=float(sigma)))

    rows = []
    for value in path:
        posterior = posterior_at(value)
        row = effect_row_values(posterior, effect_scale, level)
        row["bf10"] = np.exp(draws_of.log_bayes_factor(posterior)[0])
        row["k_hat"] = posterior.k_hat if np.isfinite(posterior.k_hat) else np.nan
        rows.append(row)
    table = Table(rows, index=pd.Index(path, name=f"prior {moving}"))

    def excess(value: float) -> float:
        row = effect_row_values(posterior_at(value), effect_scale, level)
        return row["p_benefit"] - threshold

    tipping = _crossings(path, table["p_benefit"].to_numpy() - threshold, excess)
    return Sensitivity(
        source.effect.label,
        moving,
        fixed,
        table,
        float(threshold),
        tipping,
        effect_scale,
        level,
        tuple(dict.fromkeys(draws_of.notes)),
    )


def _path(scale, center, mcid: float) -> tuple[str, np.ndarray, float]:
    """What moves, along which values, and the value of the other."""
    many_scales, many_centers = np.ndim(scale) > 0, np.ndim(center) > 0
    if many_scales and many_centers:
        raise ValueError("Either scale or center is a sequence: one moves, the other stays.")
    if scale is not None and not many_scales and not many_centers:
        raise ValueError("With one scale, center must be a sequence of values to move through.")
    if scale is None:
        scale = 2.0 * mcid if many_centers else mcid * np.geomspace(0.1, 30.0, 25)
    center = 0.0 if center is None else center
    try:
        scale, center = np.asarray(scale, dtype=float), np.asarray(center, dtype=float)
    except (TypeError, ValueError):
        raise ValueError("scale and center must be numbers or sequences of numbers.") from None
    if not (np.all(np.isfinite(center)) and np.all(np.isfinite(scale)) and np.all(scale > 0)):
        raise ValueError("scale must be positive and center finite.")
    moving, path, fixed = ("center", center, scale) if center.ndim else ("scale", scale, center)
    path = np.unique(path)
    if len(path) < 2:
        raise ValueError(f"{moving} needs at least two different values.")
    return moving, path, float(fixed)


def _crossings(
    path: np.ndarray, gap: np.ndarray, excess: Callable[[float], float]
) -> tuple[float, ...]:
    """Where the curve crosses zero, to a thousandth of the step."""
    from scipy.optimize import brentq

    found = []
    for at in np.flatnonzero(np.sign(gap[1:]) != np.sign(gap[:-1])):
        low, high = path[at], path[at + 1]
        if gap[at] == 0 or gap[at + 1] == 0 or excess(low) * excess(high) > 0:
            found.append(float(low if abs(gap[at]) < abs(gap[at + 1]) else high))
            continue
        found.append(float(brentq(excess, low, high, xtol=1e-3 * (high - low))))
    return tuple(dict.fromkeys(found))
