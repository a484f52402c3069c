"""What is weak or not identified about a design, said before anything is fitted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeslmm.errors import DataError, ModelWarning, listed
from bayeslmm.formula.design import Design
from bayeslmm.formula.labels import about_commas, as_numbers, labels_alike, words_among_numbers
from bayeslmm.formula.random import RandomBlock
from bayeslmm.formula.statistics import BlockStatistics
from bayeslmm.parts.families import Family

__all__ = [
    "check_design",
    "refuse_beside_family",
    "refuse_beside_residuals",
    "refuse_beside_two_values",
    "refuse_reml",
]

#: Degrees of freedom and profiles take fourth powers of standard deviations, and products of
#: these: all have to stay between 1e-300 and 1e300.
_SMALLEST = 1e-40
#: A slope's covariate this many standard deviations from zero makes the intercept's variance
#: and its correlation with the slope statements about a far-off point.
_FAR_FROM_ZERO = 10.0
#: Smallest eigenvalues of the products of random effects' covariates, scaled to one, below which
#: rounding error is all that tells them apart, and below which it costs half of the digits.
_DEPENDENT, _NEARLY_DEPENDENT = 1e-10, 1e-7
#: Text that reads as a date, perhaps with a time: 2020-01-31, 31.1.2020, 1/31/20.
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ].*)?")


def check_design(design: Design, *, sigma_known: bool = False) -> None:
    """Warn about effects the data cannot separate, refuse columns without use.

    Parameters
    ----------
    design : Design
    sigma_known : bool
        Whether sigma is given, as with known sampling variances: then effects of single rows can
        be told from it.

    Raises
    ------
    DataError
        If squares of a column are no numbers, or a random effect's covariate is zero.

    Warns
    -----
    ModelWarning
        If there are as many random effects as rows, a random slope's covariate is far from
        zero, two grouping factors have the same groups, a grouping factor is among the
        coefficients already, a predictor is text that reads as dates or as numbers, labels
        differ in spaces only, or times are text.
    """
    n = design.n_rows
    _check_text(design)
    _check_labels(design)
    _refuse_extremes(design)
    for block, covariates in zip(design.blocks, design.block_statistics, strict=True):
        _check_rank(block, covariates)
        if not sigma_known:
            _check_size(block, n, design.family)
        _check_covariates(block, covariates)
    _check_partitions(design)
    if design.rows_in_memory:
        _check_levels_among_coefficients(design)


def _check_text(design: Design) -> None:
    """Text that enters as a factor and is perhaps meant otherwise: dates, numbers with a word."""
    names = [*design.coef_names, *(effect for block in design.blocks for effect in block.effects)]
    entered = {part.partition("[")[0] for name in names for part in name.split(":") if "[" in part}
    for column in design.table.columns:
        levels = design._categories(column) if str(column) in entered else None
        if not levels or not all(isinstance(level, str) for level in levels):
            continue
        if words := words_among_numbers(levels):
            _warn(
                f"Column {column!r} is text and enters as a factor of {len(levels)} levels, most "
                f"of which are numbers. What is not: {', '.join(map(repr, words[:3]))}. Correct or "
                "remove these values if the column is meant as a number; where one stands for a "
                f"missing value, na=[{words[0]!r}] of blm.scan says so (in the shell --na "
                f"{words[0]!r})."
            )
        _check_numbers(design, str(column), levels)
        if all(_DATE.fullmatch(level.strip()) for level in levels):
            _warn(
                f"Column {column!r} has text that reads as dates ({levels[0]}): it enters as a "
                f"factor of {len(levels)} levels, not as time. For time make it a number, such as "
                f"days since the first one: days = pandas.to_datetime(data[{column!r}]"
                f"{_order_of_days(levels[0])}); (days - days.min()).dt.days. If a factor is meant, "
                f"C({column}) says so."
            )


def _order_of_days(date: str) -> str:
    """What pandas has to be told to read such a date, whose first number may be the day."""
    sign = next(char for char in date if not char.isdigit())
    if date[:4].isdigit():
        return ""
    return ", dayfirst=True" if sign == "." else f', format="%d{sign}%m{sign}%Y" or "%m{sign}..."'


def _check_numbers(design: Design, column: str, levels: list[str]) -> None:
    """Text that is all numbers; a few codes of one digit are taken for names."""
    codes = all(len(level.strip()) == 1 for level in levels)
    if column not in design.text_columns or len(levels) < 3 or codes:
        return
    if as_numbers(levels) is not None:
        said = about_commas(levels)
        comma = f" (with {said})" if said else ""
        _warn(
            f"Column {column!r} is text, and each of its {len(levels)} different values is a "
            f"number{comma}: it enters as a factor of {len(levels)} levels, in alphabetical order. "
            f"If a number is meant, make it one: pandas.to_numeric(data[{column!r}]). If a factor "
            f"is meant, C({column}) says so."
        )


def _check_labels(design: Design) -> None:
    """Labels that look alike, and the order of times that are text."""
    for column in design.table.columns:
        levels = design._categories(column) or []
        if not all(isinstance(level, str) for level in levels):
            continue
        if pairs := labels_alike(levels):
            shown = "; ".join(" and ".join(map(ascii, pair)) for pair in pairs[:3])
            more = f"; ... ({len(pairs)} pairs)" if len(pairs) > 3 else ""
            _warn(
                f"Column {column!r} has labels that differ only in spaces or invisible characters, "
                f"and are different levels here: {shown}{more}. If they are meant as one, strip "
                f"them first: data[{column!r}] = data[{column!r}].str.strip()."
            )
    residual = design.residual
    if residual is None or residual.syntax.time is None:
        return
    time = residual.syntax.time
    if order := residual.order_of_text_times(design._categories(time) or []):
        _warn(
            f"The times {time!r} of residual={residual.syntax.text!r} are text. They are taken one "
            f"step apart in this order: {listed(order, 12)}. If that is not what they mean, make "
            "them numbers, or categories in their order."
        )


def _check_partitions(design: Design) -> None:
    """Two grouping factors with the same groups, such as patient and site:patient."""
    unrelated = [block for block in design.blocks if block.relationship is None]
    for k, one in enumerate(unrelated):
        for other in unrelated[:k]:
            shared = set(one.effects) & set(other.effects)
            if not shared or one.n_levels != other.n_levels:  # told without sorting the rows
                continue
            if _count_pairs(design, one, other) == one.n_levels:
                _warn(
                    f"The grouping factors {other.name!r} and {one.name!r} have the same groups: "
                    f"the variances of {listed(sorted(shared))} cannot be told apart; only "
                    "their sum can. Leave one of them out (in a/b, b is nested in a)."
                )


def _count_pairs(design: Any, one: RandomBlock, other: RandomBlock) -> int:
    """Pairs of levels of two grouping factors that share a row."""
    if design.rows_in_memory:
        return len(np.unique(one.codes.astype(np.int64) * other.n_levels + other.codes))
    names = [block.name for block in design.blocks]
    at = sorted((names.index(one.name), names.index(other.name)))
    return len(design.cross_products.pairs[at[0], at[1]].rows)


def _check_levels_among_coefficients(design: Design) -> None:
    """A grouping factor whose differences between levels are coefficients already."""
    X = design.columns_of_location
    for block in design.blocks:
        if "Intercept" not in block.effects or block.n_levels > X.shape[1]:
            continue
        indicators = np.zeros((design.n_rows, block.n_levels))
        indicators[np.arange(design.n_rows), block.codes] = 1.0
        left = indicators - X @ np.linalg.lstsq(X, indicators, rcond=None)[0]
        if np.abs(left).max() < 1e-8:
            _warn(
                f"Every difference between the levels of {block.name!r} is among the coefficients "
                "already, so nothing is left for its random intercept: its variance is not "
                "estimable. Leave the factor out of one of the two parts."
            )


def _refuse_extremes(design: Design) -> None:
    """Columns powers of which are no longer numbers."""
    for name, size in _sizes(design).items():
        if not (size == 0 or _SMALLEST < size < 1 / _SMALLEST):
            raise DataError(
                f"{name} is of the size of {size:.0e}: powers of it are not numbers a computer "
                "has. Use other units."
            )


def _sizes(design: Any) -> dict[str, float]:
    """Largest absolute values, or of rows not in memory about that, by what they are of."""
    if design.rows_in_memory:  # the statistics are squares
        y = design.y - design.offset if design.family.gaussian else design.y
        response, weight = _largest(y), _largest(design.weights)
        columns = [_largest(column) for column in design.X.T]
        effects = [covariates.size for covariates in design.block_statistics]
    else:
        rows = design.statistics
        response, weight = max(abs(rows.mean_y), rows.sd_y), rows.mean_weight
        columns, effects = rows.size, [covariates.size for covariates in rows.blocks]
    sizes = {f"The response {design.response!r}": response}
    for name, size in zip(design.coef_names, columns, strict=True):
        sizes[f"The column {name!r}"] = size
    for block, found in zip(design.blocks, effects, strict=True):
        for effect, size in zip(block.effects, found, strict=True):
            sizes[f"The effect {effect!r} of {block.name!r}"] = size
    if design.weights is None:
        return sizes
    known = "The weights" if design.se_name is None else f"1 / {design.se_name}^2, a weight,"
    return {**sizes, known: weight}


def _largest(column: np.ndarray | None) -> float:
    return 0.0 if column is None else float(np.max(np.abs(column), initial=0.0))


def _check_rank(block: RandomBlock, covariates: BlockStatistics) -> None:
    """Columns of Z that are zero, or (nearly) combinations of others they are correlated with."""
    size = np.sqrt(np.diag(covariates.gram))
    zero = [e for e, s in zip(block.effects, size, strict=True) if s == 0]
    if zero:
        raise DataError(
            f"The covariate of the random effect {zero[0]!r} of {block.name!r} is zero in every "
            "row: its variance does not enter the model. Leave it out."
        )
    for part in block.pattern:
        columns = list(part)
        gram = covariates.gram[columns][:, columns] / np.outer(size[columns], size[columns])
        left = np.linalg.eigvalsh(gram)[0]
        names = listed(block.effects[i] for i in part)
        if left < _DEPENDENT:
            _warn(
                f"The covariates of the random effects {names} of {block.name!r} are linearly "
                "dependent: the data say nothing about their variances one by one. Leave one out."
            )
        elif left < _NEARLY_DEPENDENT:
            _warn(
                f"The covariates of the random effects {names} of {block.name!r} are nearly "
                f"linearly dependent (but for {np.sqrt(left):.0e} of their size): their variances "
                "and correlations are found with few digits. center() the covariates, or use the "
                "difference between two of them in place of one."
            )


def _check_size(block: RandomBlock, n: int, family: Family) -> None:
    if block.relationship is not None:  # relatives tell the variances apart
        return
    if family.name in ("bernoulli", "ordinal"):
        if block.n_levels >= n:
            _warn(
                f"Every level of {block.name!r} has one row ({block.n_levels} levels, {n} rows), "
                "and a response of one category says next to nothing about its standard "
                "deviation; only its prior does."
            )
        return
    if family.discrete:  # an effect of each row is overdispersion
        return
    if not family.gaussian and family.name != "lognormal":
        if block.n_levels >= n:
            shape = family.parameters[0].key
            _warn(
                f"Every level of {block.name!r} has one row ({block.n_levels} levels, {n} rows): "
                f"its standard deviation and {shape} can hardly be told apart."
            )
        return
    total = block.n_levels * block.n_effects
    if block.n_levels >= n:
        _warn(
            f"Every level of {block.name!r} has one row ({block.n_levels} levels, {n} rows): its "
            "standard deviation and sigma cannot be told apart; only the priors do."
        )
    elif total >= n:
        _warn(
            f"{block.name!r} has {total} random effects ({block.n_levels} levels x "
            f"{block.n_effects}) for {n} rows: sigma is hardly identified. Leave an effect out."
        )


def _check_covariates(block: RandomBlock, covariates: BlockStatistics) -> None:
    for part in block.pattern:
        if len(part) < 2 or "Intercept" not in [block.effects[i] for i in part]:
            continue
        for i in part:
            mean, spread = float(covariates.mean[i]), float(covariates.sd[i])
            if block.effects[i] != "Intercept" and abs(mean) > _FAR_FROM_ZERO * spread > 0:
                _warn(
                    f"The covariate of the random slope {block.effects[i]!r} is far from zero "
                    f"(mean {mean:.4g}, sd {spread:.4g}): the intercept's variance and its "
                    "correlation with the slope refer to a point far outside the data. Write "
                    f"center({block.effects[i]}) instead."
                )


def _warn(text: str) -> None:
    warnings.warn(text, ModelWarning, stacklevel=5)


#: Why options do not go together with a response that is not Gaussian.
_BESIDE_FAMILY = {
    "residual": "such a response has no residuals with a covariance of their own. Use random "
    "effects for what rows have in common.",
    "sigma": "such a response has no residual standard deviation; its mean says its variance.",
    "relationship": "effects of related levels are there for Gaussian responses only.",
}


def refuse_beside_family(family: str, given: Mapping[str, object]) -> None:
    """Refuse options of Gaussian models beside a family that is not.

    Parameters
    ----------
    family : str
    given : mapping of str to object
        Options by name, None where not given.

    Raises
    ------
    DataError
    """
    for option, why in _BESIDE_FAMILY.items():
        value = given.get(option)
        if value is None:
            continue
        shown = f'{option}="{value}"' if isinstance(value, str) else f"{option}="
        raise DataError(f'{shown} does not go together with family="{family}": {why}')


def refuse_reml(family: Family) -> None:
    """Refuse REML for a response that is not Gaussian.

    Raises
    ------
    DataError
    """
    if not family.gaussian:
        raise DataError(
            f'There is no REML for family="{family.name}": the restricted likelihood is that of '
            "differences of responses which are free of the coefficients, and only a Gaussian "
            "response has such differences. Use model.ml() or model.fit()."
        )


def refuse_beside_two_values(design: Design, relationship: object) -> None:
    """Refuse what unknown values that are one of two cannot be combined with.

    Raises
    ------
    DataError
    """
    two = next((c.name for c in design.modeled if c.values is not None), None)
    beside = {"residual= or sigma=": design.residual, "relationship=": relationship}
    for option, value in beside.items():
        if two is not None and value is not None:
            raise DataError(
                f"{option} does not go together with unknown values of {two!r}, which has two: "
                'there is no sampler of both. Use missing="drop".'
            )


def refuse_beside_residuals(family: str) -> None:
    """Refuse what a residual structure cannot be combined with.

    Raises
    ------
    DataError
    """
    if family == "student":
        raise DataError(
            'residual= and sigma= do not go together with family="student": correlated Student-t '
            "residuals are more than one model (one tail for a group, or one for each row), and "
            "those of unequal scales are not built. Leave one of them out."
        )
