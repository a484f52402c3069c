"""The residual part of a model: who is correlated with whom, when, and whose variance is whose.

``residual="ar1(time | g)"`` names a correlation structure, the column of times and the groups
within which rows are correlated; ``sigma="~ treatment"`` says what residual standard deviations
depend on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, FormulaError, listed
from bayeslmm.formula.labels import spaced_evenly, time_order
from bayeslmm.formula.matrices import ModelMatrix, model_matrix, refuse_many_terms
from bayeslmm.formula.random import GroupingFactor, grouping_factor
from bayeslmm.formula.syntax import parse_formula
from bayeslmm.formula.syntaxtree import parse_part, variables_in
from bayeslmm.parts.structures import STRUCTURES, Structure

__all__ = ["CORRELATIONS", "ResidualDesign", "ResidualRows", "ResidualSyntax", "VarianceTerm"]

#: Correlation structures by name, and whether they need times.
CORRELATIONS = {k: made.uses_time for k, made in STRUCTURES.items() if made is not Structure}

_MOST_TIMES = 50
_CALL = re.compile(r"\s*([A-Za-z][\w-]*)\s*\((.*)\)\s*", re.DOTALL)
_NAME = r"(?:`[^`]+`|[A-Za-z_.][\w.]*)"
_PART = rf"\s*(?:(?:C|factor)\(\s*({_NAME})\s*\)|({_NAME}))\s*"


@dataclass(frozen=True)
class ResidualSyntax:
    """What the user wrote, taken apart; nothing evaluated.

    Attributes
    ----------
    kind : str
        ``"independent"`` or a key of :data:`CORRELATIONS`.
    time : str or None
        Column of times.
    groups : tuple of str
        Columns whose combinations are the groups.
    sigma : str or None
        Right side of the formula of the standard deviations; None where none was given.
    text : str or None
        The correlation structure as written.
    """

    kind: str
    time: str | None
    groups: tuple[str, ...]
    sigma: str | None
    text: str | None

    @classmethod
    def parse(cls, residual: str | None, sigma: str | None) -> ResidualSyntax | None:
        """Take both arguments apart; None where neither is given.

        Raises
        ------
        FormulaError
            If the structure is not known or cannot be read.
        """
        if residual is None and sigma is None:
            return None
        formula = None if sigma is None else _sigma_text(sigma)
        if residual is None:
            return cls("independent", None, (), formula, None)
        return cls(*_parse_structure(residual), formula, " ".join(residual.split()))

    def columns(self, allowed, present) -> list[str]:
        """Columns of the data that are used."""
        names = [*([self.time] if self.time else []), *self.groups]
        return list(dict.fromkeys([*names, *self.sigma_columns(allowed, present)]))

    def sigma_columns(self, allowed, present) -> list[str]:
        """Columns in the formula of the standard deviations."""
        if self.sigma is None:
            return []
        tree = parse_part(_without_factor(self.sigma), allowed, present, "sigma formula")
        return list(variables_in(tree))


def _parse_structure(text: str) -> tuple[str, str | None, tuple[str, ...]]:
    known = ", ".join(
        f"{k}(time | group)" if timed else f"{k}(group)" for k, timed in CORRELATIONS.items()
    )
    match = _CALL.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise FormulaError(f"Cannot read residual={text!r}. Write one of: {known}.")
    kind, inside = match[1].lower(), match[2]
    if kind not in CORRELATIONS:
        raise FormulaError(f"There is no residual structure {match[1]!r}. There are: {known}.")
    time, bar, group = inside.rpartition("|")
    time = time.strip()
    if time == "1":
        time = ""
    if not group.strip():
        raise FormulaError(f"residual={text!r} names no group. Write one of: {known}.")
    if CORRELATIONS[kind] and not time:
        raise FormulaError(
            f"residual={text!r} names no column of times: write {kind}(time | {group.strip()}). "
            "For rows in the order in which they stand, make a column that counts them in each "
            "group."
        )
    if time and not re.fullmatch(_NAME, time):
        raise FormulaError(
            f"residual={text!r}: the time must be one column, not {time!r}. Make it a column first."
        )
    time = time.strip("`")
    bars = parse_formula(f"y ~ 1 + (1 | {group})").bars
    return kind, (time or None) if CORRELATIONS[kind] else None, bars[-1].columns


def _sigma_text(sigma: str) -> str:
    if not isinstance(sigma, str) or not sigma.strip().startswith("~"):
        raise FormulaError(
            f'sigma must be a one-sided formula such as "~ treatment", not {sigma!r}.'
        )
    text = sigma.strip()[1:].strip()
    if not text or "|" in text:
        raise FormulaError(
            f"sigma={sigma!r}: write the predictors of the residual standard deviation, such as "
            '"~ treatment"; random terms have no place there.'
        )
    return text


def _without_factor(text: str) -> str:
    """``factor(x)`` is R for ``C(x)``."""
    return re.sub(r"\bfactor\(", "C(", text)


@dataclass(frozen=True)
class VarianceTerm:
    """What residual standard deviations depend on: log sd_i = scale_i' eta.

    Attributes
    ----------
    kind : {"one", "cells", "log-linear"}
        One standard deviation; one per cell of factors; log-linear in columns, the first of
        which is 1 and the others centered.
    names : tuple of str
        Per entry of eta: ``"sigma"``; ``"sigma[treatment=B]"``; or ``"sigma"`` (at the means of
        the columns) and ``"log_sigma[x]"``.
    columns : tuple of str
        Factors whose combinations are the cells.
    """

    kind: str
    names: tuple[str, ...]
    columns: tuple[str, ...] = ()
    _cells: tuple[tuple, ...] = field(repr=False, default=())
    _matrix: ModelMatrix | None = field(repr=False, default=None)
    _means: np.ndarray | None = field(repr=False, default=None)

    @property
    def n(self) -> int:
        """Length of eta."""
        return len(self.names)

    @property
    def slopes(self) -> tuple[str, ...]:
        """Columns of a log-linear formula, without the first."""
        found = () if self._matrix is None else self._matrix.names
        return tuple(name for name in found if name != "Intercept")

    @property
    def means(self) -> np.ndarray:
        """Means of the columns of a log-linear formula, where ``sigma`` stands."""
        return np.zeros(0) if self._means is None else self._means

    def evaluate(self, frame: pd.DataFrame, n: int) -> np.ndarray:
        """Rows of the scale matrix, shape (n, len(eta)), of plain columns.

        Raises
        ------
        DataError
            If a row's cell was not in the fit.
        """
        if self.kind == "one":
            return np.ones((n, 1))
        if self.kind == "log-linear":
            assert self._matrix is not None
            assert self._means is not None
            values, _ = self._matrix.evaluate(frame)
            return _with_ones(self._matrix, values, self._means)
        keys = list(zip(*(_labels(frame[c]) for c in self.columns), strict=True))
        position = {cell: i for i, cell in enumerate(self._cells)}
        unknown = [key for key in keys if key not in position]
        if unknown:
            shown = ", ".join(f"{c}={v}" for c, v in zip(self.columns, unknown[0], strict=True))
            raise DataError(
                f"No row of the fit has {shown}, so its residual standard deviation is not known."
            )
        return np.eye(len(self._cells))[[position[key] for key in keys]]


def _labels(column: pd.Series) -> list[str]:
    """Values as text; whole numbers without a point."""
    values = column.to_numpy()
    if values.dtype.kind == "f":
        return [f"{v:g}" for v in values]
    return [str(v) for v in column.astype(object)]


def _labels_and_codes(column: pd.Series) -> tuple[list[str], np.ndarray]:
    """Levels in use in their order, as text, and the level of each row."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        present = column.cat.remove_unused_categories()
        return _labels(pd.Series(present.cat.categories)), present.cat.codes.to_numpy()
    values, codes = np.unique(column.to_numpy(), return_inverse=True)
    return _labels(pd.Series(values)), codes


def _with_ones(matrix: ModelMatrix, values: np.ndarray, means: np.ndarray) -> np.ndarray:
    slopes = [j for j, name in enumerate(matrix.names) if name != "Intercept"]
    return np.column_stack([np.ones(len(values)), values[:, slopes] - means])


def _variance_term(syntax: ResidualSyntax, plain: pd.DataFrame, options) -> VarianceTerm:
    text = syntax.sigma
    if text is None and STRUCTURES[syntax.kind].times == "labels":
        assert syntax.time is not None  # checked where the text was read
        return _cells((syntax.time,), plain)
    if text is None or text == "1":
        return VarianceTerm("one", ("sigma",))
    columns = _cell_columns(text, plain)
    if columns is not None:
        return _cells(columns, plain)
    text = _without_factor(text)
    refuse_many_terms(text, len(plain), options["allowed"])
    matrix = model_matrix(text, plain, what="sigma formula", **options)
    if "Intercept" not in matrix.names or matrix.offset is not None:
        raise FormulaError(
            f'sigma="~ {text}": the formula of the standard deviation keeps its intercept and has '
            "no offset."
        )
    slopes = [j for j, name in enumerate(matrix.names) if name != "Intercept"]
    means = matrix.values[:, slopes].mean(axis=0)
    centered = matrix.values[:, slopes] - means
    if np.linalg.matrix_rank(centered) < len(slopes):
        raise DataError(
            f'sigma="~ {text}": its columns are constant or linearly dependent, so their '
            "coefficients are not determined. Leave one out."
        )
    names = ("sigma", *(f"log_sigma[{matrix.names[j]}]" for j in slopes))
    return VarianceTerm("log-linear", names, _matrix=matrix, _means=means)


def _cell_columns(text: str, plain: pd.DataFrame) -> tuple[str, ...] | None:
    """Columns of a saturated formula of factors (a, a:b, a*b); None for any other formula."""
    parts = re.split(r"[:*]", text)
    found = []
    for part in parts:
        match = re.fullmatch(_PART, part)
        if match is None:
            return None
        name = (match[1] or match[2]).strip("`")
        if name not in plain.columns:
            return None
        is_factor = isinstance(plain[name].dtype, pd.CategoricalDtype) or plain[name].dtype == bool
        if match[1] is None and not is_factor:
            return None
        found.append(name)
    return tuple(dict.fromkeys(found))


def _cells(columns: tuple[str, ...], plain: pd.DataFrame) -> VarianceTerm:
    keys, codes = zip(*(_labels_and_codes(plain[name]) for name in columns), strict=True)
    rows = sorted(set(zip(*codes, strict=True)))
    cells = tuple(tuple(keys[k][c] for k, c in enumerate(row)) for row in rows)
    names = tuple(
        "sigma[" + ",".join(f"{c}={v}" for c, v in zip(columns, cell, strict=True)) + "]"
        for cell in cells
    )
    if len(cells) == 1:
        raise DataError(
            f"sigma: {', '.join(columns)} has a single level in the rows used, so there is one "
            "standard deviation. Leave it out."
        )
    return VarianceTerm("cells", names, columns, cells)


@dataclass(frozen=True)
class ResidualRows:
    """Rows in the terms of a residual structure.

    Attributes
    ----------
    group : (n,) int array
        Rows of the same group are correlated.
    time : (n,) float array
        Times; positions in ``times`` for the unstructured kind; 0 where there are none.
    scale : (n, s) array
        log sd_i = scale_i' eta.
    """

    group: np.ndarray
    time: np.ndarray
    scale: np.ndarray

    def take(self, rows: np.ndarray) -> ResidualRows:
        """Some of the rows."""
        return ResidualRows(self.group[rows], self.time[rows], self.scale[rows])


@dataclass(frozen=True)
class ResidualDesign:
    """Residual structure of a model, applied to its rows.

    Attributes
    ----------
    syntax : ResidualSyntax
    factor : GroupingFactor or None
        Groups of correlated rows.
    times : tuple of str
        Labels of the times of the unstructured kind.
    variance : VarianceTerm
    rows : ResidualRows
    """

    syntax: ResidualSyntax
    factor: GroupingFactor | None
    times: tuple[str, ...]
    variance: VarianceTerm
    rows: ResidualRows = field(repr=False)

    @property
    def kind(self) -> str:
        """Name of the correlation structure, or ``"independent"``."""
        return self.syntax.kind

    def order_of_text_times(self, levels: list) -> list[str] | None:
        """Text levels of times taken as whole numbers, where that may not be what is meant.

        None for levels that are not text or in an order of their own, and for one text with
        numbers at equal distances in it that are in alphabetical order anyway.
        """
        text = all(isinstance(level, str) for level in levels) and levels == sorted(levels)
        if STRUCTURES[self.kind].times != "whole" or not text or len(levels) < 3:
            return None
        order = time_order(levels)
        return None if order == levels and spaced_evenly(order) else order

    def with_rows(self, factor: GroupingFactor | None, rows: ResidualRows) -> ResidualDesign:
        """The same structure on more rows.

        Raises
        ------
        DataError
            If a time occurs twice in a group.
        """
        if factor is not None:
            self.refuse_duplicates(rows, factor.levels)
        return replace(self, factor=factor, rows=rows)

    def refuse_duplicates(self, rows: ResidualRows, levels: Sequence) -> None:
        """Refuse a time that occurs twice in a group.

        Raises
        ------
        DataError
        """
        if self.syntax.time is not None:
            _refuse_duplicates(rows.group, rows.time, levels, self.syntax)

    @property
    def largest_group(self) -> int:
        """Rows of the largest group."""
        return int(np.bincount(self.rows.group).max())

    def describe(self) -> str:
        """One line for the printed model."""
        parts = []
        if self.factor is not None:
            counts = np.bincount(self.rows.group)
            low, high = counts.min(), counts.max()
            size = f"{low}" if low == high else f"{low} to {high}"
            parts.append(f"{self.syntax.text}, {len(counts)} groups of {size} rows")
        if self.variance.kind == "cells":
            parts.append(
                f"{self.variance.n} standard deviations by {', '.join(self.variance.columns)}"
            )
        elif self.variance.kind == "log-linear":
            parts.append(f"log standard deviation ~ {self.syntax.sigma}")
        return "; ".join(parts)

    def variance_columns(self, allowed, present) -> list[str]:
        """Columns the standard deviations depend on."""
        if self.variance.columns:
            return list(self.variance.columns)
        return [] if self.variance.kind == "one" else self.syntax.sigma_columns(allowed, present)

    def evaluate(
        self, plain: pd.DataFrame, groups: pd.DataFrame | None, *, scale_only: bool = False
    ) -> ResidualRows:
        """New rows, plain columns with the levels of the fit.

        Parameters
        ----------
        groups : data frame or None
            Columns of the groups as they stand; without them all rows share one group.
        scale_only : bool
            Whether times and groups are left out.

        Raises
        ------
        DataError
            If a time is not whole where it must be, or is not in the fit where it must be.
        """
        n = len(plain)
        plain = _in_time_order(plain, self.syntax)
        time = np.zeros(n)
        if scale_only:
            return ResidualRows(np.arange(n), time, self.variance.evaluate(plain, n))
        if STRUCTURES[self.kind].times == "labels":
            labels = _labels(plain[self.syntax.time])
            unknown = [v for v in labels if v not in self.times]
            if unknown:
                raise DataError(
                    f"Time {unknown[0]} of {self.syntax.time!r} is not in the fit; there are "
                    f"{listed(self.times)}."
                )
            time = np.array([self.times.index(v) for v in labels], dtype=float)
        elif self.syntax.time is not None:
            time = _checked_times(plain[self.syntax.time], self.syntax)
        if self.factor is None:
            group = np.arange(n)
        elif groups is None:
            group = np.zeros(n, dtype=np.int64)
        else:
            joined = groups.astype(str).agg(":".join, axis=1)
            group = pd.factorize(joined)[0].astype(np.int64)
        return ResidualRows(group, time, self.variance.evaluate(plain, n))


def residual_design(syntax: ResidualSyntax, plain: pd.DataFrame, options) -> ResidualDesign:
    """Apply a residual structure to plain columns.

    Raises
    ------
    DataError
        If times are not numbers, not whole where they must be, or occur twice in a group.
    """
    n = len(plain)
    plain = _in_time_order(plain, syntax)
    variance = _variance_term(syntax, plain, options)
    scale = variance.evaluate(plain, n)
    if syntax.kind == "independent":
        return ResidualDesign(
            syntax, None, (), variance, ResidualRows(np.arange(n), np.zeros(n), scale)
        )
    factor = grouping_factor(syntax.groups, plain, at_least=1)
    if np.bincount(factor.codes).max() < 2:
        raise DataError(
            f"residual={syntax.text!r}: every group has a single row, so there is no correlation "
            "to estimate."
        )
    time: np.ndarray = np.zeros(n)
    times: tuple[str, ...] = ()
    if STRUCTURES[syntax.kind].times == "labels":
        time, times = _time_levels(plain[syntax.time], syntax)
    elif syntax.time is not None:
        time = _checked_times(plain[syntax.time], syntax)
    if syntax.time is not None:
        _refuse_duplicates(factor.codes, time, factor.levels, syntax)
    if STRUCTURES[syntax.kind].times == "labels":
        _refuse_unseen_pairs(factor.codes, time.astype(int), times, syntax)
    if text := STRUCTURES[syntax.kind].obstacle(factor.codes, time):
        raise DataError(f"residual={syntax.text!r}: {text}")
    return ResidualDesign(syntax, factor, times, variance, ResidualRows(factor.codes, time, scale))


def _in_time_order(plain: pd.DataFrame, syntax: ResidualSyntax) -> pd.DataFrame:
    """Plain columns, times that are text in the order of the numbers in them."""
    name = syntax.time
    if name is None or not isinstance(plain.dtypes.get(name), pd.CategoricalDtype):
        return plain
    order = time_order(plain[name].cat.categories.tolist())
    return plain.assign(**{name: plain[name].cat.reorder_categories(order)})


def _numeric_times(column: pd.Series) -> np.ndarray:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(dtype=float)  # equally spaced, in the order of levels
    return column.to_numpy(dtype=float)


def _checked_times(column: pd.Series, syntax: ResidualSyntax) -> np.ndarray:
    times = STRUCTURES[syntax.kind].times
    if times == "numbers" and isinstance(column.dtype, pd.CategoricalDtype):
        raise DataError(
            f"residual={syntax.text!r}: {syntax.time!r} is text or categories; continuous time "
            "needs numbers."
        )
    time = _numeric_times(column)
    broken = np.abs(time - np.round(time)) > 1e-9 * (1 + np.abs(time))
    if times == "whole" and broken.any():
        bad = time[broken][0]
        group = ":".join(syntax.groups)
        raise DataError(
            f"residual={syntax.text!r}: {syntax.kind} needs whole-numbered times, and "
            f"{syntax.time!r} has {bad:g}. Use car1({syntax.time} | {group}), or divide by "
            "the spacing first."
        )
    return np.round(time) if times == "whole" else time


def _time_levels(column: pd.Series, syntax: ResidualSyntax) -> tuple[np.ndarray, tuple[str, ...]]:
    labels, codes = _labels_and_codes(column)
    if len(labels) < 2 or len(labels) > _MOST_TIMES:
        raise DataError(
            f"residual={syntax.text!r}: {syntax.time!r} has {len(labels)} different times; an "
            f"unstructured covariance takes 2 to {_MOST_TIMES}. Use ar1 or car1 for many times."
        )
    return codes.astype(float), tuple(labels)


def _refuse_duplicates(group, time, levels, syntax: ResidualSyntax) -> None:
    order = np.lexsort((time, group))
    same = (np.diff(group[order]) == 0) & (np.diff(time[order]) == 0)
    if same.any():
        at = order[int(np.flatnonzero(same)[0])]
        raise DataError(
            f"residual={syntax.text!r}: group {levels[group[at]]!r} has two rows at the same "
            f"{syntax.time} ({time[at]:g}). Each time may occur once in a group; add what tells "
            "them apart to the group (a:b), or use cs()."
        )


def _refuse_unseen_pairs(group, time, times, syntax: ResidualSyntax) -> None:
    """Times no group has together have a correlation the data say nothing about."""
    seen = np.zeros((group.max() + 1, len(times)))
    seen[group, time] = 1.0
    together = seen.T @ seen
    missing = np.argwhere(np.triu(together == 0, 1))
    if len(missing):
        i, j = missing[0]
        raise DataError(
            f"residual={syntax.text!r}: no group has rows at both {times[i]} and {times[j]}, so "
            "their correlation is not identified. Use ar1, car1 or cs, or leave a time out."
        )
