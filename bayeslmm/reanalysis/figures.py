"""Pictures of a reanalysis: forest of posteriors, prior beside posterior, sensitivity curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.reanalysis.posteriors import log_prior_density

if TYPE_CHECKING:
    from bayeslmm.reanalysis.assurance import Assurance
    from bayeslmm.reanalysis.reanalyze import Reanalysis
    from bayeslmm.reanalysis.sensitivity import Sensitivity

__all__ = ["assurance_curves", "densities", "forest", "sensitivity_curves"]

_POSTERIOR, _PRIOR, _LIKELIHOOD = "#1f5aa6", "#b0b0b0", "#333333"


def forest(result: Reanalysis, ax=None):
    """Estimates and intervals under every prior, the original analysis below."""
    import matplotlib.pyplot as plt

    table = result.table
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.34 * len(table) + 1.4), layout="constrained")
    y = np.arange(len(table))[::-1]
    bayes = np.array([name in result.posteriors for name in table.index])
    for mask, color, marker in ((bayes, _POSTERIOR, "o"), (~bayes, _LIKELIHOOD, "s")):
        ax.hlines(y[mask], table["lower"][mask], table["upper"][mask], color=color, lw=2)
        ax.plot(table["estimate"][mask], y[mask], marker, color=color, ms=5)
    _mark_scale(ax, result)
    ax.set_yticks(y, table.index)
    ax.set_xlabel(f"{result.effect} ({100 * result.level:g} % intervals)")
    ax.set_ylim(-0.7, len(table) - 0.3)
    return ax


def _mark_scale(ax, result: Reanalysis) -> None:
    """No effect, the region of practical equivalence, the minimal important difference."""
    s = result.scale
    unit = np.exp if s.ratio else float
    if s.ratio:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("{x:g}")
    ax.axvspan(unit(s.rope[0]), unit(s.rope[1]), color="#888888", alpha=0.12, lw=0)
    ax.axvline(unit(0.0), color="0.3", lw=1)
    ax.axvline(unit(s.sign * s.mcid), color="0.3", lw=1, ls=":")


def densities(result: Reanalysis, columns: int = 3):
    """Prior (gray) and posterior (blue) density under each prior, one panel each."""
    import matplotlib.pyplot as plt

    names = list(result.posteriors)
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(2.9 * columns, 1.7 * rows + 0.4),
        sharex=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    x = _range(result)
    shown = np.exp(x) if result.scale.ratio else x
    for ax, name in zip(axes.flat, names, strict=False):
        posterior = result.posteriors[name]
        if posterior.prior.is_proper:
            prior = np.exp(log_prior_density(posterior.prior, x))
            ax.fill_between(shown, prior, color=_PRIOR, alpha=0.6, lw=0)
        ax.plot(shown, posterior.density(x), color=_POSTERIOR, lw=1.8)
        ax.set_title(name, fontsize=9)
        ax.set_yticks([])
        ax.set_ylim(bottom=0)
        _mark_scale(ax, result)
        ax.tick_params(labelsize=8)
        if result.scale.ratio:
            ax.xaxis.set_minor_formatter("")
    for ax in list(axes.flat)[len(names) :]:
        ax.remove()
    fig.supxlabel(result.effect, fontsize=10)
    return axes


def _range(result: Reanalysis) -> np.ndarray:
    """What every posterior, zero and the minimal important difference need."""
    low = [p.mean - 4 * p.sd for p in result.posteriors.values()]
    high = [p.mean + 4 * p.sd for p in result.posteriors.values()]
    size = 1.1 * result.scale.mcid
    return np.linspace(min(*low, -size), max(*high, size), 400)


def sensitivity_curves(result: Sensitivity, axes=None):
    """Estimate and interval above, probabilities below, along the path of priors."""
    import matplotlib.pyplot as plt

    if axes is None:
        _, axes = plt.subplots(2, 1, figsize=(6.5, 5.4), sharex=True, layout="constrained")
    top, bottom = axes
    table, x = result.table, result.table.index.to_numpy()
    top.fill_between(x, table["lower"], table["upper"], color=_POSTERIOR, alpha=0.2, lw=0)
    top.plot(x, table["estimate"], color=_POSTERIOR)
    top.axhline(0, color="0.3", lw=1)
    top.set_ylabel(result.effect)
    for column, label, style in (
        ("p_benefit", "P(benefit)", "-"),
        ("p_mcid", "P(beyond the minimal important difference)", "--"),
        ("p_rope", "P(practically equivalent)", ":"),
    ):
        bottom.plot(x, table[column], style, color=_LIKELIHOOD, label=label)
    bottom.axhline(result.threshold, color=_POSTERIOR, lw=0.8)
    for value in result.tipping_points:
        for ax in (top, bottom):
            ax.axvline(value, color=_POSTERIOR, lw=0.8, ls="--")
    bottom.set_ylim(-0.02, 1.02)
    bottom.set_ylabel("posterior probability")
    bottom.set_xlabel(f"{result.moving} of the prior")
    bottom.legend(fontsize=8, frameon=False)
    if result.moving == "scale":
        bottom.set_xscale("log")
        bottom.xaxis.set_major_formatter("{x:g}")
    return np.array([top, bottom])


def assurance_curves(result: Assurance, ax=None):
    """Power and assurance of both criteria against the number of groups."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
    table = result.table
    for column, label, color, style in (
        ("power", "power, REML test", _LIKELIHOOD, "-"),
        ("assurance", "assurance, REML test", _LIKELIHOOD, "--"),
        ("power_posterior", "power, posterior", _POSTERIOR, "-"),
        ("assurance_posterior", "assurance, posterior", _POSTERIOR, "--"),
    ):
        ax.plot(table.index, table[column], style, marker="o", ms=4, color=color, label=label)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel(f"number of groups ({result.factor})")
    ax.set_ylabel("probability of success")
    ax.legend(fontsize=8, frameon=False)
    return ax
