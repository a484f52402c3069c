"""Which effects stay inside blocks of rows, and what an evaluation then costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from bayeslmm.gaussian.blocks.layout import LARGEST_BLOCK, block_codes
from bayeslmm.gaussian.rows import FactorRows

__all__ = ["LARGEST_OUTER", "Split", "cheapest_split", "split_cost"]

#: Effects outside the blocks whose dense M (32 bytes per pair) is still affordable.
LARGEST_OUTER = 6000
#: A product of two rows of Z is scattered in the time of so many operations of a dense one.
_SCATTERED = 20.0
#: More factors than this are not tried in all combinations.
_MOST = 6


@dataclass(frozen=True)
class Split:
    """Factors outside the blocks.

    Attributes
    ----------
    is_outer : tuple of bool
    largest : int
        Rows of the largest block.
    size : int
        Effects outside.
    cost : float
        Operations of an evaluation with its gradient, roughly; infinite where a block or M is too
        large.
    """

    is_outer: tuple[bool, ...]
    largest: int
    size: int
    cost: float


def split_cost(group: np.ndarray, factors: Sequence[FactorRows], is_outer: Sequence[bool]) -> Split:
    """Sizes and cost with these factors outside the blocks.

    Every block is counted as if its V_b were its own.
    """
    inside = [f for f, out in zip(factors, is_outer, strict=True) if not out]
    outside = [f for f, out in zip(factors, is_outer, strict=True) if out]
    m = np.bincount(block_codes(group, inside)).astype(float)
    size, width = sum(f.n_levels * f.q for f in outside), sum(f.q for f in outside)
    cost = float((m**3).sum() + _SCATTERED * width**2 * (m**2).sum() + 4.0 * size**3)
    if m.max() > LARGEST_BLOCK or size > LARGEST_OUTER:
        cost = np.inf
    return Split(tuple(map(bool, is_outer)), int(m.max()), size, cost)


def cheapest_split(
    group: np.ndarray, factors: Sequence[FactorRows], related: Sequence[bool]
) -> Split:
    """The split of least cost; related levels are outside.

    A factor whose levels each lie within one residual group joins no blocks and stays inside.
    """
    n_groups = int(block_codes(group, []).max()) + 1
    choices: list[tuple[bool, ...]] = []
    for f, known in zip(factors, related, strict=True):
        if known:
            choices.append((True,))
        elif int(block_codes(group, [f]).max()) + 1 == n_groups:
            choices.append((False,))
        else:
            choices.append((False, True))
    if sum(len(choice) == 2 for choice in choices) > _MOST:
        choices = [choice[-1:] for choice in choices]
    found = [split_cost(group, factors, is_outer) for is_outer in product(*choices)]
    return min(found, key=lambda split: (split.cost, split.largest > LARGEST_BLOCK, split.size))
