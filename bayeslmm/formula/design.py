"""The :class:`Design`: everything a model needs of its data, and the way to treat new data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula.columns import as_frame, find_column, plain_column, refuse_gaps
from bayeslmm.formula.covariates import (
    ModeledCovariate,
)
from bayeslmm.formula.functions import allowed_calls
from bayeslmm.formula.groupcalls import written_call
from bayeslmm.formula.groupmeans import GroupMean
from bayeslmm.formula.matrices import (
    ModelMatrix,
    Term,
)
from bayeslmm.formula.missing import MissingRows
from bayeslmm.formula.random import RandomBlock
from bayeslmm.formula.residual import (
    ResidualDesign,
    ResidualRows,
)
from bayeslmm.formula.statistics import (
    BlockStatistics,
    RowStatistics,
    statistics_of_block,
    statistics_of_rows,
)
from bayeslmm.formula.syntax import ParsedFormula
from bayeslmm.formula.syntaxtree import (
    parse_part,
    variables_in,
)
from bayeslmm.formula.table import PlainTable
from bayeslmm.parts.families import Family, family_of

__all__ = ["Design", "NewRows"]


@dataclass(frozen=True)
class NewRows:
    """New data in the terms of a fitted design.

    Attributes
    ----------
    X : ndarray, shape (m, p)
    offset : ndarray, shape (m,)
    Z : tuple of ndarray, shape (m, q) each
        Empty where no random effects were asked for.
    codes : tuple of ndarray of int, shape (m,) each
        Level of each row, -1 where the level was not in the fit.
    labels : tuple of list
        Label of the level of each row.
    """

    X: np.ndarray
    offset: np.ndarray
    Z: tuple[np.ndarray, ...] = ()
    codes: tuple[np.ndarray, ...] = ()
    labels: tuple[list, ...] = ()


@dataclass(frozen=True)
class Design:
    """A formula applied to a data frame.

    Attributes
    ----------
    formula : ParsedFormula
    response : str
        Name of the response.
    y : ndarray, shape (n,)
        Response, in its own units; the offset is not subtracted. 0/1 for two categories, numbers
        from 0 for ordered ones, counts of successes for trials.
    X : ndarray, shape (n, p)
        Model matrix of the coefficients.
    coef_names : tuple of str
    terms : tuple of Term
        Fixed terms and the columns of `X` each occupies.
    offset : ndarray, shape (n,)
        0 where the formula has no offset.
    weights : ndarray, shape (n,), or None
        Prior weights: Var(eps_i) = sigma^2 / w_i. Of other families than the Gaussian they
        multiply the log density of a row.
    blocks : tuple of RandomBlock
        One per grouping factor, in the order they are first named.
    missing : MissingRows
    rows : ndarray of int, shape (n,)
        Positions of the used rows in the data.
    index : pandas.Index
        Index labels of the used rows.
    table : PlainTable
        The used columns, plain, in the rows used.
    group_means : tuple of GroupMean
        One per call of within() or between().
    modeled : tuple of ModeledCovariate
        Covariates whose missing values are unknowns of the model; the matrices have their means
        in place of them.
    residual : ResidualDesign or None
        Correlations and unequal variances of the residuals; None where they are independent
        with one variance.
    text_columns : frozenset of str
        Used columns that came as text, not as categories.
    family : Family
        Distribution of the response, and its link.
    trials : ndarray, shape (n,), or None
        Of a binomial response.
    categories : tuple of str
        Labels of an ordinal response in their order; of a response of two categories or of
        true/false, the second the event. Empty for numbers.
    se_name : str or None
        Of a response ``y | se(s)``: what the known standard errors of the rows are called. They
        are in `weights`, as 1 / s^2 with sigma known to be 1.
    """

    formula: ParsedFormula
    response: str
    y: np.ndarray = field(repr=False)
    fixed: ModelMatrix = field(repr=False)
    offset: np.ndarray = field(repr=False)
    weights: np.ndarray | None = field(repr=False)
    blocks: tuple[RandomBlock, ...]
    missing: MissingRows
    rows: np.ndarray = field(repr=False)
    index: pd.Index = field(repr=False)
    table: PlainTable = field(repr=False)
    weights_name: str | None = None
    namespace: Mapping[str, Any] = field(repr=False, default_factory=dict)
    group_means: tuple[GroupMean, ...] = field(repr=False, default=())
    modeled: tuple[ModeledCovariate, ...] = field(repr=False, default=())
    residual: ResidualDesign | None = None
    text_columns: frozenset[str] = field(repr=False, default=frozenset())
    family: Family = field(default_factory=partial(family_of, "gaussian"))
    trials: np.ndarray | None = field(repr=False, default=None)
    categories: tuple[str, ...] = ()
    se_name: str | None = None

    @property
    def X(self) -> np.ndarray:
        """Model matrix, shape (n, p)."""
        return self.fixed.values

    @property
    def coef_names(self) -> tuple[str, ...]:
        """Names of the p coefficients."""
        return self.fixed.names

    @property
    def terms(self) -> tuple[Term, ...]:
        """Fixed terms."""
        return self.fixed.terms

    @property
    def n_rows(self) -> int:
        """Rows used."""
        return len(self.y)

    @property
    def columns(self) -> pd.DataFrame:
        """:attr:`table` as a data frame."""
        return self.table.frame

    @cached_property
    def statistics(self) -> RowStatistics:
        """What priors, checks and descriptions need of the rows."""
        return statistics_of_rows(self.y, self.X, self.offset, self.weights, self.block_statistics)

    @cached_property
    def block_statistics(self) -> tuple[BlockStatistics, ...]:
        """Those of the grouping factors alone."""
        return tuple(statistics_of_block(block) for block in self.blocks)

    @cached_property
    def sd_y(self) -> float:
        """Standard deviation of the response less its offset; the divisor is n - 1."""
        return float(np.std(self.y - self.offset, ddof=1))

    @property
    def rows_in_memory(self) -> bool:
        """Whether there are rows to look at; without, anything of a row's size is an error."""
        return True

    @property
    def cross_products(self) -> Any:
        """Products of the columns, which stand in for rows that are not in memory."""
        return None

    @property
    def X_reduced(self) -> np.ndarray:
        """X, or a matrix of few rows with the same X'X where the rows are not in memory."""
        return self.X

    @property
    def columns_of_location(self) -> np.ndarray:
        """X, and the column of ones that thresholds stand for in front of it."""
        if self.family.name != "ordinal":
            return self.X
        return np.column_stack([np.ones(self.n_rows), self.X])

    @property
    def has_intercept(self) -> bool:
        """Whether there is a column of ones called ``Intercept``."""
        return "Intercept" in self.coef_names

    @property
    def intercept_column(self) -> int | None:
        """Position of the intercept, or None."""
        return self.coef_names.index("Intercept") if self.has_intercept else None

    def block(self, factor: str) -> RandomBlock:
        """The block of a grouping factor.

        Raises
        ------
        KeyError
            If there is no such factor; the message lists those there are.
        """
        for block in self.blocks:
            if block.name == factor:
                return block
        names = ", ".join(block.name for block in self.blocks) or "none"
        raise KeyError(f"No grouping factor {factor!r}; this model has: {names}.")

    def evaluate(self, data, *, random: bool = True) -> NewRows:
        """Model matrices of new data, made as those of the fit were.

        Parameters
        ----------
        data : data frame
            Has the predictors' columns; the response is not needed.
        random : bool
            Whether the random effects' matrices and levels are needed too.

        Raises
        ------
        FormulaError
            If a column is missing.
        DataError
            If a predictor has a missing value or a level that was not in the fit.
        """
        frame = as_frame(data)
        plain = self.plain_predictors(frame, self._predictor_columns(random))
        X, offset = self.fixed.evaluate(plain)
        offset = np.zeros(len(frame)) if offset is None else offset
        if not random:
            return NewRows(X, offset)
        Z, codes, labels = [], [], []
        for block in self.blocks:
            grouping = pd.DataFrame(
                {c: _complete(find_column(frame, c), c).to_numpy() for c in block.factor.columns}
            )
            found, label = block.factor.find(grouping)
            Z.append(block.evaluate(plain))
            codes.append(found)
            labels.append(label)
        return NewRows(X, offset, tuple(Z), tuple(codes), tuple(labels))

    def column_values(self, name: str) -> tuple[float, np.ndarray | None]:
        """Mean of a numeric column and its distinct values (None where there are too many).

        Of the values that are known, or read with error.
        """
        column = self.predictors[name].to_numpy()
        known = np.ones(len(column), dtype=bool)
        for covariate in self.modeled:
            if covariate.name == name:
                known[covariate.missing_rows] = False
        return float(column[known].mean()), np.unique(column[known])

    @property
    def stated_residual(self) -> ResidualDesign:
        """The residual structure of a model that has one."""
        assert self.residual is not None
        return self.residual

    def evaluate_residuals(self, data, *, scale_only: bool = False) -> ResidualRows:
        """Times, groups and scales of new rows, in the terms of the residual structure.

        Where `data` lacks the columns of the groups, its rows are taken to share one.

        Parameters
        ----------
        data : data frame
        scale_only : bool
            Whether only the standard deviations matter: times and groups are not looked at.

        Raises
        ------
        FormulaError
            If a column is missing.
        DataError
            If a value is missing, or a time or cell was not in the fit.
        """
        frame, residual = as_frame(data), self.stated_residual
        syntax = residual.syntax
        grouping = () if scale_only else tuple(c for c in syntax.groups if c in frame.columns)
        names = residual.variance_columns(allowed_calls(self.namespace), set(self.table.columns))
        if syntax.time is not None and not scale_only:
            names = [*names, syntax.time]
        plain = {}
        for name in dict.fromkeys(n for n in names if n in self.table.columns):
            column = _complete(find_column(frame, name), name)
            plain[name] = plain_column(column, name, self._categories(name))
        rows = pd.DataFrame(plain, index=pd.RangeIndex(len(frame)))
        groups = None
        if grouping:
            groups = pd.DataFrame({c: _complete(frame[c], c).to_numpy() for c in grouping})
        return residual.evaluate(rows, groups, scale_only=scale_only)

    def evaluate_effects(self, data) -> tuple[np.ndarray, ...]:
        """Covariates Z of each grouping factor for new rows; grouping columns are not needed.

        Raises
        ------
        FormulaError, DataError
            As :meth:`evaluate`.
        """
        frame = as_frame(data)
        names = dict.fromkeys(name for block in self.blocks for name in self.effect_columns(block))
        plain = self.plain_predictors(frame, list(names))
        return tuple(block.evaluate(plain) for block in self.blocks)

    def plain_predictors(self, frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
        """Columns of new data as the model matrices take them.

        Parameters
        ----------
        frame : pandas.DataFrame
        names : list of str
            Columns, among them the names of group means (``"within(x, g)"``): a column of that
            name in `frame` is taken as it is, otherwise it is computed.

        Raises
        ------
        FormulaError
            If a column is missing.
        DataError
            If a value is missing, or a level was not in the fit.
        """
        means = {mean.name: mean for mean in self.group_means}
        given = {str(column) for column in frame.columns}
        computed = [name for name in names if name in means and name not in given]
        inputs = [c for name in computed for c in self._covariate_columns(name)]
        plain = pd.DataFrame(
            {
                name: plain_column(
                    _complete(find_column(frame, name), name),
                    name,
                    self._categories(name),
                    numeric=self._categories(name) is None,
                )
                for name in dict.fromkeys([*names, *inputs])
                if name not in computed
            },
            index=pd.RangeIndex(len(frame)),
        )
        for name in plain.columns.intersection(self.columns.columns):
            wrong = self.columns[name].dtype == bool and ~plain[name].isin([0, 1])
            if np.any(wrong):
                raise DataError(
                    f"Column {name!r} was true or false when the model was fitted, and has "
                    f"{plain[name][wrong].iloc[0]!r} now."
                )
        return plain.assign(**{name: means[name].evaluate(plain, frame) for name in computed})

    @cached_property
    def predictors(self) -> pd.DataFrame:
        """:attr:`columns`, and the columns of within() and between()."""
        means = {mean.name: mean.values for mean in self.group_means}
        return self.columns.assign(**means) if means else self.columns

    def effect_columns(self, block: RandomBlock) -> list[str]:
        """Columns of the data that the random effects of a block use."""
        return self._columns_of([bar.effects for bar in block.terms])

    def _predictor_columns(self, random: bool) -> list[str]:
        texts = [self.formula.fixed]
        if random:
            texts += [bar.effects for block in self.blocks for bar in block.terms]
        return self._columns_of(texts)

    def _columns_of(self, texts: list[str]) -> list[str]:
        known = set(self.table.columns) | {mean.name for mean in self.group_means}
        allowed = allowed_calls(self.namespace)
        trees = [parse_part(text, allowed, known, "formula") for text in texts]
        names = dict.fromkeys(name for tree in trees for name in variables_in(tree))
        return [name for name in names if name in known]

    def _covariate_columns(self, name: str) -> list[str]:
        """Columns of the covariate of a group mean."""
        return self._columns_of([written_call(name).covariate])

    def _categories(self, name: str) -> list | None:
        return self.table.levels(name)


def _complete(column: pd.Series, name: str) -> pd.Series:
    why = ". Fill or remove them: nothing is predicted from a missing predictor."
    return refuse_gaps(column, name, why)
