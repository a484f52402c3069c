"""Correlation structures of residuals, a file each: everything that is known about one.

To add a structure: a file with its class, the class in :data:`STRUCTURES` and, unless it has a
kernel's correlation already, a branch in the kernels below (compiled code cannot look a function up
in a table).
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.parts.structures.ar1 import AR1, add_ar1_gradient, ar1
from bayeslmm.parts.structures.base import Structure
from bayeslmm.parts.structures.car1 import ContinuousAR1, add_car1_gradient, car1
from bayeslmm.parts.structures.cs import CompoundSymmetry
from bayeslmm.parts.structures.toeplitz import (
    Toeplitz,
    add_toeplitz_gradient,
    lag_correlations,
    pullback_lag_correlations,
    toeplitz,
)
from bayeslmm.parts.structures.unstructured import Unstructured

__all__ = [
    "STRUCTURES",
    "Structure",
    "add_kernel_gradient",
    "correlations",
    "kernel_correlation",
    "make_structure",
    "natural_parameters",
    "pullback_natural",
]

#: Structures by the name a user writes.
STRUCTURES: dict[str, type[Structure]] = {
    made.name: made
    for made in (Structure, AR1, ContinuousAR1, CompoundSymmetry, Unstructured, Toeplitz)
}


@kernel
def kernel_correlation(kind, c, s, t):
    """Correlation of two different rows of a group at times s and t; kind: code, n_times."""
    code = kind[0]
    if code == 1:
        return ar1(c, s, t)
    if code == 2:
        return car1(c, s, t)
    if code == 3:
        return c[0]
    if code == 4:
        return c[int(s) * kind[1] + int(t)]
    if code == 5:
        return toeplitz(c, s, t)
    return 0.0


@kernel
def add_kernel_gradient(kind, c, s, t, d, out):
    """Add d times the derivative of :func:`kernel_correlation` in c."""
    code = kind[0]
    if code == 1:
        add_ar1_gradient(c, s, t, d, out)
    elif code == 2:
        add_car1_gradient(c, s, t, d, out)
    elif code == 3:
        out[0] += d
    elif code == 4:
        out[int(s) * kind[1] + int(t)] += d
    elif code == 5:
        add_toeplitz_gradient(c, s, t, d, out)


@kernel
def natural_parameters(kind, scalars):
    """c from the scalars that have priors: themselves, but for lags' partial autocorrelations."""
    return lag_correlations(scalars) if kind == 5 else scalars.copy()


@kernel
def pullback_natural(kind, scalars, d_c):
    """Derivatives in the scalars from those in c."""
    return pullback_lag_correlations(scalars, d_c) if kind == 5 else d_c


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
    return STRUCTURES[kind].of_rows(group, time, n_times, largest)


def correlations(
    kind: str, c: np.ndarray, group: np.ndarray, time: np.ndarray, n_times: int = 0
) -> np.ndarray:
    """Residual correlation matrices of rows, for many parameter values at once.

    Parameters
    ----------
    kind : str
        A name in :data:`STRUCTURES`.
    c : (..., k) array
        Natural parameters: rho, range, or all entries of the correlation matrix of the times.
    group, time : (m,) arrays
    n_times : int

    Returns
    -------
    (..., m, m) array

    Examples
    --------
    >>> correlations("ar1", np.array([0.5]), np.zeros(3), np.arange(3.0)).tolist()[0]
    [1.0, 0.5, 0.25]
    """
    c = np.asarray(c)
    c = c.astype(np.result_type(c, float), copy=False)  # complex for derivatives by a complex step
    made = STRUCTURES[kind]
    value = made.correlations(np, made.entries(c, n_times), np.asarray(time))
    return np.where(group[:, None] == group, value, 0.0) + 0.0
