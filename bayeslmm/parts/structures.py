"""Correlation structures of residuals: what each is called, where it lives, and its kernel's code.

A structure turns unconstrained numbers into its natural parameters c and pulls derivatives back.
The correlation of two rows of a group, and its derivative in c, are in ``_kernel.correlation``.
To add one: a class here in :data:`STRUCTURES`, and a branch there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bayeslmm.parts.correlations import (
    CorrelationLayout,
    correlation_layout,
    correlations_from_factors,
    factors_from_correlations,
    pullback_to_correlations,
)
from bayeslmm.parts.patterns import CovariancePattern

__all__ = ["STRUCTURES", "Structure", "correlations", "make_structure"]


@dataclass(frozen=True)
class Structure:
    """Independent residuals, and what all structures have in common.

    Attributes
    ----------
    lower, upper : float
        Interval of the scalar parameter, where there is one.
    n_times : int
        Times of the unstructured kind.
    time_unit : float
        Typical distance of neighboring times, for starting values and priors.
    """

    lower: float = 0.0
    upper: float = 0.0
    n_times: int = 0
    time_unit: float = 1.0

    code: ClassVar[int] = 0
    #: Name of the scalar parameter, None where there is none.
    parameter: ClassVar[str | None] = None
    #: Whether c depends on times at all (for sharing factorizations).
    uses_time: ClassVar[bool] = False

    @property
    def n_free(self) -> int:
        """Unconstrained numbers."""
        return 1 if self.parameter else 0

    def natural(self, w: np.ndarray) -> np.ndarray:
        """Natural parameters c of unconstrained w."""
        return np.zeros(0)

    def pullback(self, w: np.ndarray, d_c: np.ndarray) -> np.ndarray:
        """dl/dw from dl/dc."""
        return np.zeros(0)

    def starts(self) -> list[np.ndarray]:
        """Unconstrained starting values."""
        return [np.zeros(0)]

    def informed_start(self, z: np.ndarray, group: np.ndarray, time: np.ndarray):
        """A starting value from standardized residuals, None where there is nothing better."""
        return None

    def boundary(self, c: np.ndarray) -> str | None:
        """In words, the bound that c has reached; None inside."""
        return None


@dataclass(frozen=True)
class _Bounded(Structure):
    """One correlation rho in (lower, upper): logistic in w."""

    def natural(self, w: np.ndarray) -> np.ndarray:
        return np.array([self.lower + (self.upper - self.lower) * _share(w[0])])

    def pullback(self, w: np.ndarray, d_c: np.ndarray) -> np.ndarray:
        return np.array([d_c[0] * (self.upper - self.lower) * _share(w[0]) * _share(-w[0])])

    def unconstrained(self, rho: float) -> np.ndarray:
        """w of a correlation."""
        share = (rho - self.lower) / (self.upper - self.lower)
        return np.array([np.log(share) - np.log1p(-share)])

    def starts(self) -> list[np.ndarray]:
        """A small and a large correlation."""
        return [self.unconstrained(v) for v in (0.2, 0.8)]

    def boundary(self, c: np.ndarray) -> str | None:
        width = self.upper - self.lower
        if c[0] - self.lower < 1e-6 * width:
            return f"{self.parameter} is estimated at its lower limit {self.lower:.4g}"
        if self.upper - c[0] < 1e-6 * width:
            return f"{self.parameter} is estimated at its upper limit {self.upper:.4g}"
        return None


@dataclass(frozen=True)
class AR1(_Bounded):
    """corr = rho^|t - s|, t and s whole numbers (Box and Jenkins); -1 < rho < 1."""

    code, parameter, uses_time = 1, "rho", True


@dataclass(frozen=True)
class CompoundSymmetry(_Bounded):
    """corr = rho for every two rows of a group; -1/(m - 1) < rho < 1 with m the largest group."""

    code, parameter = 3, "rho"

    def starts(self) -> list[np.ndarray]:
        return [self.unconstrained(v) for v in (0.5 * self.lower, 0.5)]


@dataclass(frozen=True)
class ContinuousAR1(Structure):
    """corr = exp(-|t - s| / range), the continuous-time AR(1) (Jones 1993); range > 0."""

    code, parameter, uses_time = 2, "range", True

    def natural(self, w: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(w, -300.0, 300.0))

    def pullback(self, w: np.ndarray, d_c: np.ndarray) -> np.ndarray:
        return d_c * self.natural(w)

    def starts(self) -> list[np.ndarray]:
        return [np.log([self.time_unit * factor]) for factor in (0.7, 5.0)]

    def boundary(self, c: np.ndarray) -> str | None:
        if c[0] < 0.02 * self.time_unit:
            return "range tends to 0: residuals are uncorrelated"
        if c[0] > 1e6 * self.time_unit:
            return "range tends to infinity: residuals of a group do not differ in time"
        return None


@dataclass(frozen=True)
class Unstructured(Structure):
    """A free correlation for every two times, as canonical partial correlations."""

    code, uses_time = 4, True

    @property
    def n_free(self) -> int:
        return self.n_times * (self.n_times - 1) // 2

    @property
    def layout(self) -> CorrelationLayout:
        """Layout of the correlations."""
        return correlation_layout([CovariancePattern.full(self.n_times)])

    def _factor(self, w: np.ndarray, layout: CorrelationLayout) -> np.ndarray:
        F = factors_from_correlations(layout, np.ones(self.n_times), np.ascontiguousarray(w))
        return F.reshape(self.n_times, self.n_times)

    def natural(self, w: np.ndarray) -> np.ndarray:
        L = self._factor(w, self.layout)
        return (L @ L.T).ravel()

    def pullback(self, w: np.ndarray, d_c: np.ndarray) -> np.ndarray:
        layout = self.layout
        D = d_c.reshape(self.n_times, self.n_times)
        G = (D + D.T) @ self._factor(w, layout)
        ones = np.ones(self.n_times)
        return pullback_to_correlations(layout, ones, np.ascontiguousarray(w), G.ravel())[1]

    def starts(self) -> list[np.ndarray]:
        return [np.full(self.n_free, 0.2)]

    def informed_start(self, z: np.ndarray, group: np.ndarray, time: np.ndarray):
        """Pairwise correlations of the residuals, shrunk until they are positive definite."""
        n_times = self.n_times
        table, seen = np.zeros((group.max() + 1, n_times)), np.zeros((group.max() + 1, n_times))
        at = time.astype(int)
        table[group, at], seen[group, at] = z, 1.0
        count = seen.T @ seen
        size = np.sqrt(np.maximum((table**2).T @ seen, 1e-300) / np.maximum(count, 1))
        R = (table.T @ table) / np.maximum(count, 1) / (size * size.T)
        np.fill_diagonal(R, 1.0)
        for shrink in (0.95, 0.8, 0.6, 0.4, 0.2, 0.0):
            trial = shrink * R + (1 - shrink) * np.eye(n_times)
            if np.linalg.eigvalsh(trial)[0] > 0.01:
                break
        L = np.linalg.cholesky(trial)
        return correlations_from_factors(self.layout, L.ravel())[1]

    def boundary(self, c: np.ndarray) -> str | None:
        R = c.reshape(self.n_times, self.n_times)
        if np.linalg.eigvalsh(R)[0] < 1e-6:
            return "the residual correlation matrix is singular"
        return None


#: Structures by the name a user writes.
STRUCTURES: dict[str, type[Structure]] = {
    "independent": Structure,
    "ar1": AR1,
    "car1": ContinuousAR1,
    "cs": CompoundSymmetry,
    "unstructured": Unstructured,
}


def make_structure(
    kind: str, group: np.ndarray, time: np.ndarray, n_times: int, largest: int
) -> Structure:
    """The structure of a model.

    Parameters
    ----------
    kind : str
        A key of :data:`STRUCTURES`.
    group, time : (n,) arrays
    n_times : int
        Different times, for the unstructured kind.
    largest : int
        Rows of the largest group, which bounds a negative intraclass correlation.
    """
    made = STRUCTURES[kind]
    if made is ContinuousAR1:
        order = np.lexsort((time, group))
        gaps = np.diff(time[order])[np.diff(group[order]) == 0]
        return made(lower=0.0, upper=np.inf, time_unit=float(np.median(gaps)))
    if made is CompoundSymmetry:
        return made(lower=-1.0 / (largest - 1), upper=1.0)
    if made is Unstructured:
        return made(n_times=n_times)
    return made(lower=-1.0, upper=1.0)


def correlations(
    kind: str, c: np.ndarray, group: np.ndarray, time: np.ndarray, n_times: int = 0
) -> np.ndarray:
    """Residual correlation matrices of rows, for many parameter values at once.

    Parameters
    ----------
    kind : str
        A name in ``structures.STRUCTURES``.
    c : (..., k) array
        Natural parameters: rho, range, or all entries of the correlation matrix of the times.
    group, time : (m,) arrays
    n_times : int

    Returns
    -------
    (..., m, m) array

    Examples
    --------
    >>> correlations("ar1", np.array([0.5]), np.zeros(3), np.arange(3.0))[0].tolist()
    [1.0, 0.5, 0.25]
    """
    same = group[:, None] == group
    gap = np.abs(time[:, None] - time)
    c = np.asarray(c)
    c = c.astype(np.result_type(c, float), copy=False)  # complex for derivatives by a complex step
    scalar = c[..., :1, None] if c.shape[-1] else None
    off = ~np.eye(len(group), dtype=bool)
    if kind == "ar1":
        value = scalar ** np.round(gap).astype(int)
    elif kind == "car1":
        value = np.exp(-gap / scalar)
    elif kind == "cs":
        value = np.where(off, scalar, 1.0)
    elif kind == "unstructured":
        at = time.astype(int)
        value = c.reshape(*c.shape[:-1], n_times, n_times)[..., at[:, None], at]
    else:
        value = np.eye(len(group)) * np.ones((*c.shape[:-1], 1, 1))
    return np.where(same, value, 0.0) + 0.0


def _share(x: float) -> float:
    e = np.exp(-abs(x))
    return 1.0 / (1.0 + e) if x >= 0 else e / (1.0 + e)
