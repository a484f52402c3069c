"""Which columns of a model have unknown values, from what formula and ``missing=`` say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, FormulaError, listed
from bayeslmm.formula.columns import anywhere_missing, find_column, missing_in
from bayeslmm.formula.covariate_formulas import (
    CovariateFormula,
    measured_covariates,
    plain_names,
)
from bayeslmm.formula.expressions import Call, walk
from bayeslmm.formula.groupcalls import written_call
from bayeslmm.formula.residual import ResidualSyntax
from bayeslmm.formula.syntax import ParsedFormula
from bayeslmm.formula.syntaxtree import parse_part, variables_in
from bayeslmm.formula.unknown_columns import UnknownColumn, unknown_column

__all__ = ["Unknowns"]


@dataclass(frozen=True)
class Unknowns:
    """What formula and ``missing=`` say of values that are missing or read with error.

    Attributes
    ----------
    parsed : ParsedFormula
    present : frozenset of str
        Columns of the data.
    every : bool
        Whether all covariates with missing values are modeled.
    formulas : mapping of str to CovariateFormula
        Regressions by covariate.
    predictors : mapping of str to list of str
        Columns of each of these.
    measured : mapping of str to str or float
        Standard deviations of readings, a column or a number, by covariate.
    exact : frozenset of str
        Columns of the response, of groups and of the residual structure.
    """

    parsed: ParsedFormula
    present: frozenset[str]
    every: bool
    formulas: Mapping[str, CovariateFormula]
    predictors: Mapping[str, list[str]]
    measured: Mapping[str, str | float]
    exact: frozenset[str]
    options: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(
        cls,
        parsed: ParsedFormula,
        frame: pd.DataFrame,
        structure: ResidualSyntax | None,
        missing: str | Mapping[str, str],
        formulas: Mapping[str, CovariateFormula],
        options: Mapping[str, Any],
    ) -> Unknowns:
        """Read what a model says.

        Raises
        ------
        FormulaError
            If a regression or a call of me() is not one that can be modeled.
        """
        present, allowed = frozenset(map(str, frame.columns)), options["allowed"]
        names = set(structure.columns(allowed, present)) if structure is not None else set()
        for text in (parsed.response, parsed.trials, parsed.se):
            if text is not None and not text.isdigit():
                names |= set(variables_in(parse_part(text, allowed, present, "response")))
        response = frozenset(names)
        sigma = None if structure is None else structure.sigma
        names |= {column for bar in parsed.bars for column in bar.columns}
        measured = measured_covariates(parsed, allowed, present, sigma=sigma, exact=names)
        predictors = {
            name: formula.columns(allowed, present, set(options["namespace"]))
            for name, formula in formulas.items()
        }
        self = cls(
            parsed, present, missing == "model", formulas, predictors, measured,
            frozenset(names), options,
        )  # fmt: skip
        for name, columns in predictors.items():
            self._check_regression(name, columns, response, frame)
        return self

    def _check_regression(
        self, name: str, columns: list[str], response: frozenset[str], frame: pd.DataFrame
    ) -> None:
        text = self.formulas[name].text
        if name not in self._covariates():
            raise FormulaError(
                f"missing= has a formula of {name!r}, which is not among the covariates of "
                f"{self.parsed.text!r}. Leave it out, or use the column."
            )
        for column in columns:
            find_column(frame, column, f"column of {text!r},")
        for column in columns:
            if column in response:
                raise FormulaError(
                    f"{text!r}: {column!r} is the response, or says what it may be. What it says "
                    f"about {name!r} is used anyway; as a predictor it would be used twice."
                )
            if column == name or column in self.measured:
                raise FormulaError(
                    f"{text!r}: {column!r} is unknown itself where it is missing or measured with "
                    "error. Predictors of a covariate are columns that are observed in every row."
                )

    def _covariates(self) -> set[str]:
        own = [self.parsed.fixed, *(bar.effects for bar in self.parsed.bars)]
        return {name for text in own for name in variables_in(self._tree(text))}

    def _tree(self, text: str):
        return parse_part(text, self.options["allowed"], self.present, "formula")

    def kept_missing(
        self, raw: Mapping[str, pd.Series], weights: pd.Series | None, calls: list[str]
    ) -> list[str]:
        """Covariates whose missing values are modeled, in the rows that are otherwise complete.

        Raises
        ------
        DataError
            If one of them is needed where it cannot be modeled.
        """
        errors = {error for error in self.measured.values() if isinstance(error, str)}
        candidates = [
            name
            for name in raw
            if name not in self.exact | errors and (self.every or name in self.formulas)
        ]
        if not candidates:
            return []
        # the error of a reading that is missing, as its reading is, is not needed
        needed = {k: v for k, v in raw.items() if k not in candidates and k not in errors}
        n = len(next(iter(raw.values())))
        keep = ~anywhere_missing(needed.values(), weights, n)
        names = [name for name in candidates if missing_in(raw[name])[keep].any()]
        elsewhere = self._only_observed(calls)
        for name in names:
            if name in elsewhere:
                raise DataError(
                    f"The missing values of {name!r} cannot be modeled: it is used in a group "
                    "mean or an offset. Impute it beforehand, or drop its rows."
                )
        for name in names:
            for column in self.predictors.get(name, ()):
                if column in names:
                    raise FormulaError(
                        f"{self.formulas[name].text!r}: {column!r} has missing values that are "
                        "modeled themselves. Predictors of a covariate are columns that are "
                        "observed in every row."
                    )
        return names

    def _only_observed(self, calls: list[str]) -> set[str]:
        """Columns in group means and offsets."""
        found: set[str] = set()
        for name in calls:
            call = written_call(name)
            found |= set(variables_in(self._tree(call.covariate))) | set(call.groups)
        for node in walk(self._tree(self.parsed.fixed)):
            if isinstance(node, Call) and node.function == "offset":
                found |= set(variables_in(node))
        return found

    def readings(self, raw: Mapping[str, pd.Series], kept: list[str]) -> dict[str, pd.Series]:
        """The columns, with errors 0 where the reading is missing and modeled."""
        own = [self.parsed.fixed, *(bar.effects for bar in self.parsed.bars)]
        plain = {name for text in own for name in plain_names(self._tree(text))} | self.exact
        filled = dict(raw)
        for name, error in self.measured.items():
            if isinstance(error, str) and name in kept and error not in plain:
                column = filled[error].astype(object)
                filled[error] = column.where(~missing_in(raw[name]), 0.0).infer_objects()
        return filled

    def with_predictors(
        self, raw: Mapping[str, pd.Series], frame: pd.DataFrame, keep: np.ndarray
    ) -> dict[str, pd.Series]:
        """The columns, with those of regressions that are used.

        Raises
        ------
        DataError
            If one of them has missing values in the rows used.
        """
        found = dict(raw)
        for name, columns in self.predictors.items():
            if name not in self.measured and not missing_in(raw[name].iloc[keep]).any():
                continue  # nothing is unknown
            for column in columns:
                found.setdefault(column, find_column(frame, column))
                absent = int(missing_in(found[column].iloc[keep]).sum())
                if absent:
                    raise DataError(
                        f"{self.formulas[name].text!r}: {column!r} is missing in {absent} of the "
                        "rows used. Predictors of a covariate are observed in every row: leave it "
                        "out, or make its missing values a category."
                    )
        return found

    def columns(
        self, used: Mapping[str, pd.Series], kept: list[str], index: pd.Index
    ) -> tuple[UnknownColumn, ...]:
        """The columns with unknown values, in the rows used.

        Raises
        ------
        DataError
            If one of them cannot be modeled, or an error of a reading is none.
        """
        found = []
        for name in dict.fromkeys([*kept, *self.measured]):
            if name not in self.measured and not missing_in(used[name]).any():
                continue
            error = self._errors(name, used, index) if name in self.measured else None
            column = used[name].rename(name)
            found.append(unknown_column(column, error, self.formulas.get(name)))
        return tuple(found)

    def _errors(self, name: str, used: Mapping[str, pd.Series], index: pd.Index) -> np.ndarray:
        """Standard deviations of readings, shape (n,)."""
        error = self.measured[name]
        if not isinstance(error, str):
            return np.full(len(index), error)
        what = f"{error!r}, the standard deviation of the readings of {name!r},"
        try:
            values = used[error].to_numpy(dtype=float)
        except (TypeError, ValueError):
            raise DataError(f"{what} has to be numbers.") from None
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{what} is {values[at]:g} in row {index[at]!r}: it has to be a finite number, 0 "
                f"or more ({listed(map(str, index[bad]), 5)})."
            )
        return values
