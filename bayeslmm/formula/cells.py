"""The fixed terms as functions of cells, whatever the coding of their factors.

The fixed part is a sum, over sets of covariates, of the covariates' product times a function of
the levels of factors. A term says which cells (combinations of levels) such a function may tell
apart; how its columns code them is a matter of taste. Hypotheses are made from the functions, so
that they do not depend on reference levels, on the order of terms, or on which term holds a
column that several span. A true/false predictor is a factor of two levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["CellTerm", "CodedBlock", "FixedCells", "fixed_cells"]

#: Level codes of cells: a column per factor.
Cells = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CellTerm:
    """A fixed term: the factors whose cells it tells apart, and the covariates it multiplies."""

    factors: frozenset[str]
    covariates: frozenset[str]

    def contains(self, other: CellTerm) -> bool:
        """Whether it has the factors of `other` and more, and the same covariates."""
        return other.factors < self.factors and other.covariates == self.covariates


@dataclass(frozen=True)
class CodedBlock:
    """Columns of the model matrix: codings of some factors times columns of covariates.

    Attributes
    ----------
    owner : int
        Position of the term.
    codings : dict of str to (levels, c) array
        Columns that code each factor, in order.
    covariates : frozenset of str
    columns : (c, k) int array
        Positions in the model matrix: a row per product of codings, a column per product of
        columns of the covariates.
    """

    owner: int
    codings: Mapping[str, np.ndarray]
    covariates: frozenset[str]
    columns: np.ndarray

    @property
    def factors(self) -> frozenset[str]:
        """The factors coded."""
        return frozenset(self.codings)

    def rows(self, cells: Cells, n: int) -> np.ndarray:
        """Values (n, c) of the codings in each cell."""
        values = np.ones((n, 1))
        for name, coding in self.codings.items():
            values = (values[:, :, None] * coding[cells[name]][:, None, :]).reshape(n, -1)
        return values


@dataclass(frozen=True)
class FixedCells:
    """The terms and column blocks of a fixed part.

    Attributes
    ----------
    terms : tuple of CellTerm
        As in ``design.terms``.
    blocks : tuple of CodedBlock
    levels : dict of str to int
        Number of levels of each factor.
    n_columns : int
        p, the columns of the model matrix.
    """

    terms: tuple[CellTerm, ...]
    blocks: tuple[CodedBlock, ...]
    levels: Mapping[str, int]
    n_columns: int

    def containing(self, at: int) -> list[int]:
        """Positions of the terms that contain a term."""
        return [j for j, other in enumerate(self.terms) if other.contains(self.terms[at])]

    def own_columns(self, at: int) -> np.ndarray:
        """Columns of the model matrix that a term contributes."""
        own = [block.columns.ravel() for block in self.blocks if block.owner == at]
        return np.sort(np.concatenate(own)) if own else np.zeros(0, dtype=int)

    def space(self, at: int) -> np.ndarray:
        """All combinations of columns that depend on nothing but a term's cells and covariates.

        Returns
        -------
        (p, m) array
            Independent directions T: X T are the functions.
        """
        term = self.terms[at]
        blocks = [b for b in self.blocks if b.covariates == term.covariates]
        inside = [b for b in blocks if b.factors <= term.factors]
        cells = int(np.prod([self.levels[name] for name in term.factors]))
        if sum(len(b.columns) for b in inside) == cells:  # they code all cells by themselves
            return np.eye(self.n_columns)[:, np.concatenate([b.columns.ravel() for b in inside])]
        return self._scattered(blocks, self._functions_of(term, blocks))

    def indicators(self, at: int, factors: tuple[str, ...]) -> np.ndarray:
        """Combinations of columns that are 1 (times the covariates) in one cell, 0 in others.

        Parameters
        ----------
        at : int
            A term that has the factors.
        factors : tuple of str
            Their cells, the last factor running fastest.

        Returns
        -------
        (p, cells, k) array
            For each column of the covariates.
        """
        blocks = [b for b in self.blocks if b.covariates == self.terms[at].covariates]
        grid, n = self._grid(self.terms[at].covariates)
        values = np.hstack([block.rows(grid, n) for block in blocks])
        shape = [self.levels[name] for name in factors]
        wanted = np.eye(int(np.prod(shape)))[_cell_numbers(grid, factors, shape, n)]
        found = self._scattered(blocks, np.linalg.lstsq(values, wanted, rcond=None)[0])
        return found.reshape(self.n_columns, -1, wanted.shape[1]).transpose(0, 2, 1)

    def _functions_of(self, term: CellTerm, blocks: list[CodedBlock]) -> np.ndarray:
        """Combinations of the blocks' codings that are constant within each of a term's cells."""
        grid, n = self._grid(term.covariates)
        values = np.hstack([block.rows(grid, n) for block in blocks])
        factors = tuple(sorted(term.factors))
        number = _cell_numbers(grid, factors, [self.levels[name] for name in factors], n)
        frame = pd.DataFrame(values)
        within = (frame - frame.groupby(number).transform("mean")).to_numpy()
        size, directions = np.linalg.eigh(within.T @ within)
        return directions[:, size <= 1e-9 * max(size[-1], 1.0)]

    def _scattered(self, blocks: list[CodedBlock], T: np.ndarray) -> np.ndarray:
        """Combinations of codings (c, m) as combinations of columns (p, k m)."""
        positions = np.concatenate([block.columns for block in blocks])
        out = np.zeros((positions.shape[1], self.n_columns, T.shape[1]))
        for k, columns in enumerate(positions.T):
            out[k, columns] = T
        return out.transpose(1, 0, 2).reshape(self.n_columns, -1)

    def _grid(self, covariates: frozenset[str]) -> tuple[dict[str, np.ndarray], int]:
        """Cells that determine every function of the terms with these covariates.

        All cells of each term, the other factors at their first level: a sum of functions of the
        terms' cells that vanishes there vanishes everywhere.
        """
        terms = [term for term in self.terms if term.covariates == covariates]
        names = sorted(frozenset().union(*(term.factors for term in terms)))
        parts = []
        for term in terms:
            levels = [range(self.levels[name]) if name in term.factors else (0,) for name in names]
            parts.append(np.array(list(product(*levels)), dtype=int).reshape(-1, len(names)))
        grid = np.concatenate(parts)
        return {name: grid[:, j] for j, name in enumerate(names)}, len(grid)

    @cached_property
    def nests(self) -> dict[str, frozenset[str]]:
        """Per factor, the factors without which no term has it: those it is nested in."""
        return {
            name: frozenset.intersection(*(t.factors for t in self.terms if name in t.factors))
            - {name}
            for name in self.levels
        }

    def possible_cells(
        self, factors: Iterable[str], observed: Callable[[tuple[str, ...]], np.ndarray]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Cells of factors that belong to the model, and their weights.

        Levels of crossed factors occur in every combination; those of a nested factor only
        where it has them.

        Parameters
        ----------
        factors : iterable of str
            With the factors that they are nested in.
        observed : callable
            Level codes (m, number of factors) of the combinations in the data.

        Returns
        -------
        cells : dict of str to (m,) int array
        weights : (m,) array
            The share of a cell, equal among the levels of each factor in each cell of those
            that it is nested in.
        """
        cells, weights = pd.DataFrame(index=range(1)), np.ones(1)
        todo = sorted(factors, key=lambda name: (len(self.nests[name]), name))
        while todo:
            name = todo[0]
            # factors that only occur together are one factor of their combinations
            group = [m for m in todo if m == name or self._together(name, m)]
            outer = sorted(self.nests[name] - set(group))
            if group == [name] and not outer:
                rows = np.arange(self.levels[name])[:, None]
            else:
                rows = observed((*outer, *group))
            found = pd.DataFrame(rows, columns=[*outer, *group])
            joined = cells.assign(weight=weights)
            joined = joined.merge(found, on=outer) if outer else joined.merge(found, how="cross")
            before = list(cells.columns)
            share = joined.groupby(before).transform("size") if before else len(joined)
            weights = joined.pop("weight").to_numpy() / np.asarray(share)
            cells, todo = joined, [m for m in todo if m not in group]
        return {name: cells[name].to_numpy() for name in cells.columns}, weights

    def _together(self, one: str, other: str) -> bool:
        return one in self.nests[other] and other in self.nests[one]

    def mean_rows(
        self, at: int, observed: Callable[[tuple[str, ...]], np.ndarray]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Means over equally weighted cells, for each cell of a term.

        Parameters
        ----------
        at : int
        observed : callable
            As in :meth:`possible_cells`.

        Returns
        -------
        cells : dict of str to (m,) int array
            The possible cells of the term.
        rows : (m, p, k) array
            Coefficients' weights in the mean of the function that multiplies each column of
            the covariates. Terms that do not contain this one are left out: they are constant
            in what a hypothesis about it compares.
        """
        term = self.terms[at]
        own = [block for block in self.blocks if block.covariates == term.covariates]
        width = own[0].columns.shape[1]
        order = tuple(sorted(term.factors))
        shape = [self.levels[name] for name in order]
        cells, _ = self.possible_cells(order, observed)
        n = len(next(iter(cells.values()), [0]))
        place = {number: i for i, number in enumerate(_cell_numbers(cells, order, shape, n))}
        rows = np.zeros((n, self.n_columns, width))
        for block in own:
            owner = self.terms[block.owner]
            if not (owner == term or owner.contains(term)):
                continue
            grid, weights = self.possible_cells(sorted(owner.factors), observed)
            numbers = _cell_numbers(grid, order, shape, len(weights))
            into = np.array([place[number] for number in numbers])
            total = np.bincount(into, weights, n)
            values = block.rows(grid, len(weights)) * (weights / total[into])[:, None]
            means = np.zeros((n, values.shape[1]))
            np.add.at(means, into, values)
            for k, columns in enumerate(block.columns.T):
                rows[:, columns, k] = means
        return cells, rows


def fixed_cells(design: Any) -> FixedCells:
    """Terms and columns of a design's fixed part as functions of cells."""
    few = (design.predictors if design.rows_in_memory else design.prototype).head(2)
    blocks: list = []
    levels: dict = {}
    start = 0
    for piece in design.fixed._pieces:
        if piece.kind == "offset":
            continue
        owner = int(np.searchsorted([t.columns.stop for t in design.terms], start, side="right"))
        block = _coded_block(piece, few, owner, start)
        levels |= {name: len(coding) for name, coding in block.codings.items()}
        blocks.append(block)
        start += block.columns.size
    terms = []
    for term in design.terms:
        factors = frozenset(name for name in term.components if name in levels)
        terms.append(CellTerm(factors, frozenset(term.components) - factors))
    return FixedCells(tuple(terms), tuple(blocks), levels, start)


def _coded_block(piece, few: pd.DataFrame, owner: int, start: int) -> CodedBlock:
    codings: dict[str, np.ndarray] = {}
    widths: dict[str, int] = {}
    names = []
    for component in getattr(piece, "components", []):
        name = str(component.name)
        names.append(name)
        if component.kind == "categoric":
            codings[name] = np.asarray(component.contrast_matrix.matrix, dtype=float)
            continue
        values = np.asarray(component.eval_new_data(few))
        if values.dtype == bool:
            codings[name] = np.array([[0.0], [1.0]])
        else:
            widths[name] = 1 if values.ndim == 1 else values.shape[1]
    shape = [codings[n].shape[1] if n in codings else widths[n] for n in names]
    size = int(np.prod(shape))
    order = [names.index(n) for n in [*codings, *sorted(widths)]]
    columns = np.arange(start, start + size).reshape(shape).transpose(order)
    width = int(np.prod(list(widths.values())))
    return CodedBlock(owner, codings, frozenset(widths), columns.reshape(-1, width))


def _cell_numbers(cells: Cells, factors: tuple[str, ...], shape: list[int], n: int) -> np.ndarray:
    """Number of each cell, the last factor running fastest."""
    return reduce(
        lambda number, at: number * shape[at] + cells[factors[at]],
        range(len(factors)),
        np.zeros(n, dtype=int),
    )
