"""Which effects of a random term are marginal to which, and the columns that carries them apart.

An effect is marginal to another if the other's covariate is made of more of the same variables:
the intercept to everything, ``x`` and ``z`` to ``x:z``, ``x`` to ``I(x**2)`` (Nelder 1977, Journal
of the Royal Statistical Society A 140(1)). A shift of a covariate changes its product with another
by columns that are marginal to the product; what is left of a column once those marginal to it are
taken out is the same whatever the covariates' origins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

import numpy as np

from bayeslmm.formula.design import Design
from bayeslmm.formula.random import RandomBlock

__all__ = ["categorical_ranges", "effect_map", "marginal_effects"]

#: Coefficients this small beside their column are rounding errors of zero.
_ZERO = 1e-12


def marginal_effects(block: RandomBlock, columns: Set[str]) -> list[list[int]]:
    """Per effect, the effects that are marginal to it and correlated with it.

    Parameters
    ----------
    block : RandomBlock
    columns : set of str
        Names of the data's columns.

    Returns
    -------
    list of list of int
        One per effect, of positions among the block's effects.
    """
    about = []
    for matrix in block._matrices:
        for number, term in enumerate(matrix.terms):
            variables = frozenset(
                name for part in term.components for name in _variables(part, columns)
            )
            width = len(range(*term.columns.indices(len(matrix.names))))
            about += [(variables, number)] * width
    part_of = {effect: number for number, part in enumerate(block.pattern) for effect in part}

    def below(i: int, j: int) -> bool:
        (mine, my_term), (other, other_term) = about[i], about[j]
        return mine < other or (mine == other and my_term < other_term)

    q = block.n_effects
    return [[i for i in range(q) if part_of[i] == part_of[j] and below(i, j)] for j in range(q)]


def effect_map(
    marginal: Sequence[Sequence[int]], gram: np.ndarray, Z: np.ndarray | None = None
) -> np.ndarray:
    """K, so that Z K has every column less its regression on those marginal to it.

    Z b = (Z K) (K^-1 b): effects of the reduced columns times K are the effects of the formula.

    Parameters
    ----------
    marginal : sequence of sequence of int
        Per effect those marginal to it, see :func:`marginal_effects`.
    gram : ndarray, shape (q, q)
        Mean of z z' over the rows.
    Z : ndarray, shape (n, q), optional
        The rows, which keep more digits than their products.

    Returns
    -------
    ndarray, shape (q, q)
        Its diagonal is one.
    """
    K = np.eye(len(gram))
    size = np.sqrt(np.diag(gram))
    size = np.where(size > 0, size, 1.0)
    for j, lower in enumerate(map(list, marginal)):
        if not lower:
            continue
        if Z is None:
            scaled = gram[np.ix_(lower, lower)] / np.outer(size[lower], size[lower])
            c = np.linalg.lstsq(scaled, gram[lower, j] / size[lower], rcond=1e-12)[0]
        else:
            c = np.linalg.lstsq(Z[:, lower] / size[lower], Z[:, j], rcond=1e-12)[0]
        K[lower, j] = -np.where(np.abs(c) <= _ZERO * size[j], 0.0, c) / size[lower]
    return K


def categorical_ranges(design: Design, block: RandomBlock) -> np.ndarray:
    """Change of each column from one category to the next; nan for columns of numbers.

    A number of two values counts as a factor of two levels, so that the answer does not depend on
    how the two are coded; products have the product of the changes.

    Returns
    -------
    ndarray, shape (q,)
    """
    ranges = []
    for matrix in block._matrices:
        for term in matrix.terms:
            found = 1.0
            for part in term.components:
                found *= 1.0 if part in term.categorical else _range_of_two(design, part)
            ranges += [found] * len(range(*term.columns.indices(len(matrix.names))))
    return np.array(ranges)


def _range_of_two(design: Design, name: str) -> float:
    """Distance of the two values of a numeric column; nan where there are more, or it is a call."""
    try:
        values = design.column_values(name)[1]
        values = None if values is None else np.asarray(values, dtype=float)
    except (KeyError, TypeError, ValueError):
        return np.nan
    return float(np.ptp(values)) if values is not None and len(values) == 2 else np.nan


def _variables(component: str, columns: Set[str]) -> list[str]:
    """The columns a component is made of: itself, or those that a call names."""
    if component in columns:
        return [component]
    words = re.findall(r"`[^`]*`|[^\W\d][\w.]*", component)
    return [word for word in (w.strip("`") for w in words) if word in columns] or [component]
