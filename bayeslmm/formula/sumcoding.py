"""The fixed part re-coded so that every effect is a deviation from its margins.

Type III hypotheses do not depend on how factors are coded: a term's effects are those of
sum-to-zero contrasts. Each block of columns of the model matrix spans certain effects (see
``coding``); here each effect gets its own sum-to-zero columns.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from bayeslmm.formula.design import Design

__all__ = ["sum_coded", "sum_coded_rows"]


def sum_coded(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Sum-to-zero version of the model matrix.

    Parameters
    ----------
    design : Design

    Returns
    -------
    X : (n, p) array
        Spans what ``design.X`` spans (where no cell is empty).
    owner : (p,) int array
        Position in ``design.terms`` of the term each column belongs to.
    """
    return design.sum_coded() if not design.rows_in_memory else sum_coded_rows(design)


def sum_coded_rows(
    design: Design, frame: pd.DataFrame | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`sum_coded`, for the rows of `frame`; the fitted ones by default."""
    frame = design.predictors if frame is None else frame
    blocks, owner = [], []
    term = -1
    previous = None
    for piece, name in zip(design.fixed._pieces, design.fixed._owners, strict=True):
        if piece.kind == "offset":
            continue
        if name != previous:
            term, previous = term + 1, name
        for block in _effect_blocks(piece, frame):
            blocks.append(block)
            owner.extend([term] * block.shape[1])
    if not blocks:
        return np.empty((len(frame), 0)), np.empty(0, dtype=int)
    return np.column_stack(blocks), np.array(owner)


def _effect_blocks(piece, frame: pd.DataFrame) -> list[np.ndarray]:
    components = getattr(piece, "components", [])
    numeric = np.ones((len(frame), 1))
    factors, full = {}, []
    for component in components:
        if component.kind == "categoric":
            factors[component.name] = _deviations(component, frame)
            full += [component.name] if component.spans_intercept else []
        else:
            numeric = _products(numeric, np.asarray(component.eval_new_data(frame), dtype=float))
    contrasts = [name for name in factors if name not in full]
    blocks = []
    for size in range(len(full) + 1):
        for chosen in combinations(full, size):
            block = numeric
            for name in factors:
                if name in contrasts or name in chosen:
                    block = _products(block, factors[name])
            blocks.append(block)
    return blocks


def _deviations(component, frame: pd.DataFrame) -> np.ndarray:
    """Sum-to-zero columns of a factor, shape (n, levels - 1)."""
    if hasattr(component, "call"):
        values = component.call.eval(frame, component.env)
        values = getattr(values, "data", values)
    else:
        values = frame[component.name]
    codes = pd.Categorical(np.asarray(values), categories=component.levels).codes
    k = len(component.levels)
    return np.vstack([np.eye(k - 1), -np.ones(k - 1)])[codes]


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """All products of a column of `a` and a column of `b`."""
    b = b[:, None] if b.ndim == 1 else b
    return (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
