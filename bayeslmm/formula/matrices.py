"""An ordinary model matrix: the fixed part of a formula, the left side of a bar, a response.

formulae evaluates terms with calls in them, ``plainterms`` the others; what is added here is the
order of terms (by degree, as in R, so that the coding of factors does not depend on the order they
are written in), the offset taken out, errors that name the term, and a frozen result that evaluates
new data the same way.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Set
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import BayesLMMError, DataError, FormulaError, listed, shortened
from bayeslmm.formula.algebra import expand_terms
from bayeslmm.formula.coding import Coding, codings
from bayeslmm.formula.evaluation import component_of
from bayeslmm.formula.expressions import Call, Group, GroupMean, Name, Node, printed
from bayeslmm.formula.functions import evaluation_environment
from bayeslmm.formula.labels import stray_words
from bayeslmm.formula.plainterms import PlainColumn, PlainTerm, plain_term
from bayeslmm.formula.syntaxtree import parse_part
from bayeslmm.formula.table import PlainTable

__all__ = [
    "ModelMatrix",
    "Term",
    "mentions",
    "model_matrix",
    "refuse_many_terms",
    "response_column",
    "response_matrix",
]

#: What a formula is evaluated on.
type Rows = pd.DataFrame | PlainTable

_MAX_DENSE_BYTES = 4e9
#: Terms that are evaluated however few rows there are: columns of some may depend on others.
_FEW_TERMS = 1000
#: Factors whose combinations of effects are laid out one by one.
_MOST_FACTORS = 10


@dataclass(frozen=True)
class Term:
    """A term of a model matrix and the columns it occupies.

    Attributes
    ----------
    name : str
        Such as ``"Days"``, ``"a:b"`` or ``"Intercept"``.
    columns : slice
        Its columns.
    components : tuple of str
        Names of the variables or calls that are multiplied; empty for the intercept.
    categorical : tuple of str
        Those of them that are factors.
    """

    name: str
    columns: slice
    components: tuple[str, ...]
    categorical: tuple[str, ...]


def mentions(component: str, name: str) -> bool:
    """Whether a component of a term is of a column: itself, or in a call."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", component) is not None


@dataclass(frozen=True)
class ModelMatrix:
    """Values, names and memory of a model matrix.

    Attributes
    ----------
    text : str
        The formula text it came from.
    values : ndarray, shape (n, p)
    names : tuple of str
        One per column.
    terms : tuple of Term
    offset : ndarray, shape (n,), or None
        Sum of the ``offset(...)`` terms.
    """

    text: str
    values: np.ndarray = field(repr=False)
    names: tuple[str, ...]
    terms: tuple[Term, ...]
    offset: np.ndarray | None = field(repr=False)
    _pieces: tuple[Any, ...] = field(repr=False, default=())

    @property
    def offset_names(self) -> tuple[str, ...]:
        """The ``offset(...)`` terms as written."""
        return tuple(str(piece.name) for piece in self._pieces if piece.kind == "offset")

    def without_intercept(self) -> ModelMatrix:
        """The same columns but for the intercept, coded as beside one.

        Raises
        ------
        FormulaError
            If there is none.
        """
        if self.names[:1] != ("Intercept",):
            raise FormulaError(
                f"There is no intercept in '{self.text}', and ordered categories have thresholds "
                "in its place: leaving it out has no meaning. Write the formula without 0 + or - 1."
            )
        return replace(
            self,
            values=np.ascontiguousarray(self.values[:, 1:]),
            names=self.names[1:],
            terms=tuple(
                replace(term, columns=slice(term.columns.start - 1, term.columns.stop - 1))
                for term in self.terms[1:]
            ),
            _pieces=tuple(piece for piece in self._pieces if piece.kind != "intercept"),
        )

    def evaluate(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """The matrix and the offset for new rows.

        Stateful transforms keep what they learned from the fitted rows; the columns of
        `frame` are plain columns with the levels of the fit.

        Raises
        ------
        FormulaError
            If a term cannot be evaluated.
        DataError
            If a value is not finite.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return self.evaluate_batch(frame)

    def evaluate_batch(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """As :meth:`evaluate`, and safe in several threads at once."""
        blocks = []
        for piece in self._pieces:
            blocks.append((piece, _retold(piece.name, _new_block, piece, frame)))
        return _assemble(blocks, len(frame))


def _new_block(piece, frame: Rows) -> np.ndarray:
    block = _two_dimensional(piece.eval_new_data(frame))
    _refuse_overflow(piece, block, frame)
    return block


def model_matrix(
    text: str,
    frame: Rows,
    *,
    namespace: Mapping[str, Any],
    allowed: Set[str],
    what: str,
) -> ModelMatrix:
    """Evaluate a right-hand side, with its implicit intercept.

    Parameters
    ----------
    text : str
        Formula text without ``~`` and bars.
    frame : pandas.DataFrame or PlainTable
        Plain columns (see :func:`bayeslmm.formula.columns.plain_column`), no missing values.
    namespace : mapping
        The user's own functions and constants.
    allowed : set of str
        Names that may be called.
    what : str
        How to call the part in messages.

    Raises
    ------
    FormulaError
        If it cannot be parsed or a term cannot be evaluated.
    DataError
        If a term gives values that are not finite.
    """
    tree = parse_part(text, allowed, set(frame.columns), what)
    return _evaluate(expand_terms(tree, text), text, frame, namespace)


def refuse_many_terms(text: str, n: int, allowed: Set[str]) -> None:
    """Refuse many more terms than rows before each is evaluated; a*b*... of 12 columns is 4096.

    Raises
    ------
    DataError
    """
    n_terms = len(expand_terms(parse_part(text, allowed, set(), "formula"), text))
    if n_terms > max(n, _FEW_TERMS):
        raise DataError(
            f"'{shortened(text)}' stands for {n_terms:,} terms, and there are {n:,} rows: there "
            "must be more rows than coefficients. Leave terms out."
        )


def response_matrix(
    text: str, frame: Rows, *, namespace: Mapping[str, Any], allowed: Set[str]
) -> tuple[str, np.ndarray, ModelMatrix | None]:
    """Name and values (shape (n,)) of the response, and the matrix of a response that is a call.

    Raises
    ------
    FormulaError
        If the left side is more than one column or call.
    DataError
        If it is not numeric, or not finite.
    """
    name, column, matrix = _left_side(text, frame, namespace, allowed, "response")
    if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype == bool:
        kind = "true/false" if column.dtype == bool else "text or categories"
        advice = (
            ' A linear mixed model needs numbers: convert it, or use family="bernoulli" (two '
            'categories) or family="ordinal" (ordered ones).'
        )
        said = stray_words(column, advice)
        raise DataError(f"The response {name!r} is not numeric ({kind}).{said}")
    return name, column.to_numpy(dtype=float), matrix


def response_column(
    text: str,
    frame: Rows,
    *,
    namespace: Mapping[str, Any],
    allowed: Set[str],
    what: str = "response",
) -> tuple[str, pd.Series]:
    """Name and values of a response, or of its number of trials, whatever its type.

    Raises
    ------
    FormulaError
        If it is more than one column or call.
    DataError
        If it is a call whose values are not one column of finite numbers.
    """
    return _left_side(text, frame, namespace, allowed, what)[:2]


def _left_side(
    text: str, frame: Rows, namespace: Mapping[str, Any], allowed: Set[str], what: str
) -> tuple[str, pd.Series, ModelMatrix | None]:
    tree = parse_part(text, allowed, set(frame.columns), what)
    while isinstance(tree, Group):
        tree = tree.inside
    if not isinstance(tree, Name | Call | GroupMean):
        raise FormulaError(
            f"The {what} '{text}' is not one column or one call. Arithmetic goes inside "
            f"I(...): I({text})" + (" ~ ..." if what == "response" else "")
        )
    if not isinstance(tree, Call):
        name = printed(tree)
        if name not in frame.columns:
            raise FormulaError(f"The {what} {name!r} is a constant, not a column of the data.")
        return name, frame[name], None
    terms = [term for term in expand_terms(tree, text) if term]
    matrix = _evaluate(terms, text, frame, namespace)
    if matrix.values.shape[1] != 1 or matrix.terms[0].categorical:
        raise DataError(f"The {what} '{text}' is not one numeric column.")
    return matrix.names[0], pd.Series(matrix.values[:, 0]), matrix


def _evaluate(nodes: list, text: str, frame: Rows, namespace: Mapping) -> ModelMatrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return _evaluated(nodes, text, frame, namespace)


def _evaluated(nodes: list, text: str, frame: Rows, namespace: Mapping) -> ModelMatrix:
    evaluated = []
    for components in nodes:
        term = _typed_term(components, frame, namespace)
        _refuse_wide_factors(term, frame)
        if len(components) > 1 and any(c.kind == "offset" for c in term.components):
            raise FormulaError(f"offset() cannot be part of the interaction '{term.name}'.")
        evaluated.append(term)
    blocks_of = _choose_codings(evaluated)
    names: list[str] = []
    pieces, terms, blocks, start = [], [], [], 0
    for term, codings_of_term in zip(evaluated, blocks_of, strict=True):
        coded = [
            _retold(term.name, _coded_piece, term, coding, frame, namespace)
            for coding in codings_of_term
        ]
        width = 0
        for piece in coded:
            blocks.append((piece, _two_dimensional(piece.data)))
            _refuse_overflow(*blocks[-1], frame)
            if piece.kind != "offset":
                names.extend(str(label) for label in piece.labels)
                width += blocks[-1][1].shape[1]
        if not width and term.kind != "offset":
            raise DataError(
                f"The term '{term.name}' has no columns: a factor in it has a single level. "
                "Leave it out."
            )
        pieces.extend(coded)
        if width:
            terms.append(_term_record(term, slice(start, start + width)))
        start += width
    values, offset = _assemble(blocks, len(frame))
    _refuse_duplicates(names, text)
    _refuse_duplicates([str(term.name) for term in evaluated], text)
    _forget_rows(pieces)
    return ModelMatrix(text, values, tuple(names), tuple(terms), offset, tuple(pieces))


def _typed_term(components: Mapping[str, Node], frame: Rows, namespace: Mapping):
    """The term of a set of components, which knows what is a number and what a factor."""
    if "Intercept" in components:
        raise FormulaError(
            "A column called 'Intercept' cannot be told from the intercept. Rename it."
        )
    if not any(isinstance(node, Call) or _is_quoted(node) for node in components.values()):
        names = [printed(node) for node in components.values()]
        return _retold(":".join(names), plain_term, names, frame)
    from formulae.terms import Term as FormulaeTerm

    made = [component_of(node) for node in components.values()]
    term = _term_of(FormulaeTerm(made[0]), made)  # its constructor would compare calls
    _retold(term.name, term.set_type, frame, evaluation_environment(namespace))
    return term


def _is_quoted(node: Node) -> bool:
    return isinstance(node, Name) and node.quoted


def _term_of(term, components: list):
    term.components = list(components)
    term.name = ":".join(str(component.name) for component in components)
    return term


def _choose_codings(terms: list) -> list[list[Coding]]:
    """Coding of the factors of each term, in the order of `terms`.

    Main effects are settled in the order written (without an intercept the first factor gets
    a column per level), interactions in alphabetical order, so that the result does not
    depend on the order in which they are written.
    """
    spanned: dict[frozenset, set] = {}
    chosen: dict[int, list[Coding]] = {}

    def key(at: int):
        names = sorted(c.name for c in terms[at].components)
        return (len(names), names if len(names) > 1 else [], at)

    for at in sorted(range(len(terms)), key=key):
        components = terms[at].components
        factors = sorted(c.name for c in components if c.kind == "categoric")
        numeric = frozenset(c.name for c in components if c.kind != "categoric")
        chosen[at] = codings(tuple(factors), spanned.setdefault(numeric, set()))
    return [chosen[at] or [] for at in range(len(terms))]


def _coded_piece(term, coding: Coding, frame: Rows, namespace: Mapping):
    """The term for one block of columns, with the coding of each factor settled."""
    contrasts, full = coding
    if isinstance(term, PlainTerm):
        return term.coded({name: name in full for name in contrasts | full}, frame)
    components = term.components
    kept = [deepcopy(c) for c in components if c.kind != "categoric" or c.name in contrasts | full]
    piece = deepcopy(term) if not kept else _term_of(type(term)(kept[0]), kept)
    piece.set_type(frame, evaluation_environment(namespace))
    with contextlib.redirect_stdout(io.StringIO()):  # formulae prints before it raises
        piece.set_data({c.name: c.name in full for c in kept})
    return piece


def _refuse_overflow(piece, block: np.ndarray, frame: Rows) -> None:
    """Whole numbers beyond 2^63 wrap around without a word: compare with floating point.

    Raises
    ------
    DataError
    """
    calls = [c for c in piece.components if "(" in str(c.name) and c.kind == "numeric"]
    if block.dtype.kind not in "iu" or not calls:
        return
    whole = [name for name in frame.columns if frame[name].dtype.kind in "iu"]
    floats = {n: frame[n].astype(float) if n in whole else frame[n] for n in frame.columns}
    exact = _two_dimensional(piece.eval_new_data(PlainTable(floats, len(frame))))
    if not np.allclose(block.astype(float), exact.astype(float), rtol=1e-9, atol=0.0):
        raise DataError(
            f"'{piece.name}' goes beyond 2^63, where whole numbers wrap around. Make its columns "
            "floating-point numbers (.astype(float)), or rescale them."
        )


def _two_dimensional(values) -> np.ndarray:
    values = np.asarray(values)
    return values[:, None] if values.ndim == 1 else values


def _assemble(pieces: list, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    offset = None
    columns = []
    for term, block in pieces:
        if block.dtype.kind == "c":
            raise DataError(
                f"'{term.name}' has complex numbers: check a power or a root of negative numbers."
            )
        block = block.astype(float)
        if len(block) != n:
            raise FormulaError(
                f"'{term.name}' gives {len(block)} values for {n} rows. A term needs one per row."
            )
        bad = ~np.isfinite(block)
        if bad.any():
            rows = np.flatnonzero(bad.any(axis=1))
            raise DataError(
                f"'{term.name}' is not finite in {len(rows)} row(s), the first at position "
                f"{rows[0]} of the rows used: check its argument (a logarithm of 0 or of a "
                "negative number, a division by 0)."
            )
        if term.kind == "offset":
            offset = block[:, 0] if offset is None else offset + block[:, 0]
        else:
            columns.append(block)
    values = np.column_stack(columns) if columns else np.empty((n, 0))
    return values, offset


def _term_record(term, columns: slice) -> Term:
    components = term.components
    categorical = tuple(str(c.name) for c in components if c.kind == "categoric")
    return Term(str(term.name), columns, tuple(str(c.name) for c in components), categorical)


def _forget_rows(pieces: list) -> None:
    """Drop the fitted rows that formulae keeps in each component; only the state is needed."""
    for piece in pieces:
        piece.data = None
        if isinstance(piece, PlainTerm):
            continue
        for component in piece.components:
            component.value = None
            if component.kind != "offset":  # of which ``eval_new_data`` reads the kind
                component._intermediate_data = None


def _refuse_wide_factors(term, frame: Rows) -> None:
    """Refuse a term of more columns or effects than can be laid out, before they are."""
    factors = [c for c in term.components if c.kind == "categoric"]
    if len(factors) > _MOST_FACTORS:
        raise FormulaError(
            f"The interaction '{term.name}' has {len(factors)} factors; at most {_MOST_FACTORS} "
            "can be coded. Use a grouping factor, (1 | a:b:...), or a column of combinations."
        )
    levels = [_n_levels(factor) for factor in factors]
    width = math.prod(levels)
    size = 8.0 * max(width * len(frame), *(k * k for k in levels), 0)
    if size > _MAX_DENSE_BYTES:
        raise FormulaError(
            f"The fixed effect '{term.name}' would need {width} columns of {len(frame)} rows "
            f"({1e-9 * size:.0f} GB). A factor with that many levels is usually "
            f"a grouping factor: (1 | {term.name})."
        )


def _n_levels(factor) -> int:
    """Levels of a factor: a column, or what C() makes of one."""
    if isinstance(factor, PlainColumn):
        return len(factor.levels or [])
    values = factor._intermediate_data
    if hasattr(values, "contrast"):
        values = values.data if values.levels is None else list(values.levels)
    if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        return len(values.dtype.categories)
    return len(pd.unique(np.asarray(values)))


def _refuse_duplicates(names: list[str], text: str) -> None:
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise FormulaError(f"Two columns of '{text}' are both called {listed(twice)}. Rename.")


def _retold(name: str, evaluate: Callable, *arguments):
    """What `evaluate` gives; errors of formulae and pandas are retold with the term's name."""
    try:
        with np.errstate(all="ignore"):
            return evaluate(*arguments)
    except BayesLMMError as err:
        if str(name) in str(err):
            raise
        raise type(err)(f"The term '{name}' cannot be evaluated: {err}") from None
    except Exception as err:
        text = str(err)
        if isinstance(err, KeyError) and err.args:
            text = f"{err.args[0]!r} is not a column; a constant goes inside I(...)"
        raise FormulaError(f"The term '{name}' cannot be evaluated: {text}") from err
