"""What leave-one-out returns: ArviZ's result with Monte Carlo errors and the record of refits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from arviz_stats.utils import ELPDDataLOO

from bayeslmm.bayes.draws import coefficient_draws, component_draws
from bayeslmm.bayes.laplace_posterior import samples_effects

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import PosteriorResult

__all__ = [
    "K_HAT",
    "LeaveOneOut",
    "Refits",
    "efficiency",
    "influences",
    "refit_above",
    "with_errors",
]

#: Above this k-hat a smoothed estimate is not trusted at any number of draws.
K_HAT = 0.7

#: With at most this many rows a refit is cheap, and few rows leave little to average errors out:
#: units are then refitted above the k-hat at which the variance of the weights stops being finite.
_FEW_ROWS = 1000
_K_HAT_FEW = 0.5

#: Numbers held at once while errors are computed.
_BLOCK = 4e6


@dataclass(frozen=True)
class Refits:
    """Units replaced by their exact densities: positions, log densities and what is known of each.

    Attributes
    ----------
    at, elpd, k_hat, effective, error : tuples of equal length
    """

    at: tuple = ()
    elpd: tuple = ()
    k_hat: tuple = ()
    effective: tuple = ()
    error: tuple = ()


@dataclass(kw_only=True, repr=False)
class LeaveOneOut(ELPDDataLOO):
    """ArviZ's result, and how sure its sum is.

    Attributes
    ----------
    mcse : float
        Monte Carlo standard error of ``elpd``; nan where that of a unit is not known.
    mcse_i : DataArray
        Monte Carlo standard error of ``elpd_i``; nan where k-hat is above 0.7.
    n_eff_i : DataArray
        Effective draws behind each unit that was refitted, nan for others.
    likelihood : str
        ``"integrated"``, ``"conditional"``, or over which factor's effects it is integrated.
    """

    mcse: float = np.nan
    mcse_i: xr.DataArray | None = None
    likelihood: str = "integrated"
    left_out: Any = None
    outlier_weights: Any = None

    def _footer(self):
        lines = [f"Monte Carlo standard error of elpd: {self.mcse:.2g}"]
        if np.isnan(self.mcse):
            count = int(np.isnan(self.mcse_i.to_numpy()).sum())
            lines = [f"Monte Carlo error of elpd unknown: k-hat above {K_HAT} in {count} units"]
        refitted = self.n_eff_i.to_numpy()[np.isfinite(self.n_eff_i.to_numpy())]
        if len(refitted):
            lines.append(
                f"Refitted: {len(refitted)} units, at least {refitted.min():.0f} effective draws"
            )
        if self.likelihood.startswith("integrated over"):
            lines.append(f"Likelihood: {self.likelihood}, given the effects of the other factors")
        return "\n" + "\n".join(lines) + "\n" + super()._footer()


def with_errors(
    found: ELPDDataLOO, values: np.ndarray, efficiency: float, refits: Refits
) -> LeaveOneOut:
    """Monte Carlo errors added and refitted units put in.

    The variance of a self-normalized importance estimate is that of equation 7 of Vehtari, Simpson,
    Gelman, Yao and Gabry (2024, J. Mach. Learn. Res. 25(72)), divided by the efficiency of the
    chain. All units share the draws, so their errors are added draw by draw.

    Parameters
    ----------
    values : (m, units) array
        Log densities.
    efficiency : float
        Independent draws per draw.
    """
    weights = found.log_weights.transpose("chain", "draw", ...).to_numpy().reshape(values.shape)
    kept = np.setdiff1d(np.arange(values.shape[1]), refits.at)
    errors, shared = np.empty(values.shape[1]), np.zeros(len(values))
    step = max(1, int(_BLOCK // len(values)))
    for start in range(0, len(kept), step):
        part = kept[start : start + step]
        influence = influences(weights[:, part], values[:, part])
        errors[part] = np.sqrt((influence**2).sum(axis=0) / efficiency)
        shared += influence.sum(axis=1)
    at = list(refits.at)
    errors[at] = refits.error
    parts = {name: getattr(found, name).to_numpy().copy() for name in ("elpd_i", "pareto_k")} | {
        "n_eff_i": np.full(len(errors), np.nan),
        "mcse_i": errors,
    }
    parts["elpd_i"][at], parts["pareto_k"][at] = refits.elpd, refits.k_hat
    parts["n_eff_i"][at] = refits.effective
    unknown = ~(parts["pareto_k"] <= K_HAT)
    errors[unknown] = np.nan
    total = np.sqrt((shared**2).sum() / efficiency + (np.array(refits.error) ** 2).sum())
    own = {field.name: getattr(found, field.name) for field in fields(ELPDDataLOO)}
    own |= {name: found.elpd_i.copy(data=part) for name, part in parts.items()}
    elpd = parts["elpd_i"]
    # ddof as ArviZ: models in one comparison must not differ by whether a unit was refitted
    own |= {"elpd": float(elpd.sum()), "se": float(np.sqrt(len(elpd) * np.var(elpd, ddof=1)))}
    own["warning"] = bool(np.any(~(parts["pareto_k"] <= found.good_k)))
    return LeaveOneOut(**own, mcse=np.nan if unknown.any() else float(total))


def refit_above(n_rows: int) -> float:
    """k-hat above which units are refitted."""
    return _K_HAT_FEW if n_rows <= _FEW_ROWS else K_HAT


def influences(log_weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What each draw (first axis) adds to the error of the log of a weighted mean of exp(values).

    The root of the sum of squares is its standard error.
    """
    weights = np.exp(log_weights - log_weights.max(axis=0))
    weights /= weights.sum(axis=0)
    densities = np.exp(values - values.max(axis=0))
    return weights * (densities / (weights * densities).sum(axis=0) - 1.0)


def efficiency(fit: PosteriorResult, posterior: xr.Dataset) -> float:
    """Independent draws of the slowest parameter that is not integrated out, per draw."""
    from arviz_stats.base import array_stats

    design = fit.model.design
    draws = component_draws(design, fit.names, posterior)[1]
    if samples_effects(design, fit.priors):
        draws = np.concatenate([draws, coefficient_draws(design, posterior)[1]], axis=-1)
    n = draws.shape[0] * draws.shape[1]
    moving = [column for column in np.moveaxis(draws, -1, 0) if np.ptp(column) > 0]
    found = [float(array_stats.ess(column, method="mean")) for column in moving]
    found += [value for value in (fit.info.effective_draws,) if value is not None]
    found = [value for value in found if np.isfinite(value)]
    return float(np.clip(min(found, default=n), 1.0, n)) / n
