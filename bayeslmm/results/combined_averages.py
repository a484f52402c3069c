"""Combinations of averages of both fits: estimates, standard errors and intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri

from bayeslmm.errors import DataError
from bayeslmm.parts.families import Link
from bayeslmm.protocols import is_posterior
from bayeslmm.results.asked import Asked, is_linear
from bayeslmm.results.averages import (
    mean_rows,
    means_of_likelihood,
    not_estimable,
    with_categories,
)
from bayeslmm.results.reference_grid import Averages
from bayeslmm.results.response_prediction import posterior_prediction
from bayeslmm.results.tables import apart, summarize_draws

__all__ = ["Combination", "combined_table"]


@dataclass(frozen=True)
class Combination:
    """What is reported of averages: D of them on a scale, and the way back from there."""

    D: np.ndarray
    scale: Link
    back: Link

    @property
    def linear(self) -> bool:
        return self.scale.name == "identity" and self.back.name == "identity"


def combined_table(
    fit: Any, averages: Averages, combination: Combination, labels: pd.DataFrame, asked: Asked
) -> pd.DataFrame:
    """Labels and estimates, of ordered categories one below the other."""
    design = fit.model.design
    if is_posterior(fit):
        columns = _of_posterior(fit, averages, combination, asked)
    elif is_linear(fit, asked):
        columns = _linear_of_likelihood(fit, averages, combination, asked)
    else:
        columns = _means_of_likelihood(fit, averages, combination, asked)
    if asked.kind == "mean":
        labels = with_categories(labels, design)
    return pd.concat([apart(labels, columns), columns.set_index(labels.index)], axis=1)


def _reported(combination: Combination, means: np.ndarray) -> np.ndarray:
    """Combinations (..., r, C) of averages (..., k, C)."""
    if not combination.linear and combination.scale.name == "log" and np.any(means <= 0):
        raise DataError("A mean to compare can be 0 or less, so there is no ratio of it.")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return combination.back.inverse(combination.D @ combination.scale.link(means))


def _of_posterior(
    fit: Any, averages: Averages, combination: Combination, asked: Asked
) -> pd.DataFrame:
    from bayeslmm.bayes.draws import coefficient_draws
    from bayeslmm.results.posterior_prediction import warn_of_priors_alone

    design = fit.model.design
    if is_linear(fit, asked) and asked.random in ("population", "marginal"):
        rows = mean_rows(design, averages, effects=False)
        X, offset = combination.D @ rows.average(rows.X), rows.average(rows.offset)
        if combination.linear:
            warn_of_priors_alone(fit, X, range(len(X)))
            beta = coefficient_draws(design, fit.posterior)[1]
            draws = beta @ X.T + combination.D @ offset
        else:
            beta = coefficient_draws(design, fit.posterior)[1]
            means = beta @ rows.average(rows.X).T + offset
            draws = _reported(combination, means[..., None])[..., 0]
    else:
        means = _average_draws(fit, averages, asked)
        draws = _reported(combination, means)
        draws = draws.reshape(*draws.shape[:2], -1)
    table = summarize_draws(
        draws, range(draws.shape[-1]), level=asked.level, interval=asked.interval
    )
    compared = not np.array_equal(combination.D, np.eye(len(combination.D)))
    if combination.back.name == "log" and compared:  # a ratio may have no posterior mean
        table.insert(0, "median", np.median(draws, axis=(0, 1)))
        return table.drop(columns=["mean", "sd"]).assign(p_above_1=(draws > 1).mean(axis=(0, 1)))
    if compared:
        table["p_positive"] = (draws > 0).mean(axis=(0, 1))
    return table


def _average_draws(fit: Any, averages: Averages, asked: Asked) -> np.ndarray:
    """Draws (chains, draws, k, C) of the averages of the means of rows."""
    design, frame = fit.model.design, averages.frame
    if asked.random == "new":  # all rows are of one group of each factor
        known = set(design._predictor_columns(random=True))
        groups = {c for block in design.blocks for c in block.factor.columns} - known
        frame = frame.assign(**dict.fromkeys(groups, "a new group"))
    ordinal = asked.kind == "mean" and design.family.name == "ordinal"
    kind = "probabilities" if ordinal else asked.kind
    C = len(design.categories) if ordinal else 1
    prediction = posterior_prediction(fit, frame, str(asked.random), kind, asked.random_seed)
    W, total = averages.matrix().tocsc(), np.zeros(0)
    for part, draws in prediction.blocks():
        each = np.moveaxis(draws.reshape(*draws.shape[:2], -1, C), 2, 0)
        found = W[:, part] @ each.reshape(len(each), -1)
        total = total + found if total.size else found
    chains, draws_each = prediction.shape
    return np.moveaxis(total.reshape(-1, chains, draws_each, C), 0, 2)


def _linear_of_likelihood(
    fit: Any, averages: Averages, combination: Combination, asked: Asked
) -> pd.DataFrame:
    """Where means are linear in coefficients and effects."""
    design, D = fit.model.design, combination.D
    own = asked.random in ("conditional", "new")
    if not own:
        rows = mean_rows(design, averages, effects=False)
        X, offset = rows.average(rows.X), rows.average(rows.offset)
        if combination.linear:
            return fit._rows(D @ X, asked.ddf, asked.level, D @ offset)
        means = X[:, fit.kept] @ fit._solution.beta + offset
        _reported(combination, means)  # refuses means that have no ratio
        gradient = D @ (X / combination.scale.inverse_slope(combination.scale.link(means))[:, None])
        center = D @ combination.scale.link(means)
        found = fit._rows(
            gradient, asked.ddf, asked.level, center - gradient[:, fit.kept] @ fit._solution.beta
        )
        return _back(found, combination)
    if not combination.linear:
        raise DataError(
            "Ratios of means with random effects need their posterior: model.fit(). Here: "
            'measure="difference".'
        )
    return _with_effects(fit, averages, D, asked)


def _back(table: pd.DataFrame, combination: Combination) -> pd.DataFrame:
    """A table of the scale of comparison on that of the result; t and p stay."""
    with np.errstate(over="ignore"):
        slope = combination.back.inverse_slope(table["estimate"].to_numpy())
        ends = [combination.back.inverse(table[name].to_numpy()) for name in ("lower", "upper")]
        lower, upper = np.sort(ends, axis=0)
        estimate = combination.back.inverse(table["estimate"].to_numpy())
    return table.assign(estimate=estimate, se=table["se"] * np.abs(slope), lower=lower, upper=upper)


def _with_effects(fit: Any, averages: Averages, D: np.ndarray, asked: Asked) -> pd.DataFrame:
    """Combinations x'beta + z'b with effects of groups, each of one level of a factor."""
    design, frame = fit.model.design, averages.frame
    A = csr_array(D) @ averages.matrix()
    if asked.random == "new":
        found, Zs = design.evaluate(frame, random=False), design.evaluate_effects(frame)
    else:
        found = design.evaluate(frame)
        Zs = found.Z
    X = A @ found.X
    estimate = X[:, fit.kept] @ fit._solution.beta + A @ found.offset
    variance, codes, own = np.zeros(len(X)), [], []
    for j, (block, Z) in enumerate(zip(design.blocks, Zs, strict=True)):
        if asked.random == "new":
            z, code = A @ Z, np.zeros(len(X), dtype=np.int64)
            variance += np.einsum("ia,ab,ib->i", z, fit._solution.Sigmas[j], z)
            own.append(np.zeros_like(z))
        else:
            z, code = _of_one_level(block, A, Z, found.codes[j])
            estimate += np.einsum("iq,iq->i", z, fit._solution.b[j][code])
            own.append(z)
        codes.append(code)
    variance += fit.predictor_variance(X[:, fit.kept], own, codes)
    se = np.sqrt(np.maximum(variance, 0.0))
    estimable = fit._estimable(X)
    estimate[~estimable] = se[~estimable] = np.nan
    return _normal_table(estimate, se, asked.level)


def _of_one_level(block: Any, A: csr_array, Z: np.ndarray, codes: np.ndarray) -> tuple:
    """Covariates (r, q) and levels (r,) of combinations A of rows, each of one level's effects.

    Raises
    ------
    DataError
        If one is of several levels, or of a level that is not in the fit.
    """
    rows = np.arange(len(codes))
    shape = (len(codes), block.n_levels + 1)  # the last for levels that are not in the fit
    at = np.where(codes < 0, block.n_levels, codes)
    sums = [A @ csr_array((z, (rows, at)), shape=shape) for z in Z.T]
    size = sum(abs(part) for part in sums).tocsr()
    size.data[size.data < 1e-12 * max(1.0, float(np.abs(Z).max(initial=0.0)))] = 0.0
    size.eliminate_zeros()
    levels = np.diff(size.indptr)
    if np.any(levels > 1):
        raise DataError(
            f"An average over several levels of {block.name!r} with their own effects needs the "
            f"posterior: model.fit(). Here: by={block.factor.columns[0]!r}, or "
            'random="population".'
        )
    code = np.zeros(A.shape[0], dtype=np.int64)
    code[levels == 1] = size.indices
    if np.any(code == block.n_levels):
        raise DataError(f'A level of {block.name!r} is not in the fit: random="new".')
    picked = np.arange(len(code))
    return np.column_stack([part.tocsr()[picked, code] for part in sums]), code


def _normal_table(estimate: np.ndarray, se: np.ndarray, level: float) -> pd.DataFrame:
    half = ndtri(0.5 + level / 2) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        t = estimate / se
    columns = {
        "estimate": estimate, "se": se, "df": np.full(len(se), np.inf), "t": t,
        "p": 2 * ndtr(-np.abs(t)), "lower": estimate - half, "upper": estimate + half,
    }  # fmt: skip
    return pd.DataFrame(columns)


def _means_of_likelihood(
    fit: Any, averages: Averages, combination: Combination, asked: Asked
) -> pd.DataFrame:
    """Means of responses that are not Gaussian, by the delta method."""
    rows = mean_rows(fit.model.design, averages, effects=asked.random == "marginal")
    both, J, covariance = means_of_likelihood(fit, rows)
    unknown = not_estimable(fit, rows)
    at = int(asked.random == "marginal")
    means = np.where(unknown[:, None], np.nan, both[at])
    _reported(combination, means)
    values = combination.scale.link(means)
    center = combination.D @ np.where(np.isnan(values), 0.0, values)
    moved = J[at] / combination.scale.inverse_slope(values)[..., None]
    moved = np.einsum("rk,kcp->rcp", combination.D, np.where(np.isnan(moved), 0.0, moved))
    lost = (np.abs(combination.D) @ unknown.astype(float)) > 0
    center[lost], moved[lost] = np.nan, np.nan
    se = np.sqrt(np.einsum("rcp,pq,rcq->rc", moved, covariance, moved))
    table = _normal_table(center.ravel(), se.ravel(), asked.level)
    if np.array_equal(combination.D, np.eye(len(combination.D))):
        table = table.drop(columns=["df", "t", "p"])
    return _back(table, combination)
