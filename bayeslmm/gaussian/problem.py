"""Cross-products laid out for evaluation: prepared once, evaluated at many parameter values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bayeslmm.compiling import Doubles, Matrix
from bayeslmm.parts.patterns import CovariancePattern, flat_positions

from . import _ordering
from ._levels import level_columns
from .coordinates import Coordinates, working_products
from .crossproducts import CrossProducts
from .symbolic import Symbolic, analyze, in_order
from .threads import many_levels


class Values(NamedTuple):
    """Numbers of the cross-products in elimination order; see ``symbolic.Layout``.

    Attributes
    ----------
    diag : flat diagonal blocks of Z'WZ
    panel : flat panels of the head nodes
    tail : (n_tail, n_tail) dense block
    rhs : (N, p + 1), Z'W[X y]
    gram : (p + 1, p + 1), [X y]'W[X y]
    levels : one column per level, see ``_levels.level_columns``; no columns where that does not
        apply
    """

    diag: Doubles
    panel: Doubles
    tail: Matrix
    rhs: Matrix
    gram: Matrix
    levels: Matrix


@dataclass(frozen=True)
class Problem:
    """A linear mixed model ready to be evaluated.  It never changes.

    Attributes
    ----------
    cp : CrossProducts
        As given by the caller.
    patterns : tuple of CovariancePattern
    symbolic : Symbolic
    values : Values
    coordinates : Coordinates
        Between the user's fixed effects and the shifted columns computed with.
    theta_index : (r,) int array
        Position of each free entry in the flat buffer of factors.
    roots : tuple of (J_k, r_k) array or None, one per factor
        Where the effects computed with are latent, the levels' effects are root times them.
    known_sigma : float or None
        Residual standard deviation where it is known: the likelihood criteria then use it in
        place of profiling it out.
    """

    cp: CrossProducts
    patterns: tuple[CovariancePattern, ...]
    symbolic: Any  # Symbolic and Values, or those of related levels
    values: Any
    coordinates: Coordinates
    theta_index: np.ndarray
    roots: tuple[np.ndarray | None, ...] = ()
    known_sigma: float | None = None

    @property
    def n(self) -> int:
        """Rows."""
        return self.cp.n

    @property
    def p(self) -> int:
        """Fixed-effect columns."""
        return self.cp.p

    @property
    def n_parameters(self) -> int:
        """Length of theta."""
        return len(self.theta_index)

    @cached_property
    def head_only(self) -> bool:
        """No dense tail: evaluated by one compiled call."""
        return int(self.symbolic.layout.sizes[3]) == 0

    @cached_property
    def many_levels(self) -> bool:
        """Levels are so many that several threads may share an evaluation."""
        if not (isinstance(self.values, Values) and self.cp.factors):
            return False
        return many_levels(self.values.levels, self.cp.factors[0].q)

    @cached_property
    def layout(self):
        """Positions, as the kernels take them."""
        return self.symbolic.layout

    def flat(self, Ls: Sequence[np.ndarray]) -> np.ndarray:
        """The (q_k, q_k) lower triangular factors in one flat buffer.

        Raises
        ------
        ValueError
            If number or shapes do not fit, or a factor is not lower triangular.
        """
        if len(Ls) != len(self.patterns):
            raise ValueError(f"{len(Ls)} factors given, the model has {len(self.patterns)}")
        parts = [np.zeros(0)]
        for L, pattern in zip(Ls, self.patterns, strict=True):
            L = np.asarray(L, dtype=float)
            if L.shape != (pattern.q, pattern.q) or np.any(np.triu(L, 1) != 0):
                raise ValueError(f"expected a lower triangular {pattern.q} x {pattern.q} factor")
            parts.append(L.ravel())
        return np.concatenate(parts)

    def split(self, buffer: np.ndarray, masked: bool = True) -> list[np.ndarray]:
        """(q_k, q_k) arrays from a flat buffer, zero outside the pattern if ``masked``."""
        ptr = self.layout.f_ptr
        return [
            np.where(p.mask, b, 0.0) if masked else b.copy()
            for p, b in (
                (p, buffer[ptr[k] : ptr[k + 1]].reshape(p.q, p.q))
                for k, p in enumerate(self.patterns)
            )
        ]

    def per_level(self, columns: np.ndarray) -> list[np.ndarray]:
        """(r_k, q_k, ...) arrays of the effects computed with, from rows in elimination order."""
        return [columns[self.symbolic.factor_columns(k)] for k in range(len(self.patterns))]

    def effects(self, columns: np.ndarray) -> list[np.ndarray]:
        """(J_k, q_k, ...) arrays, in the caller's levels, from rows in elimination order."""
        return [
            latent if T is None else np.tensordot(T, latent, (1, 0))
            for T, latent in zip(self.roots, self.per_level(columns), strict=True)
        ]

    @property
    def n_levels(self) -> list[int]:
        """J_k, the caller's levels of each factor."""
        return [
            f.n_levels if T is None else len(T)
            for f, T in zip(self.cp.factors, self.roots, strict=True)
        ]

    def right_sides(self, products: Sequence[np.ndarray]) -> np.ndarray:
        """Rows in elimination order of the effects computed with, (N, ...), from products of
        columns with those of Z in the caller's levels, (J_k, q_k, ...) for each factor.
        """
        return in_order(self.symbolic, products)

    @property
    def lengths(self) -> np.ndarray:
        """About the lengths (p,) of the columns of X computed with."""
        return np.sqrt(np.maximum(np.diag(self.cp.gram)[:-2], 0.0))

    def renewed(self, cp: CrossProducts) -> Problem:
        """The same model for other cross-products of the same levels: another response, or rows
        left out.
        """
        return self.with_products(cp)

    def with_effects(self, matrices: Sequence[np.ndarray | None]) -> Problem:
        """The same model with the columns Z_k K_k in place of Z_k.

        Parameters
        ----------
        matrices : sequence of (q_k, q_k) array or None
            K_k; None leaves a factor as it is.
        """
        return self.renewed(self.products.with_effects(matrices))

    @property
    def products(self) -> CrossProducts:
        """The cross-products as given by the caller, whatever is computed with."""
        return self.cp

    def with_products(self, cp: CrossProducts) -> Problem:
        """The same model for other columns in the coordinates of this problem's own ``cp``."""
        fresh = prepare(cp, self.patterns, symbolic=self.symbolic)
        return replace(fresh, known_sigma=self.known_sigma)


def prepare(
    cp: CrossProducts,
    patterns: Sequence[CovariancePattern],
    *,
    symbolic: Symbolic | None = None,
    route: str = "auto",
) -> Problem:
    """Lay cross-products out for evaluation.

    Parameters
    ----------
    cp : CrossProducts
    patterns : sequence of CovariancePattern
        One per factor of ``cp``.
    symbolic : Symbolic, optional
        Analysis of cross-products whose co-occurrences include those of ``cp``, e.g. of the full
        data when ``cp`` leaves a group out.
    route : {"auto", "sparse", "blocked", "syrk", "dense"}
        See :func:`symbolic.analyze`.

    Raises
    ------
    ValueError
        If patterns and factors disagree.
    """
    patterns = tuple(patterns)
    if [p.q for p in patterns] != [f.q for f in cp.factors]:
        raise ValueError("one covariance pattern per factor, of as many columns, is needed")
    symbolic = analyze(cp, route) if symbolic is None else symbolic
    working, coordinates = working_products(cp)
    return Problem(
        cp, patterns, symbolic, _values(working, symbolic), coordinates, flat_positions(patterns),
        (None,) * len(patterns),
    )  # fmt: skip


def _values(cp: CrossProducts, symbolic: Symbolic) -> Values:
    """Scatter the blocks of the cross-products into elimination order."""
    lay = symbolic.layout
    n_head, head_columns, n_tail = (int(v) for v in lay.sizes[1:])
    diag = np.zeros(lay.diag_ptr[-1])
    panel = np.zeros(lay.panel_ptr[-1])
    tail = np.zeros((n_tail, n_tail))
    rhs = np.zeros((symbolic.n_columns, cp.p + 1))
    for k, f in enumerate(cp.factors):
        nodes = symbolic.position[symbolic.base[k] : symbolic.base[k + 1]]
        square = np.arange(f.q * f.q)
        diag[lay.diag_ptr[nodes][:, None] + square] = f.zz.reshape(f.n_levels, -1)
        columns = symbolic.factor_columns(k)
        rhs[columns] = f.zr[:, :, :-1]
        late = nodes >= n_head
        at = columns[late] - head_columns
        tail[at[:, :, None], at[:, None, :]] = f.zz[late]
    for (k, m), pair in cp.pairs.items():
        _ordering.scatter_pairs(
            pair.rows, pair.columns, pair.values, symbolic.base[k], symbolic.base[m],
            symbolic.position, lay, panel, tail,
        )  # fmt: skip
    levels = np.empty((0, 0))
    if n_tail == 0 and len(cp.factors) == 1 and cp.factors[0].q <= 2:
        levels = level_columns(diag, rhs, cp.factors[0].q)
    return Values(diag, panel, tail, rhs, np.ascontiguousarray(cp.gram[:-1, :-1]), levels)
