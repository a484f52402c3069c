"""How each factor of each term is coded: by contrasts, or with a column per level.

The rule is that of structural redundancy: a term contributes exactly the part of its space
that earlier terms have not spanned, so that the model matrix has full column rank on
balanced data and spans what the formula says, however the terms are written. (formulae 0.9
misses part of the space in cases such as ``1 + a:b:c``; R instead repeats columns there.)
"""

from __future__ import annotations

from itertools import combinations

__all__ = ["Coding", "codings"]

#: Factors coded by contrasts, and factors coded with a column per level.
Coding = tuple[frozenset, frozenset]


def codings(factors: tuple[str, ...], spanned: set[frozenset]) -> list[Coding]:
    """Blocks of columns a term needs beyond what is spanned.

    A block with factors A by contrasts and B in full spans the effects of every A + S, S a
    subset of B ("effects" in the sense of an analysis of variance: the part of the product
    space orthogonal to all its margins). The effects not yet spanned are split into such
    blocks, as few as pairwise merging finds.

    Parameters
    ----------
    factors : tuple of str
        Factors of the term, in the order written.
    spanned : set of frozenset
        Effects spanned so far with the same numeric part; updated in place.

    Returns
    -------
    list of (frozenset, frozenset)
        Contrast-coded and fully coded factors of each block.
    """
    effects = [
        frozenset(subset)
        for size in range(len(factors) + 1)
        for subset in combinations(factors, size)
        if frozenset(subset) not in spanned
    ]
    spanned.update(effects)
    blocks: list[Coding] = [(effect, frozenset()) for effect in effects]
    while (merged := _merge_one_pair(blocks)) is not None:
        blocks = merged
    return blocks


def _merge_one_pair(blocks: list[Coding]) -> list[Coding] | None:
    """Join two blocks that differ by one contrast-coded factor: it becomes fully coded."""
    for i, (small, full) in enumerate(blocks):
        for j, (large, other_full) in enumerate(blocks):
            if full == other_full and len(large) == len(small) + 1 and small < large:
                joined = (small, full | (large - small))
                rest = [b for k, b in enumerate(blocks) if k not in (i, j)]
                at = min(i, j) if j > i else j
                return [*rest[:at], joined, *rest[at:]]
    return None
