"""Log densities and their derivatives of all rows, compiled.

Two families that most models have get loops of their own, which LLVM turns into vector
instructions; the others share one.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import in_numpy, kernel, summing_kernel
from bayeslmm.parts.families.formulas import (
    ORDINAL,
    binomial_logit,
    phi_slopes,
    poisson_log,
    slopes,
)
from bayeslmm.parts.families.special import formula

__all__ = ["log_density_rows", "slope_rows"]


@summing_kernel
def log_density_rows(code, y, trials, weights, eta, phi, score, d_phi):
    """Sum of the weighted log density of rows, without what depends on y and trials alone.

    Parameters
    ----------
    code : int
        :attr:`Family.code`.
    y, trials, weights, eta : (n,) arrays
    phi : (n_phi,) array
    score : (n,) array
        Receives the weighted derivative in eta of every row.
    d_phi : (n_phi,) array
        Receives the weighted sum of derivatives in phi.

    Returns
    -------
    float
        Add ``weights @ family.constant(y, trials)`` for the log density itself.
    """
    total = 0.0
    if code == 0:
        for i in range(y.shape[0]):
            l0, l1, l2, l3 = binomial_logit(y[i], trials[i], eta[i])
            total += weights[i] * l0
            score[i] = weights[i] * l1
        return total
    if code == 14:
        for i in range(y.shape[0]):
            l0, l1, l2, l3 = poisson_log(y[i], eta[i])
            total += weights[i] * l0
            score[i] = weights[i] * l1
        return total
    d_phi[:] = 0.0
    for i in range(y.shape[0]):
        p0, p1 = _parameters(code, y[i], phi)
        l0, l1, l2, l3 = slopes(code, y[i], trials[i], eta[i], p0, p1)
        d0, d1 = phi_slopes(code, y[i], trials[i], eta[i], p0, p1)
        total += weights[i] * l0
        score[i] = weights[i] * l1
        _add(code, y[i], weights[i] * d0[0], weights[i] * d1[0], d_phi)
    return total


@kernel
def slope_rows(code, y, trials, weights, eta, phi, out):
    """Weighted log densities of rows and three derivatives in eta, without the constant.

    Parameters
    ----------
    code, y, trials, weights, eta, phi
        As in :func:`log_density_rows`.
    out : (n, 4) array
        Receives them.
    """
    for i in range(y.shape[0]):
        p0, p1 = _parameters(code, y[i], phi)
        w = weights[i]
        l0, l1, l2, l3 = slopes(code, y[i], trials[i], eta[i], p0, p1)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = w * l0, w * l1, w * l2, w * l3


@formula
def _parameters(code, y, phi):
    """p0 and p1 of a row."""
    if code // 10 == ORDINAL:
        k = int(y)
        below = phi[k - 1] if k > 0 else -np.inf
        return below, phi[k] if k < phi.shape[0] else np.inf
    return phi[0] if phi.shape[0] > 0 else 1.0, phi[1] if phi.shape[0] > 1 else 0.0


@formula
def _add(code, y, d0, d1, d_phi):
    """Add the derivatives in p0 and p1 of a row to those in phi."""
    if code // 10 == ORDINAL:
        k = int(y)
        if k > 0:
            d_phi[k - 1] += d0
        if k < d_phi.shape[0]:
            d_phi[k] += d1
        return
    if d_phi.shape[0] > 0:
        d_phi[0] += d0
    if d_phi.shape[0] > 1:
        d_phi[1] += d1


def _parameters_of_rows(code, y, phi):
    if code // 10 == ORDINAL:
        padded, k = np.concatenate([[-np.inf], phi, [np.inf]]), y.astype(int)
        return padded[k], padded[k + 1]
    return (*phi, 1.0, 0.0)[:2]


@in_numpy(log_density_rows)
def _log_density_rows(code, y, trials, weights, eta, phi, score, d_phi):
    p0, p1 = _parameters_of_rows(code, y, phi)
    l0, l1, *_ = slopes(code, y, trials, eta, p0, p1)
    np.multiply(weights, l1, out=score)
    if len(d_phi):
        d = [weights * of[0] for of in phi_slopes(code, y, trials, eta, p0, p1)]
        if code // 10 == ORDINAL:
            k, K = y.astype(int), len(phi) + 1
            d_phi[:] = np.bincount(k, d[0], K)[1:] + np.bincount(k, d[1], K)[:-1]
        else:
            d_phi[:] = [np.sum(of) for of in d[: len(d_phi)]]
    return float(weights @ l0)


@in_numpy(slope_rows)
def _slope_rows(code, y, trials, weights, eta, phi, out):
    p0, p1 = _parameters_of_rows(code, y, phi)
    for k, of in enumerate(slopes(code, y, trials, eta, p0, p1)):
        np.multiply(weights, of, out=out[:, k])
