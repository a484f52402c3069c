"""Predictions for fitted or new rows: for known groups, the population, or new groups.

Every level of every grouping factor is decided about by itself: a known class of a known school
has both effects, a new class of a known school that of the school and one drawn for the class.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PACKAGE, DataError, FormulaError, ModelWarning
from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame, find_column
from bayeslmm.formula.design import NewRows
from bayeslmm.results.conditional_residuals import Kriged
from bayeslmm.results.estimability import inestimable_text, undetermined
from bayeslmm.results.response_scale import mean_shift, on_mean_scale

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult

__all__ = [
    "check_prediction",
    "effect_rows",
    "likelihood_prediction",
    "prediction_rows",
    "scale_rows",
]

_RANDOM = ("conditional", "population", "new", "marginal")
_KIND = ("mean", "link", "response")


def check_prediction(random: str, kind: str, kinds: tuple[str, ...] = _KIND) -> None:
    """Refuse unknown choices.

    Raises
    ------
    ValueError
    """
    for name, value, allowed in (("random", random, _RANDOM), ("kind", kind, kinds)):
        if value not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}."
            )
    if random == "marginal" and kind in ("link", "response"):
        of = {
            "link": 'the average linear predictor is that of random="population"',
            "response": 'a response of a group not seen yet is that of random="new"',
        }
        raise ValueError(f'random="marginal" is an average of means over groups: {of[kind]}.')


def prediction_rows(
    design: Design, newdata, random: str, allow_new_levels: bool = False
) -> tuple[NewRows, pd.Index]:
    """The rows to predict, in the terms of the design, and their index labels.

    Parameters
    ----------
    random : {"conditional", "population", "new", "marginal"}
    allow_new_levels : bool
        Whether levels that are not in the fit are new ones under "conditional" too.

    Returns
    -------
    NewRows
        A code is the level whose effects the row has, -1 where it has those of a new level:
        rows with the same label share them. Without random effects for the population.
    pandas.Index

    Raises
    ------
    FormulaError
        If a column is not there.
    DataError
        If a group is not among those fitted and its own effects are asked for.
    """
    if newdata is None:
        index, blocks = design.index, design.blocks
        if random in ("population", "marginal"):
            return NewRows(design.X, design.offset), index
        codes = tuple(block.codes for block in blocks)
        labels = tuple([block.levels[c] for c in block.codes] for block in blocks)
        rows = NewRows(design.X, design.offset, tuple(block.Z for block in blocks), codes, labels)
    else:
        frame = as_frame(newdata)
        index = frame.index
        grouped = random not in ("population", "marginal")
        if grouped:
            _refuse_without_groups(design, frame, random)
        rows = design.evaluate(frame, random=grouped)
    unseen = any(np.any(codes < 0) for codes in rows.codes)
    if random == "new" and not unseen:  # all groups are known: others like them
        rows = replace(rows, codes=tuple(np.full_like(codes, -1) for codes in rows.codes))
    elif random == "conditional" and unseen and not allow_new_levels:
        _refuse_unseen(design, rows)
    return rows, index


def _refuse_without_groups(design: Design, frame: pd.DataFrame, random: str) -> None:
    """Refuse rows without the column of a group, and say which predictions need none."""
    predictors = design._predictor_columns(random=False)
    for name in [c for block in design.blocks for c in block.factor.columns]:
        if name in predictors:  # the population needs it, too
            continue
        try:
            find_column(frame, name)
        except FormulaError as err:
            why = {
                "new": "rows with the same label, any that is not in the fit, such as 'new', share "
                "their effects",
                "conditional": "each row has the effects of its group",
            }[random]
            raise FormulaError(
                f'{err} random="{random}" needs {name!r}: {why}. random="population" (in the shell '
                "--random population) needs none: it is for the average group."
            ) from None


def _refuse_unseen(design: Design, rows: NewRows) -> None:
    for block, codes, labels in zip(design.blocks, rows.codes, rows.labels, strict=True):
        found = list(dict.fromkeys(np.array(labels, dtype=object)[codes < 0]))
        if found:
            shown = ", ".join(map(repr, found[:5])) + (", ..." if len(found) > 5 else "")
            raise DataError(
                f"Level(s) {shown} of {block.name!r} are not in the fit, so they have no effects "
                "of their own. allow_new_levels=True draws theirs from the population and leaves "
                'known levels their own, as random="new" does; random="population" is for the '
                "average group."
            )


def scale_rows(design: Design, newdata, n: int = 1) -> np.ndarray:
    """Rows of the residual scale matrix, log sd = scale eta, of n new rows or of those fitted."""
    if design.residual is None:
        return np.ones((n, 1))
    if newdata is None:
        return design.stated_residual.rows.scale
    return design.evaluate_residuals(newdata, scale_only=True).scale


def likelihood_prediction(
    fit: LikelihoodResult,
    newdata,
    random: str,
    kind: str,
    level: float,
    allow_new_levels: bool = False,
    kriged: Kriged | None = None,
) -> pd.DataFrame:
    """Predictions at the estimated variances, with the coefficients' uncertainty.

    The variance parameters are taken as known (plug-in), as in lme4; see
    ``LikelihoodFit.predict``. ``kriged`` are residuals predicted from those of the fit.
    """
    from scipy.special import ndtri

    if kind == "response" and not fit.design.family.gaussian:
        raise DataError(
            f'kind="response" is not there for family="{fit.design.family.name}", whose new '
            "responses have no normal distribution. Use simulate(), or model.fit().predict()."
        )
    rows, index = prediction_rows(fit.design, newdata, random, allow_new_levels)
    X = rows.X[:, fit.kept]
    estimate = X @ fit._solution.beta + rows.offset
    seen = [codes >= 0 for codes in rows.codes]
    if any(np.any(known) for known in seen):
        codes = [np.maximum(c, 0) for c in rows.codes]
        own = [np.where(known[:, None], Z, 0.0) for known, Z in zip(seen, rows.Z, strict=True)]
        for Z, c, b in zip(own, codes, fit._solution.b, strict=True):
            estimate = estimate + np.einsum("iq,iq->i", Z, b[c])
    else:
        codes = [np.zeros(len(X), dtype=np.int64) for _ in fit.design.blocks]
        own = [np.zeros((len(X), block.n_effects)) for block in fit.design.blocks]
    # not X vcov X': columns far from zero, such as powers of a year, leave it no digits
    if kind == "mean" and not fit.design.family.gaussian:
        variance = fit.predictor_variance(X, own, codes, mean_shift(fit, estimate))
    elif kriged is not None:
        estimate = estimate + kriged.weights @ fit.residuals().to_numpy()
        residual = (kriged.shared, kriged.mean_variance)
        variance = fit.predictor_variance(X, own, codes, residual=residual)
    else:
        variance = fit.predictor_variance(X, own, codes)
    for known, Z, Sigma in zip(seen, rows.Z, fit._solution.Sigmas, strict=False):
        variance = variance + np.where(known, 0.0, np.einsum("ia,ab,ib->i", Z, Sigma, Z))
    if kind == "response":
        left = fit.residual_variance(newdata, len(X)) if kriged is None else kriged.variance
        variance = variance + left
    se = np.sqrt(np.maximum(variance, 0.0))
    if newdata is not None:
        found = undetermined(fit.model, rows.X)
        if text := inestimable_text(fit.model, found, index):
            warnings.warn(
                f"{text}. Predictions are NaN there.", ModelWarning, skip_file_prefixes=PACKAGE
            )
            estimate[found.any(axis=1)] = se[found.any(axis=1)] = np.nan
    half = ndtri(0.5 + level / 2) * se
    table = pd.DataFrame(
        {"estimate": estimate, "se": se, "lower": estimate - half, "upper": estimate + half},
        index=index,
    )
    if kind == "mean" and not fit.design.family.gaussian:
        return on_mean_scale(fit, table)
    return table


def effect_rows(design: Design, newdata) -> tuple[np.ndarray, ...]:
    """Covariates Z of each grouping factor of the rows to predict, which need no groups."""
    if newdata is None:
        return tuple(block.Z for block in design.blocks)
    return design.evaluate_effects(newdata)
