"""From a formula and a data frame to a :class:`bayeslmm.formula.Design`: columns, rows, blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, FormulaError, listed
from bayeslmm.formula.columns import (
    anywhere_missing,
    as_frame,
    find_column,
    missing_in,
    plain_column,
    weight_values,
)
from bayeslmm.formula.covariate_formulas import covariate_formulas
from bayeslmm.formula.covariates import modeled_covariates
from bayeslmm.formula.design import Design
from bayeslmm.formula.expressions import Name, is_measured, walk
from bayeslmm.formula.functions import allowed_calls, base_namespace, check_namespace
from bayeslmm.formula.groupcalls import group_call, written_call
from bayeslmm.formula.groupmeans import fit_group_mean
from bayeslmm.formula.matrices import (
    model_matrix,
    refuse_many_terms,
)
from bayeslmm.formula.missing import MissingRows
from bayeslmm.formula.random import RandomBlock, grouping_factor, random_block
from bayeslmm.formula.reference import with_references
from bayeslmm.formula.residual import (
    ResidualSyntax,
    residual_design,
)
from bayeslmm.formula.responses import read_response, standard_errors
from bayeslmm.formula.syntax import Bar, ParsedFormula, parse_formula
from bayeslmm.formula.syntaxtree import (
    columns_as_terms,
    parse_part,
    refuse_two_of_one_name,
    variables_in,
)
from bayeslmm.formula.table import PlainTable
from bayeslmm.formula.unknowns import Unknowns
from bayeslmm.parts.families import family_of

__all__ = ["build_design", "columns_and_calls", "with_backquotes"]


def build_design(
    formula: str,
    data,
    *,
    weights=None,
    missing: str | Mapping[str, str] = "drop",
    namespace: Mapping[str, Any] | None = None,
    residual: str | None = None,
    sigma: str | None = None,
    family: str = "gaussian",
    link: str | None = None,
    reference: Mapping[str, Any] | None = None,
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
    missing : {"drop", "raise", "model"} or mapping of str to str
        What to do with rows in which a used column is missing; "model" keeps those in which only
        covariates are that are numbers or have two values. A mapping from covariates to formulas,
        ``{"age": "age ~ sex + (1 | site)"}``, keeps those in which only they are.
    namespace : mapping, optional
        Functions and constants of the user's own that the formula may name.
    residual, sigma : str, optional
        Residual correlation structure and formula of the residual standard deviation.
    family, link : str
        Distribution of the response, one of :data:`bayeslmm.parts.families.FAMILIES`, and link of
        its mean; None is the family's first.
    reference : mapping of str to object, optional
        The level of a factor that the others are compared with; by default the first.

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
    formulas = covariate_formulas(missing)
    frame = as_frame(data)
    structure = ResidualSyntax.parse(residual, sigma)
    namespace = check_namespace(namespace)
    allowed = allowed_calls(namespace)
    options: dict[str, Any] = {"namespace": namespace, "allowed": allowed}
    try:
        parsed = parse_formula(formula)
        if parsed.se is not None:
            _refuse_beside_se(parsed.se, weights, structure, family)
        names, calls = columns_and_calls(parsed, frame, namespace, allowed, structure)
        unknowns = Unknowns.of(parsed, frame, structure, missing, formulas, options)
    except FormulaError as err:
        raise with_backquotes(err, formula, frame) from None
    raw = {name: find_column(frame, name) for name in names}
    raw_weights, weights_name = _weights_column(weights, frame)
    kept_missing = unknowns.kept_missing(raw, raw_weights, calls)
    raw = unknowns.readings(raw, kept_missing)
    needed = {name: column for name, column in raw.items() if name not in kept_missing}
    keep, dropped, absent = _complete_rows(
        needed, raw_weights, weights_name, len(frame), refuse=missing == "raise"
    )
    weights_kept, keep = _positive_weights(raw_weights, keep)
    if not len(keep):
        refuse_no_rows(absent)
    for text in (parsed.fixed, *(bar.effects for bar in parsed.bars)):
        refuse_many_terms(text, len(keep), allowed)
    whole = len(keep) == len(frame)
    raw = unknowns.with_predictors(raw, frame, keep)
    used_rows = {name: column if whole else column.iloc[keep] for name, column in raw.items()}
    unknown = unknowns.columns(used_rows, kept_missing, frame.index[keep])
    used_rows |= {one.name: one.column for one in unknown}
    series = with_references(
        {name: plain_column(column, name) for name, column in used_rows.items()},
        reference or {},
        parsed.response,
        {one.name for one in unknown},
    )
    table = PlainTable(series, len(keep))
    group_means = tuple(fit_group_mean(call, table, **options) for call in calls)
    means = {mean.name: pd.Series(mean.values) for mean in group_means}
    plain = PlainTable(series | means, len(keep))
    response = read_response(
        parsed, plain, raw, frame.index[keep], family_of(family, link), options
    )
    se_name = None
    if parsed.se is not None:
        se_name, se = standard_errors(parsed.se, plain, frame.index[keep], options)
        weights_kept = se**-2.0
    fixed = model_matrix(parsed.fixed, plain, what="formula", **options)
    if family == "ordinal":
        fixed = fixed.without_intercept()
    blocks = _random_blocks(parsed.bars, plain, options)
    short = blocks if len(dropped) else ()
    lost = {b.name: _lost_levels(b, raw) for b in short}
    touched = {b.name: _touched_levels(b, raw, dropped) for b in short}
    offset = np.zeros(len(keep)) if fixed.offset is None else fixed.offset
    return Design(
        formula=parsed,
        response=response.name,
        y=response.y,
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
            {one.name: int(one.missing.sum()) for one in unknown if one.missing.any()},
            {k: v for k, v in touched.items() if v},
        ),
        rows=keep,
        index=frame.index[keep],
        table=table,
        weights_name=weights_name,
        namespace=namespace,
        group_means=group_means,
        modeled=modeled_covariates(unknown, plain, fixed, blocks, options) if unknown else (),
        residual=None if structure is None else residual_design(structure, plain.frame, options),
        text_columns=frozenset(
            name
            for name, column in series.items()
            if isinstance(column.dtype, pd.CategoricalDtype)
            and not isinstance(raw[name].dtype, pd.CategoricalDtype)
        ),
        family=response.family,
        trials=response.trials,
        categories=response.categories,
        se_name=se_name,
    )


def _refuse_beside_se(se: str, weights, structure: ResidualSyntax | None, family: str) -> None:
    """Refuse what known standard errors do not go together with."""
    known = f"se({se}) says the residual standard deviation of every row, which is then known"
    if family != "gaussian":
        raise FormulaError(
            f'{known}: it is for normal estimates, not for family="{family}".'
            + (' random="student" has heavy tails between groups.' if family == "student" else "")
        )
    if weights is not None:
        raise FormulaError(f"{known}: leave out weights=.")
    if structure is not None:
        raise FormulaError(f"{known}: leave out residual= and sigma=.")


def with_backquotes(err: FormulaError, formula, frame: pd.DataFrame) -> FormulaError:
    """The error, with the names that need backquotes if the formula has them without.

    Where it is about the words of such a name, nothing else is said.
    """
    text = formula if isinstance(formula, str) else ""
    names = [str(c) for c in frame.columns if not str(c).isidentifier() and str(c) in text]
    bare = [name for name in names if f"`{name}`" not in text]
    if not bare:
        return err
    read = [name for name in bare if name in str(err)] if str(err).startswith("Cannot read") else []
    said = f"Names with spaces or signs go in backquotes: `{max(read or bare, key=len)}`."
    return FormulaError(said if read else f"{err} {said}")


def columns_and_calls(
    parsed: ParsedFormula, frame, namespace, allowed, structure: ResidualSyntax | None = None
) -> tuple[list[str], list[str]]:
    """Columns the formula names and its calls of within() and between(), in order.

    Names of the namespace are not columns.
    """
    present = {str(column) for column in frame.columns}
    parts = [(parsed.response, "response"), (parsed.fixed, "formula")]
    parts += [(bar.effects, f"random term {bar}") for bar in parsed.bars]
    trees = [parse_part(text, allowed, present, what) for text, what in parts]
    if parsed.trials is not None and not parsed.trials.isdigit():
        trees.append(parse_part(parsed.trials, allowed, present, "number of trials"))
    if parsed.se is not None:
        trees.append(parse_part(parsed.se, allowed, present, "standard error"))
    refuse_two_of_one_name(trees)
    for (_, what), tree in zip(parts[1:], trees[1 : len(parts)], strict=True):
        if twice := columns_as_terms(trees[0]) & columns_as_terms(tree):
            raise FormulaError(
                f"The response {min(twice)!r} is among the predictors of the {what}, and cannot "
                "explain itself. Leave it out there."
            )
    names = dict.fromkeys(name for tree in trees for name in variables_in(tree))
    measured = [node for tree in trees for node in walk(tree) if is_measured(node)]
    errors = [a.name for call in measured for a in call.arguments[1:2] if isinstance(a, Name)]
    names.update(dict.fromkeys(errors))
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
        _refuse_absent(call.groups, present, frame, "grouping column")
        del names[name]
    factors: dict[str, set] = {}
    for bar in parsed.bars:
        if factors.setdefault(bar.factor, set(bar.columns)) != set(bar.columns):
            raise FormulaError(
                f"Two grouping factors are both called {bar.factor!r}: a column, and a combination "
                "of columns. Rename the column."
            )
        names.update(dict.fromkeys(bar.columns))
        _refuse_absent(bar.columns, present, frame, "grouping factor")
    if structure is not None:
        names.update(dict.fromkeys(structure.columns(allowed, present)))
        named = (*structure.groups, *([structure.time] if structure.time else []))
        _refuse_absent(named, present, frame, "column of the residual structure")
    constants = base_namespace() if any(name not in present for name in names) else {}
    return [n for n in names if n in present or n not in {**constants, **namespace}], calls


def _refuse_absent(names: Iterable[str], present: set[str], frame, role: str) -> None:
    for name in names:
        if name not in present:
            find_column(frame, name, role)


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


def _complete_rows(raw: Mapping, raw_weights, weights_name, n: int, *, refuse: bool):
    """Rows to keep, rows left out, and missing values of each column."""
    masks = {name: missing_in(column) for name, column in raw.items()}
    absent = {name: int(mask.sum()) for name, mask in masks.items()}
    if raw_weights is not None:
        absent[weights_name] = int(missing_in(raw_weights).sum())
    mask = anywhere_missing(raw.values(), raw_weights, n)
    if refuse and mask.any():
        refuse_missing(int(mask.sum()), n, absent)
    return np.flatnonzero(~mask), np.flatnonzero(mask), absent


def refuse_missing(n_dropped: int, n: int, absent: Mapping[str, int]) -> None:
    """Refuse rows with missing values; ``absent`` are those of each column.

    Raises
    ------
    DataError
    """
    shown = listed(f"{name} ({count})" for name, count in absent.items() if count)
    raise DataError(
        f'{n_dropped} of {n} rows have missing values: {shown}. missing="drop" leaves them out and '
        "says so."
    )


def refuse_no_rows(absent: Mapping[str, int]) -> None:
    """Refuse data of which no row can be used; ``absent`` are missing values of each column.

    Raises
    ------
    DataError
    """
    if not any(absent.values()):
        raise DataError("Every row has weight 0: there is nothing to fit.")
    shown = listed(f"{name} ({n} missing)" for name, n in absent.items() if n)
    raise DataError(f"No row has all of the columns the formula uses: {shown}.")


def _positive_weights(raw_weights, keep: np.ndarray):
    if raw_weights is None:
        return None, keep
    values = weight_values(raw_weights.iloc[keep])
    positive = values > 0
    return values[positive], keep[positive]


def _random_blocks(bars: tuple[Bar, ...], plain: PlainTable, options) -> tuple[RandomBlock, ...]:
    """Blocks in the order in which their factors are first named."""
    blocks = []
    for group in bars_by_factor(bars):
        factor = grouping_factor(group[0].columns, plain)
        matrices = [
            model_matrix(bar.effects, plain, what=f"random term {bar}", **options) for bar in group
        ]
        blocks.append(random_block(factor, group, matrices))
    return tuple(blocks)


def bars_by_factor(bars: Iterable[Bar]) -> list[list[Bar]]:
    """The bars of each grouping factor, in the order in which factors are first named.

    Raises
    ------
    FormulaError
        If a bar is written twice.
    """
    by_factor: dict[frozenset, list[Bar]] = {}
    for bar in bars:
        by_factor.setdefault(frozenset(bar.columns), []).append(bar)
    for group in by_factor.values():
        if len(set(group)) < len(group):
            raise FormulaError(
                f"The random term {group[0]} is written twice. (For a related and an unrelated "
                "effect of the same individuals, such as a permanent environment, copy the column: "
                'data["individual"] = data["id"].)'
            )
    return list(by_factor.values())


def _lost_levels(block: RandomBlock, raw: Mapping) -> list:
    """Levels of a one-column factor that occur in the data but in no used row."""
    used = set(block.levels)
    return [level for level in _touched_levels(block, raw, slice(None)) if level not in used]


def _touched_levels(block: RandomBlock, raw: Mapping, rows) -> list:
    """Levels of a one-column factor that occur in some rows of the data, such as those left out."""
    if len(block.factor.columns) != 1:
        return []
    column = raw[block.factor.columns[0]].iloc[rows]
    return pd.unique(column[~missing_in(column)].astype(object)).tolist()
