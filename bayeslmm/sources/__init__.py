"""Rows that are read in batches: files, queries, clusters.

A pass is a sum over batches (``base``); sources hand out batches (``arrow``, ``daskframe``,
``recognize``); ``building`` makes a design of a formula and a source in a few passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayeslmm.formula import Design

__all__ = ["design_of", "is_source", "source_design"]

#: Types that are not data read in batches, told without importing anything.
_LAZY_PACKAGES = {"polars", "duckdb", "_duckdb", "dask", "dask_expr", "pyarrow", "bayeslmm"}


def is_source(data: Any) -> bool:
    """Whether `data` is something that is, or may have to be, read in batches."""
    import os

    paths = isinstance(data, str | os.PathLike | list | tuple)
    if not paths and type(data).__module__.partition(".")[0] not in _LAZY_PACKAGES:
        return False
    from bayeslmm.sources.recognize import is_source

    return is_source(data)


def design_of(data, formula: str, **options) -> Design:
    """The design of a data frame, or of data that are read in batches."""
    from bayeslmm.formula import Design, build_design

    if isinstance(data, Design):  # read from a file
        return with_family(data, options.get("family", "gaussian"))
    _refuse_swapped(formula, data)
    build = source_design if is_source(data) else build_design
    return build(formula, data, **options)


def _refuse_swapped(formula, data) -> None:
    """Refuse a formula in the place of the data, and what is none in that of the formula."""
    from bayeslmm.errors import FormulaError, shortened
    from bayeslmm.files import is_formula

    written = isinstance(data, str) and is_formula(data)
    if written and not (isinstance(formula, str) and "~" in formula):
        raise FormulaError(
            f"The formula comes first, then the data: blm.LMM({shortened(data)!r}, data)."
        )


def source_design(
    formula: str,
    data: Any,
    *,
    weights=None,
    missing: str | Mapping[str, str] = "drop",
    namespace: Mapping[str, Any] | None = None,
    residual: str | None = None,
    sigma: str | None = None,
    family: str = "gaussian",
    link: str | None = None,
    reference: Mapping[str, Any] | None = None,
):
    """The design of data that are, or may have to be, read in batches.

    What is small is loaded, with the used columns only, unless it was asked to be read in batches
    with :func:`bayeslmm.scan`. A residual structure needs its rows in memory, and so does another
    family of responses.

    Raises
    ------
    FormulaError
        If the formula cannot be read or names a column that is not there.
    DataError
        If the data cannot be read or cannot support the model.
    """
    from bayeslmm.errors import DataError
    from bayeslmm.formula import build_design, parse_formula
    from bayeslmm.formula.functions import allowed_calls
    from bayeslmm.formula.residual import ResidualSyntax
    from bayeslmm.formula.responses import refuse_trials
    from bayeslmm.parts.families import family_of
    from bayeslmm.sources.building import build_streamed_design, used_columns
    from bayeslmm.sources.recognize import load_small, scan

    source = scan(data)
    options: dict[str, Any] = {
        "weights": weights, "missing": missing, "namespace": namespace, "reference": reference,
    }  # fmt: skip
    columns = used_columns(formula, source, weights=weights, namespace=namespace)
    structure = ResidualSyntax.parse(residual, sigma)
    if structure is not None:
        more = structure.columns(allowed_calls(namespace or {}), set(source.columns))
        columns = list(dict.fromkeys([*columns, *(c for c in more if c in source.columns)]))
    frame = load_small(source, columns, given=data)
    if frame is not None:
        options |= {"residual": residual, "sigma": sigma, "family": family, "link": link}
        return build_design(formula, frame, **options)
    if structure is not None:
        raise DataError(
            "residual= and sigma= need every row: their likelihood is not one of sums over rows, "
            "which are all that is kept of data read in batches. Give a data frame in memory."
        )
    if not family_of(family, link).gaussian:
        raise DataError(
            f'family="{family}" needs every row: its likelihood is not one of sums over rows, '
            "which are all that is kept of data read in batches. Give a data frame in memory."
        )
    parsed = parse_formula(formula)
    if parsed.se is not None:
        raise DataError(
            "se() needs every row in memory. For data read in batches make a column of 1 / s^2 "
            'and write weights="column", priors={"sigma": blm.Prior("Fixed", value=1)}.'
        )
    refuse_trials(parsed, family)
    return with_family(build_streamed_design(formula, source, **options), family)


def with_family(design: Design, family: str) -> Design:
    """A design whose rows are not held, with the family of its model: Gaussian or Student-t."""
    from bayeslmm.parts.families import family_of

    return design if design.family.name == family else replace(design, family=family_of(family))
