"""A design without rows as plain values and arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd

from bayeslmm.archive import decode, encode
from bayeslmm.errors import FileFormatError
from bayeslmm.formula.matrices import ModelMatrix
from bayeslmm.formula.missing import MissingRows
from bayeslmm.formula.random import GroupingFactor
from bayeslmm.formula.statistics import BlockStatistics, RowStatistics
from bayeslmm.formula.syntax import parse_formula
from bayeslmm.formula.table import PlainTable
from bayeslmm.gaussian import CrossProducts, Shift
from bayeslmm.gaussian.crossproducts import FactorProducts, PairProducts, is_consistent
from bayeslmm.gaussian.shift import MixedShift
from bayeslmm.sources.building import (
    LeftOut,
    assemble_blocks,
    evaluate_on,
    made_design,
    row_model,
)
from bayeslmm.sources.design import StreamedDesign, not_held
from bayeslmm.sources.rows import PlainRows
from bayeslmm.sources.states import stateful_calls
from bayeslmm.sources.survey import NUMBERS

__all__ = ["restored_design", "stored_design"]

_CLASSES = (
    CrossProducts, FactorProducts, PairProducts, Shift, MixedShift, RowStatistics, BlockStatistics,
)  # fmt: skip


def stored_design(design: StreamedDesign) -> tuple[Any, dict[str, np.ndarray]]:
    """The design as JSON, and the arrays it refers to."""
    plain, missing = design.row_model.plain, design.missing
    matrices = _matrices(design)
    content = {
        "formula": design.formula.text,
        "names": plain.names,
        "weights": plain.weights,
        "kinds": dict(plain.kinds),
        "levels": dict(plain.levels),
        "prototype": design.prototype,
        "states": {
            text: vars(copies[0][0].stateful_transform)
            for text, copies in stateful_calls(matrices).items()
        },
        "factors": [
            [b.factor.columns, b.factor.levels, b.factor._component_levels, b.factor._keys]
            for b in design.blocks
        ],
        "numbers": design.numbers,
        "statistics": design.statistics,
        "cross_products": design.cross_products,
        "missing": [
            missing.n_rows, missing.n_dropped, dict(missing.by_column),
            {k: [str(v) for v in vs] for k, vs in missing.levels_lost.items()},
            missing.n_zero_weight,
        ],
    }  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    return encode(content, arrays), arrays


def restored_design(
    tree: Any, arrays: dict[str, np.ndarray], namespace: Mapping[str, Any] | None = None
) -> StreamedDesign:
    """The design that :func:`stored_design` was given; it has no source.

    Raises
    ------
    FileFormatError
        If a part is missing or does not fit.
    FormulaError
        If the formula calls something that formulas may not call.
    """
    content = decode(tree, arrays, {kind.__name__: kind for kind in _CLASSES})
    _check_parts(content)
    plain = PlainRows(content["names"], content["weights"], content["kinds"], content["levels"])
    parsed = parse_formula(content["formula"])
    rows = content["prototype"]
    response, y_matrix, fixed, groups = evaluate_on(parsed, rows, namespace)
    matrices = [m for m in (y_matrix, fixed, *(m for _, m in groups)) if m is not None]
    for text, copies in stateful_calls(matrices).items():
        if text not in content["states"]:
            raise FileFormatError(f"The file has no state of {text!r}.")
        for node, _ in copies:
            if vars(node.stateful_transform).keys() != content["states"][text].keys():
                raise FileFormatError(f"The file has another state of {text!r}.")
            vars(node.stateful_transform).update(content["states"][text])
    factors = {
        frozenset(columns): GroupingFactor(
            ":".join(columns),
            columns,
            levels,
            not_held("the level"),
            components,
            (keys,) if isinstance(keys, np.ndarray) else keys,  # as older versions wrote them
        )  # fmt: skip
        for columns, levels, components, keys in content["factors"]
    }
    blocks, codes = assemble_blocks(
        groups, lambda columns: factors[frozenset(columns)], plain.kinds
    )
    n_rows, n_dropped, by_column, lost, n_zero = content["missing"]
    cp = content["cross_products"]
    sizes = [(block.n_levels, block.n_effects) for block in blocks]
    if (
        not is_consistent(cp)
        or cp.p != len(fixed.names)
        or [(f.n_levels, f.q) for f in cp.factors] != sizes
    ):
        raise FileFormatError("the sums in it are not those of its formula.")
    _check_statistics(content["statistics"], cp)
    return made_design(
        parsed,
        response,
        blocks,
        row_model(plain, response, y_matrix, fixed, blocks, codes),
        namespace=dict(namespace or {}),
        missing=MissingRows(n_rows, cast(Any, LeftOut(n_dropped)), by_column, lost, n_zero),
        table=PlainTable.of(_empty(plain)),
        prototype=rows,
        numbers=content["numbers"],
        held_statistics=content["statistics"],
        cross_products=cp,
        source=None,
    )


#: What a stored design has, by type.
_PARTS = {
    "formula": str, "names": tuple, "weights": str | None, "kinds": dict, "levels": dict,
    "prototype": pd.DataFrame, "states": dict, "factors": list, "numbers": dict,
    "statistics": RowStatistics, "cross_products": CrossProducts, "missing": list,
}  # fmt: skip


def _check_parts(content: Any) -> None:
    """Refuse a design with parts missing or of another type.

    Raises
    ------
    FileFormatError
    """
    for name, kind in _PARTS.items():
        if not isinstance(content[name], kind):
            raise FileFormatError(f"{name!r} in its design is of another type.")
    if set(content["names"]) != set(content["kinds"]):
        raise FileFormatError("the kinds in it are not those of its columns.")
    for mean, values in content["numbers"].values():
        if not isinstance(mean, float) or not isinstance(values, np.ndarray | None):
            raise FileFormatError("the numbers of its columns are of another type.")


def _check_statistics(statistics: RowStatistics, cp: CrossProducts) -> None:
    """Refuse statistics of other columns than those of the cross-products."""
    sizes: list[tuple] = [(getattr(statistics, name), (cp.p,)) for name in ("mean", "sd", "size")]
    if statistics.root is not None:
        sizes.append((statistics.root, (cp.p, cp.p)))
    for block, factor in zip(statistics.blocks, cp.factors, strict=True):
        names = ("mean", "sd", "size", "indicator")
        sizes += [(getattr(block, name), (factor.q,)) for name in names]
        sizes += [(block.gram, (factor.q, factor.q)), (block.counts, (factor.n_levels,))]
    numbers = (statistics.n, statistics.mean_y, statistics.sd_y, statistics.mean_weight)
    if (
        statistics.n != cp.n
        or any(array.shape != shape for array, shape in sizes)
        or not all(np.isscalar(number) and np.isreal(number) for number in numbers)
    ):
        raise FileFormatError("the statistics in it are not those of its sums.")


def _matrices(design: StreamedDesign) -> list[ModelMatrix]:
    rows = design.row_model
    own = [] if isinstance(rows.response, str) else [rows.response]
    return [*own, rows.fixed, *(m for group in rows.effects for m in group)]


def _empty(plain: PlainRows) -> pd.DataFrame:
    """No rows, the right types and levels."""
    columns = {
        name: pd.Categorical([], categories=plain.levels[name])
        if kind == "category"
        else np.empty(0, dtype=NUMBERS[kind])
        for name, kind in plain.kinds.items()
    }
    return pd.DataFrame(columns)
