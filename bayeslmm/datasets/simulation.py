"""Data from a mixed model whose truth is known: for the classroom and for tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError

__all__ = ["Simulation", "simulate_item_responses", "simulate_lmm"]

_TERMS = ("Intercept", "time", "treatment", "time:treatment")
_ITEM_TERMS = ("Intercept", "anger", "mode[do]", "situation[self]")
_MECHANISMS = ("mcar", "mar", "mnar")


@dataclass(frozen=True)
class Simulation:
    """Simulated rows and everything they were made from.

    Attributes
    ----------
    data : pandas.DataFrame
        One row per observation. :func:`simulate_lmm`: columns ``y``, ``time`` (0, 1, ...),
        ``group``, and ``treatment`` (0 or 1, constant in a group) where the model has it.
        :func:`simulate_item_responses`: ``y`` (0 or 1), ``anger``, ``mode``, ``situation``,
        ``person``, ``item``.
    complete : pandas.DataFrame
        The same before any row was left out; equal to ``data`` without drop-out and imbalance.
    formula : str
        The model the rows come from, as :class:`~bayeslmm.LMM` takes it.
    beta : pandas.Series
        The coefficients, by name.
    varcomp : pandas.Series
        The variance components on the scale of standard deviations and correlations, named as
        in ``fit.varcomp()``.
    effects : pandas.DataFrame
        The true random effects, one row per group; of several factors, one row per
        ``(factor, level)``.
    family : str
        Distribution of ``y``: "gaussian" or "bernoulli" (with the logit link).

    Examples
    --------
    >>> import bayeslmm as blm
    >>> blm.simulate_lmm(8, 5, beta=[1.0], sd=2.0, seed=1).truth
    Intercept                1.0
    sd(Intercept | group)    2.0
    sigma                    1.0
    Name: truth, dtype: float64
    """

    data: pd.DataFrame
    complete: pd.DataFrame
    formula: str
    beta: pd.Series
    varcomp: pd.Series
    effects: pd.DataFrame
    family: str = "gaussian"

    @property
    def truth(self) -> pd.Series:
        """Coefficients and variance components in one series."""
        return pd.concat([self.beta, self.varcomp]).rename("truth")

    def __repr__(self) -> str:
        rows = len(self.data)
        left_out = len(self.complete) - rows
        missing = f", {left_out} left out" if left_out else ""
        index = self.effects.index
        factors = [index.name] * len(index) if index.nlevels == 1 else index.get_level_values(0)
        levels = ", ".join(f"{n} {factor}s" for factor, n in Counter(factors).items())
        return (
            f"Simulation of {self.formula}: {rows} rows{missing}, {levels}\n"
            f"{self.truth.to_string()}"
        )


def simulate_lmm(
    n_groups: int = 20,
    n_per_group: int = 10,
    beta: Sequence[float] = (0.0, 1.0),
    sd: float | Sequence[float] = (1.0, 0.5),
    corr: float = 0.0,
    sigma: float = 1.0,
    seed: int | np.random.Generator | None = None,
    *,
    dropout: float = 0.0,
    mechanism: str = "mar",
    imbalance: float = 0.0,
) -> Simulation:
    """Simulate repeated measures of groups from a linear mixed model.

    y = b0 + b1 time + b2 treatment + b3 time treatment + u0 + u1 time + e with (u0, u1) normal
    for every group and e normal for every row.

    Parameters
    ----------
    n_groups, n_per_group : int
        Number of groups, and of visits of each at times 0, 1, ..., n_per_group - 1.
    beta : sequence of 1 to 4 floats
        Coefficients of the intercept, time, treatment (every second group is treated), and
        time by treatment; as many as are given are in the model.
    sd : float or sequence of 1 or 2 floats
        Standard deviation of the groups' intercepts, and of their slopes in time.
    corr : float
        Correlation of intercepts and slopes, from -1 to 1.
    sigma : float
        Residual standard deviation.
    seed : int or numpy.random.Generator, optional
        The same seed gives the same data.
    dropout : float
        Expected share of groups, from 0 to below 1, that leave before their last visit; whoever
        leaves does not come back, and everybody has a first visit.
    mechanism : {"mar", "mcar", "mnar"}
        What leaving depends on: the response at the visit before, which was observed (missing at
        random: high values leave), nothing (completely at random), or the response that is then
        not observed (not at random); Rubin (1976).
    imbalance : float
        From 0 to 1: group g keeps a number of visits drawn uniformly from (1 - imbalance)
        n_per_group to n_per_group, at least one, and which ones is left to chance.

    Returns
    -------
    Simulation
        ``.data``, ``.formula``, ``.truth`` and more.

    Raises
    ------
    DataError
        If an argument is out of its range.

    References
    ----------
    Rubin, D. B. (1976). Inference and missing data. Biometrika 63, 581-592;
    https://doi.org/10.1093/biomet/63.3.581

    Examples
    --------
    >>> import bayeslmm as blm
    >>> sim = blm.simulate_lmm(20, 8, beta=(250, 10), sd=(25, 6), corr=0.1, sigma=25, seed=1)
    >>> sim.formula
    'y ~ time + (time | group)'
    >>> sim.data.shape
    (160, 3)
    >>> blm.LMM(sim.formula, sim.data).reml().converged
    True
    """
    coefficients, sds = (np.atleast_1d(np.asarray(v, float)) for v in (beta, sd))
    _check(n_groups, n_per_group, coefficients, sds, corr, sigma, dropout, mechanism, imbalance)
    rng = np.random.default_rng(seed)
    design = _visits(n_groups, n_per_group)
    names = list(_TERMS[: len(coefficients)])
    effects = _effects(rng, n_groups, sds, corr)
    X = np.column_stack(
        [
            np.ones(len(design)),
            design["time"],
            design["treatment"],
            design["time"] * design["treatment"],
        ]
    )
    Z = X[:, : len(sds)]
    own = effects.to_numpy()[design["group"].cat.codes]
    noise = sigma * rng.standard_normal(len(design))
    y = X[:, : len(coefficients)] @ coefficients + np.sum(Z * own, axis=1) + noise
    columns = ["time", *(["treatment"] if len(coefficients) > 2 else []), "group"]
    complete = design[columns].copy()
    complete.insert(0, "y", y)
    kept = _stays(rng, y.reshape(n_groups, n_per_group), dropout, mechanism)
    kept &= _attended(rng, kept, imbalance)
    fixed = {1: "1", 2: "time", 3: "time + treatment", 4: "time * treatment"}[len(coefficients)]
    return Simulation(
        data=complete[kept.ravel()].reset_index(drop=True),
        complete=complete,
        formula=f"y ~ {fixed} + ({'time' if len(sds) == 2 else '1'} | group)",
        beta=pd.Series(coefficients, index=names, name="truth"),
        varcomp=_components(sds, corr, sigma),
        effects=effects,
    )


def simulate_item_responses(
    n_persons: int = 316,
    n_items: int = 24,
    beta: Sequence[float] = (0.7, 0.3, -0.7, -1.0),
    sd: Sequence[float] = (1.3, 0.9),
    seed: int | np.random.Generator | None = None,
) -> Simulation:
    """Simulate persons who answer the same items with yes or no: crossed random effects.

    logit P(y = 1) = b0 + b1 anger + b2 [mode is do] + b3 [situation is self] + u_person + v_item,
    u and v normal. Shape and size are those of a study of verbal aggression: 316 persons say of 24
    items whether they would want to, or would actually, curse, scold or shout in situations where
    others or they themselves are to blame.

    Parameters
    ----------
    n_persons, n_items : int
        Everybody answers every item: n_persons times n_items rows.
    beta : sequence of 4 floats
        Coefficients of the intercept, the person's anger (standard normal), items that ask what
        one would do (every second one) rather than want to do, and items where oneself is to
        blame (the second two of every four) rather than others.
    sd : sequence of 2 floats
        Standard deviations of the persons' and of the items' effects.
    seed : int or numpy.random.Generator, optional
        The same seed gives the same data.

    Returns
    -------
    Simulation
        ``.data``, ``.formula``, ``.family``, ``.truth`` and more; ``.effects.loc["person"]`` and
        ``.effects.loc["item"]`` are the true effects.

    Raises
    ------
    DataError
        If an argument is out of its range.

    References
    ----------
    De Boeck, P. and Wilson, M. (2004). Explanatory Item Response Models. Springer;
    https://doi.org/10.1007/978-1-4757-3990-9

    Examples
    --------
    >>> import bayeslmm as blm
    >>> sim = blm.simulate_item_responses(seed=1)
    >>> sim.formula, sim.family
    ('y ~ anger + mode + situation + (1 | person) + (1 | item)', 'bernoulli')
    >>> sim.data.shape
    (7584, 6)
    """
    coefficients, sds = np.asarray(beta, float), np.asarray(sd, float)
    _refuse(
        {
            "n_persons must be at least 2": n_persons >= 2,
            "n_items must be at least 4": n_items >= 4,
            "beta must have 4 finite numbers": coefficients.shape == (4,)
            and bool(np.isfinite(coefficients).all()),
            "sd must have 2 numbers, none of them negative": sds.shape == (2,)
            and bool((sds >= 0).all()),
        }
    )
    rng = np.random.default_rng(seed)
    anger = rng.standard_normal(n_persons)
    labels = {"person": _labels("p", n_persons), "item": _labels("i", n_items)}
    drawn = np.concatenate(
        [s * rng.standard_normal(len(own)) for s, own in zip(sds, labels.values(), strict=True)]
    )
    person, item = np.divmod(np.arange(n_persons * n_items), n_items)
    do, oneself = item % 2, item // 2 % 2
    X = np.column_stack([np.ones(len(item)), anger[person], do, oneself])
    eta = X @ coefficients + drawn[person] + drawn[n_persons + item]
    data = pd.DataFrame(
        {
            "y": (rng.logistic(size=len(eta)) < eta).astype(int),
            "anger": anger[person],
            "mode": pd.Categorical.from_codes(do, ["want", "do"]),
            "situation": pd.Categorical.from_codes(oneself, ["other", "self"]),
            "person": pd.Categorical.from_codes(person, labels["person"]),
            "item": pd.Categorical.from_codes(item, labels["item"]),
        }
    )
    index = [(factor, level) for factor, own in labels.items() for level in own]
    return Simulation(
        data=data,
        complete=data.copy(),
        formula="y ~ anger + mode + situation + (1 | person) + (1 | item)",
        beta=pd.Series(coefficients, index=list(_ITEM_TERMS), name="truth"),
        varcomp=pd.Series(
            {f"sd(Intercept | {factor})": s for factor, s in zip(labels, sds, strict=True)},
            name="truth",
        ),
        effects=pd.DataFrame(
            {"Intercept": drawn}, index=pd.MultiIndex.from_tuples(index, names=["factor", "level"])
        ),
        family="bernoulli",
    )


def _check(n_groups, n_per_group, beta, sd, corr, sigma, dropout, mechanism, imbalance) -> None:
    rules = {
        "n_groups must be at least 2": n_groups >= 2,
        "n_per_group must be at least 1": n_per_group >= 1,
        "beta must have 1 to 4 finite numbers": 1 <= len(beta) <= 4 and np.isfinite(beta).all(),
        "sd must have 1 or 2 numbers, none of them negative": 1 <= len(sd) <= 2 and (sd >= 0).all(),
        "corr must be from -1 to 1": -1 <= corr <= 1,
        "sigma must be positive": sigma > 0,
        "dropout must be from 0 to below 1": 0 <= dropout < 1,
        "dropout needs at least 2 visits": dropout == 0 or n_per_group >= 2,
        f"mechanism must be one of {', '.join(_MECHANISMS)}": mechanism in _MECHANISMS,
        "imbalance must be from 0 to 1": 0 <= imbalance <= 1,
    }
    _refuse(rules)


def _refuse(rules: dict[str, bool]) -> None:
    for rule, holds in rules.items():
        if not holds:
            raise DataError(f"{rule}.")


def _labels(letter: str, count: int) -> list[str]:
    width = len(str(count))
    return [f"{letter}{j:0{width}d}" for j in range(1, count + 1)]


def _visits(n_groups: int, n_per_group: int) -> pd.DataFrame:
    labels = _labels("g", n_groups)
    group = np.repeat(np.arange(n_groups), n_per_group)
    return pd.DataFrame(
        {
            "time": np.tile(np.arange(n_per_group, dtype=float), n_groups),
            "treatment": (group % 2).astype(float),
            "group": pd.Categorical.from_codes(group, labels),
        }
    )


def _effects(rng, n_groups: int, sd: np.ndarray, corr: float) -> pd.DataFrame:
    correlation = np.array([[1.0, corr], [corr, 1.0]])[: len(sd), : len(sd)]
    # the eigenvectors, not a Cholesky factor: corr may be exactly -1 or 1
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = rng.standard_normal((n_groups, len(sd))) @ root.T * sd
    labels = _visits(n_groups, 1)["group"]
    return pd.DataFrame(drawn, index=pd.Index(labels, name="group"), columns=_TERMS[: len(sd)])


def _components(sd: np.ndarray, corr: float, sigma: float) -> pd.Series:
    values = {f"sd({term} | group)": s for term, s in zip(_TERMS, sd, strict=False)}
    if len(sd) == 2:
        values["corr(Intercept, time | group)"] = corr
    return pd.Series({**values, "sigma": sigma}, name="truth", dtype=float)


def _stays(rng, y: np.ndarray, dropout: float, mechanism: str) -> np.ndarray:
    """Who is still there at each visit, shape (groups, visits)."""
    there = np.ones(y.shape, dtype=bool)
    if dropout == 0:
        return there
    from scipy.optimize import brentq

    if mechanism == "mcar":
        seen = np.zeros(y[:, 1:].shape)
    else:
        seen = y[:, :-1] if mechanism == "mar" else y[:, 1:]
        seen = 1.5 * (seen - y.mean()) / (y.std() or 1.0)

    def hazard(intercept: float) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-(intercept + seen)))

    def too_many(intercept: float) -> float:
        return 1.0 - np.prod(1.0 - hazard(intercept), axis=1).mean() - dropout

    leaves = rng.random(seen.shape) < hazard(brentq(too_many, -40.0, 40.0))
    there[:, 1:] = ~np.maximum.accumulate(leaves, axis=1)
    return there


def _attended(rng, there: np.ndarray, imbalance: float) -> np.ndarray:
    """A random subset of the visits, shape (groups, visits); one of those still there at least."""
    n_groups, n_visits = there.shape
    if imbalance == 0:
        return np.ones_like(there)
    fewest = max(1, round((1.0 - imbalance) * n_visits))
    counts = rng.integers(fewest, n_visits + 1, size=n_groups)
    order = rng.random(there.shape).argsort(axis=1).argsort(axis=1)
    attended = order < counts[:, None]
    nobody = ~(attended & there).any(axis=1)
    attended[nobody, 0] = True
    return attended
