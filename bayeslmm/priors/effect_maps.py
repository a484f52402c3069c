"""Between the effects that priors are about and those of the formula's columns.

Sigma is the covariance of the effects of the columns Z K, which is what the default priors know;
K Sigma K' is that of the formula's effects, b = K b_c. See :mod:`bayeslmm.priors.defaults`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bayeslmm.formula import Design

__all__ = ["EffectMaps"]


@dataclass(frozen=True)
class EffectMaps:
    """K of every grouping factor.

    Attributes
    ----------
    matrices : tuple of (q_k, q_k) array or None
        None where the two are the same.
    """

    matrices: tuple[np.ndarray | None, ...] = ()

    @property
    def needed(self) -> bool:
        """Whether any effect differs."""
        return any(K is not None for K in self.matrices)

    def applied(self, problem, design: Design | None = None):
        """The problem with the columns Z K.

        Parameters
        ----------
        problem : Problem or StructuredProblem
        design : Design, optional
            Where the problem is that of all its rows, these are reduced again: columns far from
            zero lose digits in products.
        """
        from bayeslmm.gaussian import CrossProducts, FactorRows, Problem, single_threaded_blas

        if not self.needed:
            return problem
        with single_threaded_blas():
            whole = design is not None and design.rows_in_memory and design.n_rows == problem.n
            if design is None or not (whole and isinstance(problem, Problem)):
                return problem.with_effects(self.matrices)
            factors = [
                FactorRows(block.codes, block.Z, block.n_levels).mapped(K)
                for block, K in zip(design.blocks, self.matrices, strict=True)
            ]
            y = design.y - design.offset
            return problem.renewed(
                CrossProducts.from_rows(y, design.X, factors, weights=design.weights)
            )

    def to_formula(
        self, sds: np.ndarray, factors: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        """Standard deviations (n, m) and lower triangular factors of K Sigma K'.

        Parameters
        ----------
        sds : (n, m) array
        factors : sequence of (n, q_k, q_k) arrays
        """
        from bayeslmm.parts.patterns import lower_root

        if not self.needed:
            return sds, factors
        pairs = zip(self.matrices, factors, strict=True)
        moved = [F if K is None else lower_root(K @ F) for K, F in pairs]
        return np.concatenate([np.linalg.norm(F, axis=2) for F in moved], axis=1), moved

    def flat_to_formula(
        self, sds: np.ndarray, F: np.ndarray, split: Callable[[np.ndarray], list[np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`to_formula`, of flat factors (n, sum q_k^2), which ``split`` takes apart."""
        if not self.needed:
            return sds, F
        sds, factors = self.to_formula(sds, split(F))
        return sds, np.concatenate([L.reshape(len(F), -1) for L in factors], axis=1)

    def from_formula(self, factors: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Factors (..., q_k, q_k) of Sigma from those of K Sigma K'."""
        from bayeslmm.parts.patterns import lower_root

        return [
            F if K is None else lower_root(np.linalg.solve(K, F))
            for F, K in zip(factors, self.matrices or (None,) * len(factors), strict=True)
        ]

    def effects(self, b: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Effects of the formula's columns from those computed with, (..., J_k, q_k) each."""
        if not self.needed:
            return list(b)
        pairs = zip(b, self.matrices, strict=True)
        return [part if K is None else part @ K.T for part, K in pairs]
