"""Posterior predictive checks with test statistics that know the groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import BayesLMMError
from bayeslmm.formula import Design
from bayeslmm.formula.random import RandomBlock
from bayeslmm.results.findings import Finding
from bayeslmm.results.response_checks import is_count

if TYPE_CHECKING:
    from bayeslmm.protocols import PosteriorResult

__all__ = ["default_statistics", "predictive_check", "predictive_findings"]

_MAX_VALUES = 2e7
#: Share of replications beyond the observed value, on one side, from which a check fails: of 1000
#: replications at most 2.
_FAILED = 0.002
_SHARES = ("bernoulli", "binomial")

type Statistic = Callable[[np.ndarray, np.ndarray], float]


def predictive_check(
    fit: PosteriorResult,
    statistics: Mapping[str, Statistic] | None,
    *,
    factor: str | None,
    groups: str | Sequence[str],
    draws: int,
    random_seed: int | None,
) -> pd.DataFrame:
    """See :meth:`bayeslmm.PosteriorFit.predictive_check`."""
    from bayeslmm.bayes.predictive import posterior_predictive

    design = fit.model.design
    block = _block(design, factor)
    codes = np.zeros(design.n_rows, dtype=np.int64) if block is None else block.codes
    chosen = default_statistics(design, block) if statistics is None else _checked(statistics)
    posterior = fit.posterior
    room = int(_MAX_VALUES // (design.n_rows * posterior.sizes["chain"]))
    most = min(posterior.sizes["draw"], max(room, 25))
    replicated = posterior_predictive(
        design,
        fit.names,
        posterior,
        groups=groups,
        draws=min(draws, most),
        random_seed=random_seed,
    )[fit.names.response].to_numpy()
    replicated = replicated.reshape(-1, design.n_rows)
    rows = {}
    for name, statistic in chosen.items():
        observed = _value(name, statistic, design.y, codes)
        values = np.array([_value(name, statistic, y, codes) for y in replicated])
        lower, upper = np.quantile(values, [0.025, 0.975])
        rows[name] = {
            "observed": observed,
            "mean": values.mean(),
            "sd": values.std(ddof=1),
            "lower": lower,
            "upper": upper,
            "p": np.mean(values > observed) + 0.5 * np.mean(values == observed),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "statistic"
    return table


def default_statistics(design: Design, block: RandomBlock | None) -> dict[str, Statistic]:
    """What a mixed model should reproduce: location, spread, extremes, groups, slopes."""
    if design.family.name in _SHARES:
        return _of_shares(design, block)
    chosen = _of_rows(design)
    if block is None:
        return chosen
    chosen[f"sd of means | {block.name}"] = _sd_of_means
    chosen[f"range of means | {block.name}"] = _range_of_means
    if np.bincount(block.codes).max() > 1:
        chosen[f"sd within | {block.name}"] = _sd_within
    for j, effect in enumerate(block.effects):
        if effect != "Intercept" and (slopes := _sd_of_slopes(block.Z[:, j], block.codes)):
            chosen[f"sd of slopes of {effect} | {block.name}"] = slopes
    return chosen


def _of_rows(design: Design) -> dict[str, Statistic]:
    """Without groups: of counts their zeros and dispersion, of categories how many of each."""
    if design.family.name == "ordinal":
        return {f"share of {c}": _share_of(k) for k, c in enumerate(design.categories)}
    mean: dict[str, Statistic] = {"mean": lambda y, codes: y.mean()}
    if is_count(design):
        return mean | {
            "share of zeros": lambda y, codes: np.mean(y == 0),
            "variance / mean": lambda y, codes: y.var(ddof=1) / max(y.mean(), 1.0 / len(y)),
            "max": lambda y, codes: y.max(),
        }
    return mean | {
        "sd": lambda y, codes: y.std(ddof=1),
        "min": lambda y, codes: y.min(),
        "max": lambda y, codes: y.max(),
    }


def _share_of(k: int) -> Statistic:
    return lambda y, codes: float(np.mean(y == k))


def _of_shares(design: Design, block: RandomBlock | None) -> dict[str, Statistic]:
    """Of responses of 0 and 1 and counts of trials: shares of trials, of rows and of groups."""
    trials = np.ones(design.n_rows) if design.trials is None else design.trials
    chosen: dict[str, Statistic] = {"share": lambda y, codes: y.sum() / trials.sum()}
    if trials.max() > 1:
        chosen |= {
            "share of rows with none": lambda y, codes: np.mean(y == 0),
            "share of rows with all": lambda y, codes: np.mean(y == trials),
            "sd of shares": lambda y, codes: (y / trials).std(ddof=1),
        }
    if block is None:
        return chosen

    def shares(y: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return np.bincount(codes, weights=y) / np.bincount(codes, weights=trials)

    chosen[f"sd of shares | {block.name}"] = lambda y, codes: shares(y, codes).std(ddof=1)
    chosen[f"groups with none | {block.name}"] = lambda y, codes: np.mean(shares(y, codes) == 0)
    chosen[f"groups with all | {block.name}"] = lambda y, codes: np.mean(shares(y, codes) == 1)
    return chosen


def _group_means(y: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.bincount(codes, weights=y) / np.bincount(codes)


def _sd_of_means(y: np.ndarray, codes: np.ndarray) -> float:
    return _group_means(y, codes).std(ddof=1)


def _range_of_means(y: np.ndarray, codes: np.ndarray) -> float:
    return float(np.ptp(_group_means(y, codes)))


def _sd_within(y: np.ndarray, codes: np.ndarray) -> float:
    """Pooled standard deviation around the groups' means."""
    gap = y - _group_means(y, codes)[codes]
    return float(np.sqrt(np.sum(gap**2) / max(len(y) - codes.max() - 1, 1)))


def _sd_of_slopes(z: np.ndarray, codes: np.ndarray) -> Statistic | None:
    """Standard deviation of the groups' least-squares slopes on z, of groups where z varies."""
    centered = z - _group_means(z, codes)[codes]
    total = np.bincount(codes, weights=centered**2)
    varies = total > 1e-12 * max(float(np.max(total)), 1e-300)
    if varies.sum() < 2:
        return None

    def statistic(y: np.ndarray, codes: np.ndarray) -> float:
        slopes = np.bincount(codes, weights=centered * y)[varies] / total[varies]
        return slopes.std(ddof=1)

    return statistic


def _block(design: Design, factor: str | None) -> RandomBlock | None:
    if factor is not None:
        return design.block(factor)
    return design.blocks[0] if design.blocks else None


def _checked(statistics: Mapping[str, Statistic]) -> dict[str, Statistic]:
    if not isinstance(statistics, Mapping) or not statistics:
        raise ValueError('statistics must be a dict such as {"name": lambda y, codes: y.max()}.')
    for name, statistic in statistics.items():
        if not callable(statistic):
            raise ValueError(f"The statistic {name!r} is not a function of (y, codes).")
    return dict(statistics)


def _value(name: str, statistic: Statistic, y: np.ndarray, codes: np.ndarray) -> float:
    value = np.asarray(statistic(y, codes))
    if value.shape not in ((), (1,)) or not np.isfinite(value).all():
        raise ValueError(f"The statistic {name!r} must give one finite number, not {value!r}.")
    return float(value.reshape(()))


def predictive_findings(fit: PosteriorResult) -> list[Finding]:
    """Statistics of the data that replicated data do not reach, in words."""
    try:
        table = predictive_check(
            fit, None, factor=None, groups="same", draws=250, random_seed=fit.info.random_seed
        )
    except (BayesLMMError, ValueError):
        return []
    failed = table[np.minimum(table["p"], 1 - table["p"]) <= _FAILED]
    return [
        Finding(
            "predictive check",
            f"The data's {name} is {row['observed']:.4g}, and data replicated by the model have "
            f"{row['lower']:.4g} to {row['upper']:.4g}: the model does not reproduce it.",
            _remedy(fit.model.design, str(name)),
        )
        for name, row in failed.iterrows()
    ]


def _remedy(design: Design, statistic: str) -> str:
    if statistic in ("min", "max") and design.family.name == "gaussian":
        return 'Look at the extreme rows; family="student" allows for heavy tails.'
    if statistic in ("variance / mean", "share of zeros") and "poisson" in design.family.name:
        return 'Try family="negativebinomial", or a zero-inflated one.'
    return "Look at plot_ppc() and plot_residuals() for what is missing: a term, or another family."
