"""Which level of a factor the others are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set

import pandas as pd

from bayeslmm.errors import DataError, FormulaError, listed, suggestion
from bayeslmm.formula.table import factor_levels

__all__ = ["check_references", "levels_from", "with_references"]


def check_references(
    reference: Mapping[str, object],
    columns: Iterable[str],
    levels: Callable[[str], list | None],
    response: str,
) -> None:
    """Refuse a reference level that is none.

    Parameters
    ----------
    reference : mapping of str to object
        Level by column.
    columns : iterable of str
        Columns of the formula.
    levels : callable
        The levels of a column that is a factor, None of one of numbers.
    response : str
        Left side of the formula.

    Raises
    ------
    FormulaError
        If a column is not in the formula, or is its response.
    DataError
        If a column is no factor, or has no such level.
    """
    known = list(columns)
    for name, level in reference.items():
        if name not in known:
            raise FormulaError(
                f"A reference level is given of {name!r}, which is not in the formula."
                f"{suggestion(name, known)} Its columns: {listed(known, 20)}."
            )
        if name == response:
            raise FormulaError(f"{name!r} is the response, which has no reference level.")
        found = levels(name)
        if found is None:
            raise DataError(
                f"Column {name!r} is no factor of text or categories, so it has no reference "
                f"level. Write C({name}, Treatment(...)) in the formula, or make it text."
            )
        levels_from(found, name, level)


def levels_from(levels: list, name: str, level: object) -> list:
    """Levels with one of them first, the others in their order.

    Raises
    ------
    DataError
        If there is no such level.

    Examples
    --------
    >>> levels_from(["drug", "none", "placebo"], "arm", "placebo")
    ['placebo', 'drug', 'none']
    """
    chosen = next((one for one in levels if one == level), None)
    if chosen is None:
        chosen = next((one for one in levels if str(one) == str(level)), None)
    if chosen is None:
        shown = [str(one) for one in levels]
        raise DataError(
            f"Column {name!r} has no level {str(level)!r}.{suggestion(str(level), shown)} Its "
            f"levels: {listed(shown, 20)}."
        )
    return [chosen, *(one for one in levels if one != chosen)]


def with_references(
    series: Mapping[str, pd.Series],
    reference: Mapping[str, object],
    response: str,
    unknown: Set[str] = frozenset(),
) -> dict[str, pd.Series]:
    """Plain columns, with the reference level of factors first; of `unknown` ones that is fixed.

    Raises
    ------
    FormulaError, DataError
        As :func:`check_references`.
    """
    if fixed := reference.keys() & unknown:
        raise DataError(
            f"Column {min(fixed)!r} has unknown values, and is 1 where it is the second of its two "
            "levels: it has no other reference level. Rename the levels."
        )
    check_references(reference, series, lambda name: factor_levels(series[name]), response)
    moved = dict(series)
    for name, level in reference.items():
        order = levels_from(factor_levels(series[name]) or [], name, level)
        moved[name] = series[name].cat.reorder_categories(order, ordered=True)
    return moved
