"""Correlation matrices from unconstrained numbers, and the LKJ density on them.

A correlation matrix of size q is R = L L' with L lower triangular, rows of length one.  Row i of L
is written with canonical partial correlations z_ij in (-1, 1), j < i (Lewandowski, Kurowicka & Joe
2009, J. Multivariate Anal. 100(9), 1989-2001, section 2):

    L_ij = z_ij c_ij,   c_ij = prod_{m < j} sqrt(1 - z_im^2),   L_ii = c_ii,

and z_ij = tanh u_ij with u_ij any real number.  A covariance factor is F = diag(sd) L.  Since
d log c / du = -z, no derivative below divides by anything: the map and its pullback hold up to
correlations of one in double precision.

Numbers u are ordered like the free entries of :class:`CovariancePattern` without the diagonal:
column by column within each correlated block, block after block, factor after factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lgamma, log
from typing import NamedTuple

import numpy as np

from bayeslmm.compiling import Integers, kernel
from bayeslmm.parts.patterns import CovariancePattern

_LOG_2 = float(np.log(2.0))


class CorrelationLayout(NamedTuple):
    """Where standard deviations and partial correlations go in the flat buffer of factors.

    Attributes
    ----------
    diagonal : (m,) int array
        Flat position of F_ii of every effect, factor after factor (m = sum of q_k).
    row_ptr : (m + 1,) int array
        Start of each effect's off-diagonal entries in the next two.
    number : (r,) int array
        Index of the entry's u, entries of a row by increasing column.
    entry : (r,) int array
        Flat position of the entry in the buffer of factors.
    column, size : (r,) int arrays
        For each *u*: its zero-based column within its correlated block, and the block's size.
    buffer : (1,) int array
        Length of the flat buffer, sum of q_k^2.
    """

    diagonal: Integers
    row_ptr: Integers
    number: Integers
    entry: Integers
    column: Integers
    size: Integers
    buffer: Integers

    @property
    def n_effects(self) -> int:
        """Standard deviations in all."""
        return len(self.diagonal)

    @property
    def n_correlations(self) -> int:
        """Free correlations in all."""
        return len(self.number)


def correlation_layout(patterns: Sequence[CovariancePattern]) -> CorrelationLayout:
    """Positions for a list of grouping factors."""
    diagonal: list[int] = []
    rows: list[list[tuple[int, int]]] = []
    column: list[int] = []
    size: list[int] = []
    start = 0
    for pattern in patterns:
        q = pattern.q
        here: list[list[tuple[int, int]]] = [[] for _ in range(q)]
        for block in pattern.blocks:
            for j in range(len(block)):
                for i in range(j + 1, len(block)):
                    here[block[i]].append((len(column), start + block[i] * q + block[j]))
                    column.append(j)
                    size.append(len(block))
        diagonal += [start + i * q + i for i in range(q)]
        rows += here
        start += q * q
    flat = [item for row in rows for item in row]
    return CorrelationLayout(
        diagonal=np.array(diagonal, dtype=np.int64),
        row_ptr=np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64),
        number=np.array([item[0] for item in flat], dtype=np.int64),
        entry=np.array([item[1] for item in flat], dtype=np.int64),
        column=np.array(column, dtype=np.int64),
        size=np.array(size, dtype=np.int64),
        buffer=np.array([start], dtype=np.int64),
    )


@kernel
def _sech(u):
    """1 / cosh u without overflow."""
    e = np.exp(-abs(u))
    return 2.0 * e / (1.0 + e * e)


@kernel
def factors_from_correlations(lay, sd, u):
    """Flat buffer of F_k = diag(sd_k) L_k.

    Parameters
    ----------
    lay : CorrelationLayout
    sd : (m,) array
    u : (r,) array
        atanh of the canonical partial correlations.

    Returns
    -------
    (sum q_k^2,) array, row by row, factor after factor.
    """
    F = np.zeros(lay.buffer[0])
    for i in range(sd.shape[0]):
        scale = sd[i]
        for t in range(lay.row_ptr[i], lay.row_ptr[i + 1]):
            v = u[lay.number[t]]
            F[lay.entry[t]] = scale * np.tanh(v)
            scale *= _sech(v)
        F[lay.diagonal[i]] = scale
    return F


@kernel
def pullback_to_correlations(lay, sd, u, G):
    """Derivatives in log sd and in u from G = dl/dF (flat, only entries of the pattern read).

    Returns
    -------
    (m,) and (r,) arrays.
    """
    d_log_sd = np.empty(sd.shape[0])
    d_u = np.empty(u.shape[0])
    for i in range(sd.shape[0]):
        scale = sd[i]
        for t in range(lay.row_ptr[i], lay.row_ptr[i + 1]):
            scale *= _sech(u[lay.number[t]])
        # what the entries to the right of the current one contribute: sum F_im G_im
        after = scale * G[lay.diagonal[i]]
        for t in range(lay.row_ptr[i + 1] - 1, lay.row_ptr[i] - 1, -1):
            v = u[lay.number[t]]
            z, s = np.tanh(v), _sech(v)
            scale = sd[i]  # recomputed, not divided by s, which may underflow
            for w in range(lay.row_ptr[i], t):
                scale *= _sech(u[lay.number[w]])
            d_u[lay.number[t]] = scale * s * s * G[lay.entry[t]] - z * after
            after += scale * z * G[lay.entry[t]]
        d_log_sd[i] = after
    return d_log_sd, d_u


@kernel
def pullback_from_covariances(lay, q, start, sd, slope, u, F, D):
    """Derivatives in the sds' coordinates and in u from D = dl/dSigma (flat).

    Nothing is divided by an sd, so that they hold at zero and below.

    Parameters
    ----------
    lay : CorrelationLayout
    q, start : (K,) and at least (K,) int arrays
        Effects of each factor, and where its matrices begin in F and D.
    sd, slope : (m,) arrays
        Standard deviations and their derivatives in their coordinates.
    u : (r,) array
    F, D : flat arrays
        Sigma_k = F_k F_k', and the symmetric derivatives in it.

    Returns
    -------
    (m,) and (r,) arrays.
    """
    G = np.zeros(F.shape[0])  # dl/dF = 2 (dl/dSigma) F
    for k in range(q.shape[0]):
        for a in range(q[k]):
            for b in range(a + 1):
                total = 0.0
                for c in range(b, q[k]):
                    total += D[start[k] + a * q[k] + c] * F[start[k] + c * q[k] + b]
                G[start[k] + a * q[k] + b] = 2.0 * total
    # at unit sds the derivative in log sd is that in sd
    d_sd, d_u = pullback_to_correlations(lay, np.ones(sd.shape[0]), u, G)
    for i in range(sd.shape[0]):
        d_sd[i] *= slope[i]
        for t in range(lay.row_ptr[i], lay.row_ptr[i + 1]):
            d_u[lay.number[t]] *= sd[i]
    return d_sd, d_u


@kernel
def log_lkj(u, exponent, constant):
    """Log density of LKJ correlations in u, tanh's Jacobian included, and its derivative.

    sum_ij a_ij log(1 - tanh(u_ij)^2) + constant, see :func:`lkj_exponents`.
    """
    value = constant
    gradient = np.empty(u.shape[0])
    for i in range(u.shape[0]):
        size = abs(u[i])
        value += 2.0 * exponent[i] * (_LOG_2 - size - np.log1p(np.exp(-2.0 * size)))
        gradient[i] = -2.0 * exponent[i] * np.tanh(u[i])
    return value, gradient


def lkj_exponents(layout: CorrelationLayout, eta: np.ndarray) -> tuple[np.ndarray, float]:
    """Exponents and normalizing constant of LKJ(eta) in u.

    Under LKJ(eta) the partial correlations are independent, (z_ij + 1)/2 ~ Beta(a, a) with a = eta
    + (q - 2 - j)/2, j the zero-based column (Lewandowski et al. 2009, section 2.4); in u, Jacobian
    included, the density is (1 - z^2)^a / (2^(2a - 1) B(a, a)).

    Parameters
    ----------
    eta : (r,) array
        Shape of the LKJ prior each u belongs to.
    """
    a = np.asarray(eta, dtype=float) + (layout.size - 2 - layout.column) / 2.0
    constant = -sum((2 * v - 1) * log(2.0) + 2 * lgamma(v) - lgamma(2 * v) for v in a)
    return a, float(constant)


def correlations_from_factors(
    layout: CorrelationLayout, F: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """sd and u from the flat buffer of factors: inverse of :func:`factors_from_correlations`.

    An sd of zero has u = 0; a correlation of one has u = +-inf.

    Returns
    -------
    (m,) and (r,) arrays.
    """
    sd = np.empty(layout.n_effects)
    u = np.zeros(layout.n_correlations)
    for i in range(layout.n_effects):
        t = np.arange(layout.row_ptr[i], layout.row_ptr[i + 1])
        row = np.append(F[layout.entry[t]], F[layout.diagonal[i]])
        # sqrt of what is left of the row's square from each column on: sd_i c_ij
        left = np.sqrt(np.cumsum(row[::-1] ** 2))[::-1]
        sd[i] = left[0]
        ratio = np.divide(row[:-1], left[:-1], out=np.zeros(len(t)), where=left[:-1] > 0)
        with np.errstate(divide="ignore"):
            u[layout.number[t]] = np.arctanh(np.clip(ratio, -1.0, 1.0))
    return sd, u
