"""From a formula and a source of rows to a design, in as few passes as the formula allows.

1. A survey: column kinds, levels, missing values, a sample (``survey``).
2. Only where the formula has calls such as ``C(x)`` or ``bs(x)``: levels of computed factors, and
   what stateful transforms learn (``states``).
3. Cross-products and statistics (``reduction``).

In between, the formula is applied to a few rows that have all levels; that fixes names, codings
and everything else that does not depend on the rest of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, FormulaError
from bayeslmm.formula.building import (
    bars_by_factor,
    columns_and_calls,
    refuse_missing,
    refuse_no_rows,
    with_backquotes,
)
from bayeslmm.formula.columns import find_column
from bayeslmm.formula.covariate_formulas import measured_covariates
from bayeslmm.formula.functions import allowed_calls, check_namespace
from bayeslmm.formula.labels import words_among_numbers
from bayeslmm.formula.matrices import ModelMatrix, model_matrix, response_matrix
from bayeslmm.formula.missing import MissingRows
from bayeslmm.formula.random import GroupingFactor, RandomBlock, grouping_factor, random_block
from bayeslmm.formula.reference import check_references, levels_from
from bayeslmm.formula.responses import refuse_constant
from bayeslmm.formula.syntax import Bar, ParsedFormula, parse_formula
from bayeslmm.formula.table import PlainTable
from bayeslmm.gaussian import CrossProducts, Shift
from bayeslmm.gaussian.orthogonal import well_conditioned
from bayeslmm.sources.base import Source
from bayeslmm.sources.design import NotHeld, StreamedDesign, not_held
from bayeslmm.sources.reduction import ReductionPass, row_statistics
from bayeslmm.sources.rows import FactorCodes, ModelRows, PlainRows
from bayeslmm.sources.states import learn_states
from bayeslmm.sources.survey import NUMBERS, Survey, SurveyPass, known_frame

__all__ = [
    "LeftOut",
    "assemble_blocks",
    "build_streamed_design",
    "evaluate_on",
    "made_design",
    "used_columns",
]

#: Columns of X that are still sensible: the products of all pairs of them are kept.
_MAX_COLUMNS = 5000
_MAX_COMPUTED_LEVELS = 10_000


def build_streamed_design(
    formula: str,
    source: Source,
    *,
    weights=None,
    missing: str | Mapping[str, str] = "drop",
    namespace: Mapping[str, Any] | None = None,
    reference: Mapping[str, Any] | None = None,
) -> StreamedDesign:
    """Apply a formula to rows that are read in batches.

    Parameters
    ----------
    formula, weights, missing, namespace, reference
        As in :func:`bayeslmm.formula.build_design`; weights are a column's name.
    source : Source

    Raises
    ------
    FormulaError
        If the formula cannot be read, names a column that is not there, or needs all values of
        a column at once.
    DataError
        If the data cannot support it, or cannot be read.
    """
    if missing not in ("drop", "raise"):
        raise DataError(
            f'missing must be "drop" or "raise" where data are read in batches, not {missing!r}.'
        )
    if weights is not None and not isinstance(weights, str):
        raise DataError("weights must be a column's name where data are read in batches.")
    parsed = parse_formula(formula)
    namespace = check_namespace(namespace)
    columns = used_columns(formula, source, weights=weights, namespace=namespace)
    header = pd.DataFrame(columns=list(source.columns))
    used, calls = columns_and_calls(parsed, header, namespace, allowed_calls(namespace))
    if measured := measured_covariates(parsed, allowed_calls(namespace), set(header.columns)):
        raise FormulaError(
            f"me({min(measured)}, ...) has unknown values in every row, and rows read in batches "
            "are not kept. Read the data into memory first."
        )
    if calls:
        raise FormulaError(
            f"{calls[0]} needs the means of groups, which are not taken in batches. Make it a "
            "column of the data first."
        )
    names = tuple(used)
    factors = tuple({frozenset(bar.columns): bar.columns for bar in parsed.bars}.values())
    mark = source.mark()
    survey = source.run(SurveyPass(names, weights, factors, source.text), columns)
    lost = _check_survey(survey, missing)
    kinds = {name: survey.columns[name].kind(name) for name in names}
    levels = {
        name: pd.Index(survey.columns[name].categories(name), dtype=object)
        for name in names
        if kinds[name] == "category"
    }
    if reference:
        known = {name: index.tolist() for name, index in levels.items()}
        check_references(reference, names, known.get, parsed.response)
        for name, level in reference.items():
            levels[name] = pd.Index(levels_from(known[name], name, level), dtype=object)
    plain = PlainRows(names, weights, kinds, levels)
    trial = _Trial(parsed, source, columns, plain, namespace, _sample(survey, kinds, levels))
    response, y_matrix, fixed, groups = trial.evaluate()
    blocks, codes = assemble_blocks(
        groups, lambda columns: _factor(columns, survey, kinds, levels), kinds
    )
    rows = row_model(plain, response, y_matrix, fixed, blocks, codes)
    numbers = tuple(n for n in trial.predictors if kinds[n] != "category")
    reduction = _reduction(rows, blocks, numbers, trial.rows)
    state: Any = None

    def reduce(shift: Shift) -> CrossProducts:
        nonlocal state
        state = source.run(replace(reduction, shift=shift), columns)
        return state.products.finish()

    cp = well_conditioned(reduce, reduction.shift)
    low, high = (float(ends[1]) for ends in (state.response.low, state.response.high))
    refuse_constant(response, low, high, cp.n)
    means = state.numbers.mean if numbers else ()
    return made_design(
        parsed,
        response,
        blocks,
        rows,
        namespace=namespace,
        missing=MissingRows(
            survey.n_rows,
            cast(Any, LeftOut(survey.n_dropped)),
            survey.absent,
            _lost_levels(lost, blocks),
            survey.n_zero_weight,
        ),
        table=PlainTable.of(trial.sample.iloc[:0]),
        prototype=trial.rows,
        numbers={
            name: (float(mean), _sorted(state.distinct[name]))
            for name, mean in zip(numbers, means, strict=True)
        },
        held_statistics=row_statistics(state, cp),
        cross_products=cp,
        source=source,
        text_columns=frozenset(name for name in levels if survey.columns[name].order is None),
        row_hash=state.row_hash,
        source_mark=mark,
    )


def made_design(
    parsed: ParsedFormula, response: str, blocks: tuple[RandomBlock, ...], rows: ModelRows, **more
) -> StreamedDesign:
    """Put a design together whose rows are not held.

    Parameters
    ----------
    parsed, response, blocks
    rows : ModelRows
    **more
        The other attributes of a :class:`StreamedDesign`.
    """
    weights = rows.plain.weights
    return StreamedDesign(
        formula=parsed,
        response=response,
        y=not_held("the response"),
        fixed=rows.fixed,
        offset=not_held("the offset"),
        weights=None if weights is None else not_held("the weights"),
        blocks=blocks,
        rows=not_held("the positions of the rows"),
        index=not_held("the index of the rows"),
        weights_name=weights,
        row_model=rows,
        **more,
    )


def row_model(plain, response, y_matrix, fixed, blocks, codes) -> ModelRows:
    effects = tuple(block._matrices for block in blocks)
    return ModelRows(plain, response if y_matrix is None else y_matrix, fixed, effects, codes)


def _lost_levels(lost: dict[str, list], blocks: tuple[RandomBlock, ...]) -> dict[str, list]:
    """Per grouping factor of one column, levels that occur in left-out rows only."""
    found = {}
    for block in blocks:
        used = set(block.levels) if lost.get(block.name) else set()
        levels = [level for level in lost.get(block.name, []) if level not in used]
        if levels:
            found[block.name] = sorted(levels, key=str)
    return found


def used_columns(
    formula: str,
    source: Source,
    *,
    weights: str | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> list[str]:
    """Columns that have to be read.

    Raises
    ------
    FormulaError
        If the formula cannot be read or names a column that is not there.
    """
    namespace = check_namespace(namespace)
    header = pd.DataFrame(columns=list(source.columns))
    try:
        names, _ = columns_and_calls(
            parse_formula(formula), header, namespace, allowed_calls(namespace)
        )
        for name in names:
            find_column(header, name)
    except FormulaError as err:
        raise with_backquotes(err, formula, header) from None
    if isinstance(weights, str):
        find_column(header, weights, "weights column")
        names = [*names, weights]
    return list(dict.fromkeys(names))


class LeftOut(NotHeld):
    """Positions of left-out rows are not kept; how many there are is."""

    def __init__(self, n: int):
        super().__init__("the positions of the rows left out")
        self.n = n

    def __len__(self) -> int:
        return self.n


def _sorted(values: set | None) -> np.ndarray | None:
    return None if values is None else np.array(sorted(values))


def _check_survey(survey: Survey, missing: str) -> dict[str, list]:
    """Refuse what cannot be fitted; levels that occur in left-out rows only."""
    if not survey.n_rows:
        raise DataError("The data have no rows.")
    if missing == "raise" and survey.n_dropped:
        refuse_missing(survey.n_dropped, survey.n_rows, survey.absent)
    if not survey.n_used:
        refuse_no_rows(survey.absent)
    if not survey.n_dropped:
        return {}
    return {name: _labels(found.values()) for name, found in survey.lost.items()}


def _labels(values: np.ndarray) -> list:
    """Left-out values as labels; numbers that are whole are integers, as levels are."""
    out = []
    for value in values.tolist():
        whole = isinstance(value, float) and value.is_integer()
        out.append(int(value) if whole else value)
    return out


def _sample(survey: Survey, kinds, levels) -> pd.DataFrame:
    """The sampled rows, plain."""
    return pd.concat(
        [known_frame(frame, kinds, levels) for frame in survey.sample if len(frame)],
        ignore_index=True,
    )


class _Trial:
    """The formula on a few rows that have all levels, and what it takes to get them.

    Attributes
    ----------
    rows : pandas.DataFrame
        Plain predictor and response columns.
    predictors : list of str
    """

    def __init__(self, parsed: ParsedFormula, source, columns, plain, namespace, sample):
        self.parsed, self.source, self.columns, self.plain = parsed, source, columns, plain
        self.namespace = namespace
        self.options = {"namespace": namespace, "allowed": allowed_calls(namespace)}
        texts = [parsed.fixed, *(bar.effects for bar in parsed.bars)]
        self.predictors = self._variables(texts)
        wanted = list(dict.fromkeys([*self._variables([parsed.response]), *self.predictors]))
        self.sample = sample
        self.rows = _with_all_levels(sample[wanted])

    def _variables(self, texts: list[str]) -> list[str]:
        from bayeslmm.formula.syntaxtree import parse_part, variables_in

        known = set(self.plain.names)
        trees = [parse_part(t, self.options["allowed"], known, "formula") for t in texts if t]
        return list(dict.fromkeys(n for tree in trees for n in variables_in(tree) if n in known))

    def evaluate(self):
        """Name and matrix of the response, the fixed part, and the bars with their matrices."""
        _, matrices = self._matrices()
        computed = _computed_factors(matrices)
        if computed:
            found = self.source.run(_LevelsPass(self.plain, computed), self.columns)
            examples = pd.concat(
                [row for rows in found.values() for row in rows.values()], ignore_index=True
            )
            self.rows = pd.concat([self.rows, examples[self.rows.columns]], ignore_index=True)
        response, matrices = self._matrices()
        self._refuse_dependence(matrices)
        learn_states(self.source, self.columns, self.plain, self.sample, matrices)
        n_columns = sum(len(matrix.names) for matrix in matrices)
        if n_columns > _MAX_COLUMNS:
            raise FormulaError(
                f"The formula has {n_columns} columns, and the products of all pairs of them are "
                "kept. A factor with many levels is usually a grouping factor: (1 | factor)."
            )
        return _parts(self.parsed, response, matrices)

    def _matrices(self) -> tuple[tuple[str, bool], list[ModelMatrix]]:
        return _evaluated(self.parsed, self.rows, self.options)

    def _refuse_dependence(self, matrices: list[ModelMatrix]) -> None:
        """A function of the user's must give each row its own value, whatever rows are near."""
        if not any(callable(value) for value in self.namespace.values()) or len(self.rows) < 2:
            return
        half = len(self.rows) // 2
        parts = (self.rows.iloc[:half], self.rows.iloc[half:])
        for matrix in matrices:
            whole = matrix.evaluate(self.rows)[0]
            pieces = [matrix.evaluate(part.reset_index(drop=True))[0] for part in parts]
            if not np.array_equal(whole, np.concatenate(pieces)):
                raise FormulaError(
                    f"A function in '{matrix.text}' gives a row another value when other rows are "
                    "with it (a mean or a rank, perhaps), so it cannot be applied in batches. Make "
                    "its result a column of the data."
                )


def evaluate_on(parsed: ParsedFormula, rows: pd.DataFrame, namespace: Mapping[str, Any] | None):
    """Name and matrix of the response, the fixed part, and the bars with their matrices.

    Stateful transforms have the state of these rows; the caller gives them another.
    """
    namespace = check_namespace(namespace)
    options = {"namespace": namespace, "allowed": allowed_calls(namespace)}
    return _parts(parsed, *_evaluated(parsed, rows, options))


def _evaluated(parsed: ParsedFormula, rows: pd.DataFrame, options):
    """Name of the response, whether it is a call, and all matrices (its own first)."""
    name, _, y_matrix = response_matrix(parsed.response, rows, **options)
    fixed = model_matrix(parsed.fixed, rows, what="formula", **options)
    effects = [
        model_matrix(bar.effects, rows, what=f"random term {bar}", **options) for bar in parsed.bars
    ]
    own = [] if y_matrix is None else [y_matrix]
    return (name, bool(own)), [*own, fixed, *effects]


def _parts(parsed: ParsedFormula, response: tuple[str, bool], matrices: list[ModelMatrix]):
    bare = [_without_rows(matrix) for matrix in matrices]
    y_matrix = bare.pop(0) if response[1] else None
    return response[0], y_matrix, bare[0], list(zip(parsed.bars, bare[1:], strict=True))


def _with_all_levels(sample: pd.DataFrame) -> pd.DataFrame:
    """The sample, and rows of it in which every level of every categorical column occurs."""
    width = 0
    for column in sample.columns:
        if isinstance(sample[column].dtype, pd.CategoricalDtype):
            width = max(width, len(sample[column].cat.categories))
    if not width:
        return _ordered(sample)
    if width > _MAX_COLUMNS:
        _refuse_many_levels(sample)
    more = sample.iloc[np.arange(width) % len(sample)].reset_index(drop=True)
    for column in sample.columns:
        dtype = sample[column].dtype
        if isinstance(dtype, pd.CategoricalDtype):
            codes = np.arange(width) % len(dtype.categories)
            more[column] = pd.Categorical.from_codes(codes, dtype=dtype)
    return _ordered(pd.concat([sample, more], ignore_index=True))


def _refuse_many_levels(sample: pd.DataFrame) -> None:
    name, levels = max(
        (
            (name, column.cat.categories.tolist())
            for name, column in sample.items()
            if isinstance(column.dtype, pd.CategoricalDtype)
        ),
        key=lambda found: len(found[1]),
    )
    words = words_among_numbers(levels) if all(isinstance(v, str) for v in levels) else []
    if words:
        raise DataError(
            f"Column {name!r} is text, though most of its {len(levels)} different values are "
            f"numbers. What is not: {', '.join(map(repr, words[:3]))}. Correct or remove these."
        )
    raise FormulaError(
        f"The factor {name!r} of the formula has {len(levels)} levels. A factor with that many "
        "levels is usually a grouping factor: (1 | factor)."
    )


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Categories in their order: formulae sorts those of unordered columns."""
    columns = {
        name: column.cat.as_ordered() if isinstance(column.dtype, pd.CategoricalDtype) else column
        for name, column in frame.items()
    }
    return pd.DataFrame(columns)


def _computed_factors(matrices: list[ModelMatrix]) -> dict[str, tuple]:
    """Text to (call, environment) of the calls that give factors, such as C(x)."""
    found = {}
    for matrix in matrices:
        for piece in matrix._pieces:
            for component in getattr(piece, "components", []):
                if hasattr(component, "call") and component.kind == "categoric":
                    found[component.name] = (component.call, component.env)
    return found


@dataclass(frozen=True)
class _LevelsPass:
    """One example row for each level of each computed factor."""

    plain: PlainRows
    calls: dict[str, tuple]

    def start(self) -> dict[str, dict]:
        return {text: {} for text in self.calls}

    def add(self, state: dict[str, dict], frame: pd.DataFrame) -> dict[str, dict]:
        rows = self.plain(frame)[0]
        if not len(rows):
            return state
        for text, (call, env) in self.calls.items():
            with np.errstate(all="ignore"):
                values = call.eval(rows, env)
            values = pd.Series(np.asarray(getattr(values, "data", values)))
            first = ~values.duplicated()
            for at, value in zip(np.flatnonzero(first), values[first], strict=True):
                if value not in state[text]:
                    state[text][value] = _ordered(rows.iloc[[at]])
            if len(state[text]) > _MAX_COMPUTED_LEVELS:
                raise FormulaError(
                    f"The factor '{text}' has more than {_MAX_COMPUTED_LEVELS} levels: a factor "
                    "with that many levels is usually a grouping factor."
                )
        return state

    def merge(self, a: dict[str, dict], b: dict[str, dict]) -> dict[str, dict]:
        for text, rows in b.items():
            a[text] = {**rows, **a[text]}
        return a


def _without_rows(matrix: ModelMatrix) -> ModelMatrix:
    offset = None if matrix.offset is None else not_held("the offset")
    return replace(matrix, values=not_held("the model matrix"), offset=offset)


def assemble_blocks(
    groups: list[tuple[Bar, ModelMatrix]], factor_of: Callable, kinds: Mapping[str, str]
) -> tuple[tuple[RandomBlock, ...], tuple[FactorCodes, ...]]:
    """Blocks in the order in which their factors are first named, without rows.

    Parameters
    ----------
    groups : list of (Bar, ModelMatrix)
    factor_of : callable
        Columns to their grouping factor.
    kinds : mapping of str to str
    """
    blocks, codes, matrix_of = [], [], dict(groups)
    for bars in bars_by_factor(bar for bar, _ in groups):
        factor, held = factor_of(bars[0].columns), tuple(matrix_of[bar] for bar in bars)
        # an empty matrix of the right width stands for Z while names and patterns are settled
        stubs = [replace(m, values=np.empty((0, len(m.names)))) for m in held]
        block = random_block(factor, bars, stubs)
        blocks.append(
            replace(block, Z=not_held("the covariates of random effects"), _matrices=held)
        )
        codes.append(FactorCodes.of(factor, kinds))
    return tuple(blocks), tuple(codes)


def _factor(columns: tuple[str, ...], survey: Survey, kinds, levels) -> GroupingFactor:
    """A grouping factor from the distinct values of its columns."""
    found = survey.distinct[columns]
    if len(columns) == 1:
        name = columns[0]
        if kinds[name] == "category":
            values = pd.Categorical.from_codes(np.arange(len(levels[name])), levels[name])
        else:
            values = found.values().astype(NUMBERS[kinds[name]])
        distinct = pd.DataFrame({name: values})
    else:
        distinct = known_frame(found.values(), {c: kinds[c] for c in columns}, levels)
    factor = grouping_factor(columns, distinct)
    return replace(factor, codes=not_held("the level"))


def _reduction(
    rows: ModelRows, blocks: tuple[RandomBlock, ...], numbers: tuple[str, ...], sample: pd.DataFrame
) -> ReductionPass:
    """The last pass, with the constants to subtract taken from the sample."""
    if isinstance(rows.response, str):
        y = sample[rows.response].to_numpy(dtype=float)
    else:
        y = rows.response.evaluate(sample)[0][:, 0]
    X, offset = rows.fixed.evaluate(sample)
    # nearly collinear columns are so in the sample: one pass over the data, not two
    shift = CrossProducts.from_rows(y if offset is None else y - offset, X, []).shift
    pilots = tuple(
        np.column_stack([m.evaluate(sample)[0] for m in matrices]).mean(axis=0)
        for matrices in rows.effects
    )
    return ReductionPass(
        rows,
        tuple(block.n_levels for block in blocks),
        shift,
        pilots,
        numbers,
        np.array([sample[name].to_numpy(dtype=float).mean() for name in numbers]),
    )
