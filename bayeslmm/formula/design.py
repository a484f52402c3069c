"""The :class:`Design`: everything a model needs of its data, and the way to treat new data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, FormulaError, listed
from bayeslmm.formula.columns import as_frame, find_column, missing_in, plain_column
from bayeslmm.formula.covariates import (
    ModeledCovariate,
    fill_with_means,
    modeled_covariates,
    refuse_unmodeled,
)
from bayeslmm.formula.expressions import Call, walk
from bayeslmm.formula.functions import allowed_calls, base_namespace, check_namespace
from bayeslmm.formula.groupcalls import group_call, written_call
from bayeslmm.formula.groupmeans import GroupMean, fit_group_mean
from bayeslmm.formula.matrices import (
    ModelMatrix,
    Term,
    model_matrix,
    refuse_many_terms,
    response_vector,
)
from bayeslmm.formula.missing import MissingRows
from bayeslmm.formula.random import RandomBlock, grouping_factor, random_block
from bayeslmm.formula.residual import (
    ResidualDesign,
    ResidualRows,
    ResidualSyntax,
    residual_design,
)
from bayeslmm.formula.statistics import RowStatistics, statistics_of_rows
from bayeslmm.formula.syntax import Bar, ParsedFormula, parse_formula
from bayeslmm.formula.syntaxtree import (
    columns_as_terms,
    parse_part,
    refuse_two_of_one_name,
    variables_in,
)

__all__ = ["Design", "NewRows", "build_design"]


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
        Response, in its own units; the offset is not subtracted.
    X : ndarray, shape (n, p)
        Model matrix of the coefficients.
    coef_names : tuple of str
    terms : tuple of Term
        Fixed terms and the columns of `X` each occupies.
    offset : ndarray, shape (n,)
        0 where the formula has no offset.
    weights : ndarray, shape (n,), or None
        Prior weights: Var(eps_i) = sigma^2 / w_i.
    blocks : tuple of RandomBlock
        One per grouping factor, in the order they are first named.
    missing : MissingRows
    rows : ndarray of int, shape (n,)
        Positions of the used rows in the data.
    index : pandas.Index
        Index labels of the used rows.
    columns : pandas.DataFrame
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
    columns: pd.DataFrame = field(repr=False)
    weights_name: str | None = None
    namespace: Mapping[str, Any] = field(repr=False, default_factory=dict)
    group_means: tuple[GroupMean, ...] = field(repr=False, default=())
    modeled: tuple[ModeledCovariate, ...] = field(repr=False, default=())
    residual: ResidualDesign | None = None
    text_columns: frozenset[str] = field(repr=False, default=frozenset())

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

    @cached_property
    def statistics(self) -> RowStatistics:
        """What priors, checks and descriptions need of the rows."""
        return statistics_of_rows(self)

    @property
    def rows_in_memory(self) -> bool:
        """Whether there are rows to look at; without, anything of a row's size is an error."""
        return True

    @property
    def X_reduced(self) -> np.ndarray:
        """X, or a matrix of few rows with the same X'X where the rows are not in memory."""
        return self.X

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
        """Mean of a numeric column and its distinct values (None where there are too many)."""
        column = self.predictors[name]
        return float(column.mean()), np.unique(column.to_numpy())

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
        names = residual.variance_columns(allowed_calls(self.namespace), set(self.columns.columns))
        if syntax.time is not None and not scale_only:
            names = [*names, syntax.time]
        plain = {}
        for name in dict.fromkeys(n for n in names if n in self.columns.columns):
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
        return plain.assign(**{name: means[name].evaluate(plain, frame) for name in computed})

    @cached_property
    def predictors(self) -> pd.DataFrame:
        """:attr:`columns`, and the columns of within() and between()."""
        return self.columns.assign(**{mean.name: mean.values for mean in self.group_means})

    def effect_columns(self, block: RandomBlock) -> list[str]:
        """Columns of the data that the random effects of a block use."""
        return self._columns_of([bar.effects for bar in block.terms])

    def _predictor_columns(self, random: bool) -> list[str]:
        texts = [self.formula.fixed]
        if random:
            texts += [bar.effects for block in self.blocks for bar in block.terms]
        return self._columns_of(texts)

    def _columns_of(self, texts: list[str]) -> list[str]:
        known = set(self.columns.columns) | {mean.name for mean in self.group_means}
        allowed = allowed_calls(self.namespace)
        trees = [parse_part(text, allowed, known, "formula") for text in texts]
        names = dict.fromkeys(name for tree in trees for name in variables_in(tree))
        return [name for name in names if name in known]

    def _covariate_columns(self, name: str) -> list[str]:
        """Columns of the covariate of a group mean."""
        return self._columns_of([written_call(name).covariate])

    def _categories(self, name: str) -> list | None:
        if name not in self.columns:
            return None
        dtype = self.columns[name].dtype
        return dtype.categories.tolist() if isinstance(dtype, pd.CategoricalDtype) else None


def build_design(
    formula: str,
    data,
    *,
    weights=None,
    missing: str = "drop",
    namespace: Mapping[str, Any] | None = None,
    residual: str | None = None,
    sigma: str | None = None,
) -> Design:
    """Apply a formula to data.

    Parameters
    ----------
    formula : str
        lme4's language; see :func:`bayeslmm.formula.parse_formula`.
    data : data frame
        One row per observation.
    weights : str or array-like of shape (n,), optional
        Prior weights, a column's name or one value per row of `data`.
    missing : {"drop", "raise", "model"}
        What to do with rows in which a used column is missing; "model" keeps those in which only
        numeric covariates are.
    namespace : mapping, optional
        Functions and constants of the user's own that the formula may name.
    residual, sigma : str, optional
        Residual correlation structure and formula of the residual standard deviation.

    Returns
    -------
    Design

    Raises
    ------
    FormulaError
        If the formula cannot be read or names a column that is not there.
    DataError
        If the data cannot support it.
    """
    if missing not in ("drop", "raise", "model"):
        raise DataError(f'missing must be "drop", "raise" or "model", not {missing!r}.')
    frame = as_frame(data)
    structure = ResidualSyntax.parse(residual, sigma)
    namespace = check_namespace(namespace)
    allowed = allowed_calls(namespace)
    try:
        parsed = parse_formula(formula)
        names, calls = _used_columns(parsed, frame, namespace, allowed, structure)
    except FormulaError as err:
        raise _with_backquotes(err, formula, frame) from None
    raw = {name: find_column(frame, name) for name in names}
    raw_weights, weights_name = _weights_column(weights, frame)
    kept_missing: list[str] = []
    if missing == "model":
        kept_missing = _to_model(parsed, raw, raw_weights, frame, allowed, calls)
    needed = {name: column for name, column in raw.items() if name not in kept_missing}
    keep, absent = _complete_rows(needed, raw_weights, weights_name, missing, len(frame))
    weights_kept, keep = _positive_weights(raw_weights, keep)
    if not len(keep) and not any(absent.values()):
        raise DataError("Every row has weight 0: there is nothing to fit.")
    if not len(keep):
        raise DataError(
            "No row has all of the columns the formula uses: "
            f"{listed(f'{k} ({v} missing)' for k, v in absent.items() if v)}."
        )
    for text in (parsed.fixed, *(bar.effects for bar in parsed.bars)):
        refuse_many_terms(text, len(keep), allowed)
    used_rows = {name: column.iloc[keep] for name, column in raw.items()}
    unknown = {name: missing_in(used_rows[name]) for name in kept_missing}
    unknown = {name: mask for name, mask in unknown.items() if mask.any()}
    used_rows |= {name: fill_with_means(used_rows[name]) for name in unknown}
    plain = pd.DataFrame(
        {name: plain_column(column, name) for name, column in used_rows.items()},
        index=pd.RangeIndex(len(keep)),
    )
    options: dict[str, Any] = {"namespace": namespace, "allowed": allowed}
    group_means = tuple(fit_group_mean(call, plain, **options) for call in calls)
    used, plain = plain, plain.assign(**{mean.name: mean.values for mean in group_means})
    response, y = response_vector(parsed.response, plain, **options)
    _refuse_constant(response, y)
    fixed = model_matrix(parsed.fixed, plain, what="formula", **options)
    blocks = _random_blocks(parsed.bars, plain, options)
    dropped = np.flatnonzero(_dropped_mask(needed, raw_weights, len(frame)))
    lost = {b.name: _lost_levels(b, raw) for b in blocks} if len(dropped) else {}
    offset = np.zeros(len(keep)) if fixed.offset is None else fixed.offset
    return Design(
        formula=parsed,
        response=response,
        y=y,
        fixed=fixed,
        offset=offset,
        weights=weights_kept,
        blocks=blocks,
        missing=MissingRows(
            len(frame),
            dropped,
            absent,
            {k: v for k, v in lost.items() if v},
            len(frame) - len(dropped) - len(keep),
            {name: int(mask.sum()) for name, mask in unknown.items()},
            {b.name: levels for b in blocks if (levels := _touched_levels(b, raw, dropped))},
        ),
        rows=keep,
        index=frame.index[keep],
        columns=used,
        weights_name=weights_name,
        namespace=namespace,
        group_means=group_means,
        modeled=modeled_covariates(unknown, plain, fixed, blocks),
        residual=None if structure is None else residual_design(structure, plain, options),
        text_columns=frozenset(
            name
            for name, column in used.items()
            if isinstance(column.dtype, pd.CategoricalDtype)
            and not isinstance(raw[name].dtype, pd.CategoricalDtype)
        ),
    )


def _with_backquotes(err: FormulaError, formula, frame: pd.DataFrame) -> FormulaError:
    """The error, with the names that need backquotes if the formula has them without."""
    text = formula if isinstance(formula, str) else ""
    names = [str(c) for c in frame.columns if not str(c).isidentifier() and str(c) in text]
    bare = [name for name in names if f"`{name}`" not in text]
    if not bare:
        return err
    return FormulaError(f"{err} Names with spaces or signs go in backquotes: `{bare[0]}`.")


def _used_columns(
    parsed: ParsedFormula, frame, namespace, allowed, structure: ResidualSyntax | None = None
) -> tuple[list[str], list[str]]:
    """Columns the formula names and its calls of within() and between(), in order.

    Names of the namespace are not columns.
    """
    present = {str(column) for column in frame.columns}
    parts = [(parsed.response, "response"), (parsed.fixed, "formula")]
    parts += [(bar.effects, f"random term {bar}") for bar in parsed.bars]
    trees = [parse_part(text, allowed, present, what) for text, what in parts]
    refuse_two_of_one_name(trees)
    for (_, what), tree in zip(parts[1:], trees[1:], strict=True):
        if twice := columns_as_terms(trees[0]) & columns_as_terms(tree):
            raise FormulaError(
                f"The response {min(twice)!r} is among the predictors of the {what}, and cannot "
                "explain itself. Leave it out there."
            )
    names = dict.fromkeys(name for tree in trees for name in variables_in(tree))
    calls = [name for name in names if group_call(name)]
    for name in calls:
        if name in variables_in(trees[0]):
            raise FormulaError(
                f"The response cannot be {name}: its groups belong on the right of '~'."
            )
        if name in present:
            raise FormulaError(
                f"The data have a column called {name!r}, and the formula calls {name}. Rename "
                "the column, or leave it out."
            )
        call = written_call(name)
        covariate = parse_part(call.covariate, allowed, present, f"term {name}")
        names.update(dict.fromkeys([*variables_in(covariate), *call.groups]))
        for column in call.groups:
            find_column(frame, column, "grouping column")
        del names[name]
    factors: dict[str, set] = {}
    for bar in parsed.bars:
        if factors.setdefault(bar.factor, set(bar.columns)) != set(bar.columns):
            raise FormulaError(
                f"Two grouping factors are both called {bar.factor!r}: a column, and a combination "
                "of columns. Rename the column."
            )
        names.update(dict.fromkeys(bar.columns))
        for column in bar.columns:
            find_column(frame, column, "grouping factor")
    if structure is not None:
        names.update(dict.fromkeys(structure.columns(allowed, present)))
        for column in (*structure.groups, *([structure.time] if structure.time else [])):
            find_column(frame, column, "column of the residual structure")
    constants = {**base_namespace(), **namespace}
    return [name for name in names if name in present or name not in constants], calls


def _weights_column(weights, frame: pd.DataFrame) -> tuple[pd.Series | None, str | None]:
    if weights is None:
        return None, None
    if isinstance(weights, str):
        return find_column(frame, weights, "weights column"), weights
    values = pd.Series(np.asarray(weights).ravel() if np.ndim(weights) else [weights])
    if isinstance(weights, pd.Series) and not weights.index.equals(frame.index):
        raise DataError(
            "weights is a Series whose index is not that of the data, so which weight belongs to "
            "which row is unclear. Make it a column of the data, or pass .to_numpy()."
        )
    if len(values) != len(frame):
        raise DataError(
            f"weights has {len(values)} values, the data have {len(frame)} rows. Give one per row, "
            "or a column's name."
        )
    return values, "weights"


def _dropped_mask(raw: Mapping, raw_weights, n: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    for column in raw.values():
        mask |= missing_in(column)
    if raw_weights is not None:
        mask |= missing_in(raw_weights)
    return mask


def _to_model(parsed: ParsedFormula, raw, raw_weights, frame, allowed, calls) -> list[str]:
    """Covariates whose missing values are modeled."""
    present = {str(column) for column in frame.columns}
    response = _variables(parsed.response, allowed, present)
    groups = {column for bar in parsed.bars for column in bar.columns}
    required = {name: raw[name] for name in raw if name in response | groups}
    keep = np.flatnonzero(~_dropped_mask(required, raw_weights, len(frame)))
    fixed = set(response)
    for name in calls:
        call = written_call(name)
        fixed |= _variables(call.covariate, allowed, present) | set(call.groups)
    for node in walk(parse_part(parsed.fixed, allowed, present, "formula")):
        if isinstance(node, Call) and node.function == "offset":
            fixed |= set(variables_in(node))
    candidates = {name: column for name, column in raw.items() if name not in required}
    return refuse_unmodeled(candidates, fixed, keep)


def _variables(text: str, allowed, columns: set[str]) -> set[str]:
    return set(variables_in(parse_part(text, allowed, columns, "formula")))


def _complete_rows(raw: Mapping, raw_weights, weights_name, missing: str, n: int):
    absent = {name: int(missing_in(column).sum()) for name, column in raw.items()}
    if raw_weights is not None:
        absent[weights_name] = int(missing_in(raw_weights).sum())
    mask = _dropped_mask(raw, raw_weights, n)
    if missing == "raise" and mask.any():
        shown = listed(f"{name} ({count})" for name, count in absent.items() if count)
        raise DataError(
            f'{int(mask.sum())} of {n} rows have missing values: {shown}. missing="drop" leaves '
            "them out and says so."
        )
    return np.flatnonzero(~mask), absent


def _positive_weights(raw_weights, keep: np.ndarray):
    if raw_weights is None:
        return None, keep
    try:
        values = raw_weights.iloc[keep].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise DataError("weights must be numbers.") from None
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise DataError(
            "weights must be finite and not negative; they are precisions: Var = sigma^2 / weight."
        )
    positive = values > 0
    return values[positive], keep[positive]


def _refuse_constant(response: str, y: np.ndarray) -> None:
    spread = float(np.ptp(y)) if len(y) else 0.0
    if len(y) > 1 and spread <= 8 * np.finfo(float).eps * float(np.max(np.abs(y))):
        raise DataError(
            f"The response {response!r} is constant ({y[0]:g} in all {len(y)} rows): there is "
            "nothing to model."
        )
    if len(y) < 2:
        raise DataError(f"Only {len(y)} row is usable; a model needs more.")


def _random_blocks(bars: tuple[Bar, ...], plain: pd.DataFrame, options) -> tuple[RandomBlock, ...]:
    """Blocks in the order in which their factors are first named."""
    by_factor: dict[frozenset, list[Bar]] = {}
    for bar in bars:
        by_factor.setdefault(frozenset(bar.columns), []).append(bar)
    blocks = []
    for group in by_factor.values():
        if len(set(group)) < len(group):
            raise FormulaError(
                f"The random term {group[0]} is written twice. (For a related and an unrelated "
                "effect of the same individuals, such as a permanent environment, copy the column: "
                'data["individual"] = data["id"].)'
            )
        factor = grouping_factor(group[0].columns, plain)
        matrices = [
            model_matrix(bar.effects, plain, what=f"random term {bar}", **options) for bar in group
        ]
        blocks.append(random_block(factor, group, matrices))
    return tuple(blocks)


def _lost_levels(block: RandomBlock, raw: Mapping) -> list:
    """Levels of a one-column factor that occur in the data but in no used row."""
    if len(block.factor.columns) != 1:
        return []
    column = raw[block.factor.columns[0]]
    before = pd.unique(column[~missing_in(column)].astype(object))
    used = set(block.levels)
    return [level for level in before if level not in used]


def _touched_levels(block: RandomBlock, raw: Mapping, dropped: np.ndarray) -> list:
    """Levels of a one-column factor some of whose rows are left out."""
    if len(block.factor.columns) != 1 or not len(dropped):
        return []
    column = raw[block.factor.columns[0]].iloc[dropped]
    return pd.unique(column[~missing_in(column)].astype(object)).tolist()


def _complete(column: pd.Series, name: str) -> pd.Series:
    absent = missing_in(column)
    if absent.any():
        raise DataError(
            f"Column {name!r} of the new data has {int(absent.sum())} missing value(s), the first "
            f"in row {int(np.flatnonzero(absent)[0])}. Fill or remove them: nothing is predicted "
            "from a missing predictor."
        )
    return column
