"""Log densities and their derivatives of all rows, compiled.

What most models have gets loops of its own, which LLVM turns into vector instructions; the others
share one.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from bayeslmm.compiling import in_numpy, kernel, summing_kernel
from bayeslmm.parts.families.formulas import (
    BETA,
    BINOMIAL,
    GAMMA,
    GAUSSIAN,
    NEGATIVE_BINOMIAL,
    ORDINAL,
    POISSON,
    STUDENT,
    ZERO_INFLATED_NEGATIVE_BINOMIAL,
    ZERO_INFLATED_POISSON,
    base,
    beta,
    binomial,
    code_of,
    gaussian,
    ordinal,
    poisson_log,
    positive_mean,
    student,
    student_shape,
    terms,
)
from bayeslmm.parts.families.latent import CLOGLOG, IDENTITY, LOG, LOGIT, PROBIT
from bayeslmm.parts.families.special import choose, formula

__all__ = ["log_density_draws", "log_density_rows", "slope_draws", "slope_rows"]

#: Codes of what most models have: loops of their own.
BINOMIAL_LOGIT, BINOMIAL_PROBIT = code_of(BINOMIAL, LOGIT), code_of(BINOMIAL, PROBIT)
BINOMIAL_CLOGLOG, POISSON_LOG = code_of(BINOMIAL, CLOGLOG), code_of(POISSON, LOG)
NEGATIVE_BINOMIAL_LOG, GAMMA_LOG = code_of(NEGATIVE_BINOMIAL, LOG), code_of(GAMMA, LOG)
BETA_LOGIT = code_of(BETA, LOGIT)
GAUSSIAN_IDENTITY, STUDENT_IDENTITY = code_of(GAUSSIAN, IDENTITY), code_of(STUDENT, IDENTITY)
ORDINAL_LOGIT, ORDINAL_PROBIT = code_of(ORDINAL, LOGIT), code_of(ORDINAL, PROBIT)
ZERO_INFLATED_POISSON_LOG = code_of(ZERO_INFLATED_POISSON, LOG)
ZERO_INFLATED_NEGATIVE_BINOMIAL_LOG = code_of(ZERO_INFLATED_NEGATIVE_BINOMIAL, LOG)


@summing_kernel
def log_density_rows(code, y, trials, weights, eta, phi, score, d_phi):  # noqa: C901, PLR0912
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
    if code == BINOMIAL_LOGIT:
        return _binomial_rows(LOGIT, y, trials, weights, eta, score)
    if code == BINOMIAL_PROBIT:
        return _binomial_rows(PROBIT, y, trials, weights, eta, score)
    if code == BINOMIAL_CLOGLOG:
        return _binomial_rows(CLOGLOG, y, trials, weights, eta, score)
    if code == POISSON_LOG:
        return _log_mean_rows(POISSON, y, weights, eta, 1.0, score)[0]
    if code == NEGATIVE_BINOMIAL_LOG or code == GAMMA_LOG:  # noqa: SIM109
        a = phi[0]
        b0, b1 = base(code, a)
        if code == GAMMA_LOG:
            total, d, sum_w = _log_mean_rows(GAMMA, y, weights, eta, a, score)
        else:
            total, d, sum_w = _log_mean_rows(NEGATIVE_BINOMIAL, y, weights, eta, a, score)
        d_phi[0] = d + sum_w * b1
        return total + sum_w * b0
    if code == BETA_LOGIT:
        return _beta_rows(y, weights, eta, phi, score, d_phi)
    if code == ORDINAL_LOGIT:
        return _ordinal_rows(LOGIT, y, weights, eta, phi, score, d_phi)
    if code == ORDINAL_PROBIT:
        return _ordinal_rows(PROBIT, y, weights, eta, phi, score, d_phi)
    if code == STUDENT_IDENTITY:
        return _student_rows(y, trials, weights, eta, phi, score, d_phi)
    if code == GAUSSIAN_IDENTITY:
        return _gaussian_rows(y, trials, weights, eta, phi, score, d_phi)
    total = 0.0
    d_phi[:] = 0.0
    b0, b1 = base(code, phi[0] if phi.shape[0] > 0 else 1.0)
    for i in range(y.shape[0]):
        w = weights[i]
        p0, p1 = _parameters(code, y[i], phi)
        of_eta, d0, d1 = terms(code, y[i], trials[i], eta[i], p0, p1)
        total += w * (b0 + of_eta[0])
        score[i] = w * of_eta[1]
        _add(code, y[i], w * (b1 + d0[0]), w * d1[0], d_phi)
    return total


#: Inlined into a kernel that sums in any order, with the kind and link that its caller states.
_summed = register_jitable(forceinline=True)


@_summed
def _binomial_rows(link, y, trials, weights, eta, score):
    total = 0.0
    for i in range(y.shape[0]):
        l0, l1, _, _ = binomial(link, y[i], trials[i], eta[i])
        total += weights[i] * l0
        score[i] = weights[i] * l1
    return total


@_summed
def _log_mean_rows(kind, y, weights, eta, p0, score):
    total, d_p0, sum_w = 0.0, 0.0, 0.0
    for i in range(y.shape[0]):
        w = weights[i]
        (l0, l1, _, _), (d, _, _) = positive_mean(kind, LOG, y[i], eta[i], p0)
        total += w * l0
        d_p0 += w * d
        sum_w += w
        score[i] = w * l1
    return total, d_p0, sum_w


@_summed
def _beta_rows(y, weights, eta, phi, score, d_phi):
    kappa, total, d_kappa, sum_w = phi[0], 0.0, 0.0, 0.0
    b0, b1 = base(BETA_LOGIT, kappa)
    for i in range(y.shape[0]):
        w = weights[i]
        (l0, l1, _, _), (d, _, _) = beta(LOGIT, y[i], eta[i], kappa)
        total += w * l0
        d_kappa += w * d
        sum_w += w
        score[i] = w * l1
    d_phi[0] = d_kappa + sum_w * b1
    return total + sum_w * b0


@_summed
def _student_rows(y, trials, weights, eta, phi, score, d_phi):
    sigma, nu, total, d_sigma, d_nu, sum_w = phi[0], phi[1], 0.0, 0.0, 0.0, 0.0
    b0, b1 = base(STUDENT_IDENTITY, sigma)
    shape, d_shape = student_shape(1.0, nu)
    for i in range(y.shape[0]):
        w = weights[i]
        (l0, l1, _, _), (d0, _, _), (d1, _, _) = student(y[i], trials[i], eta[i], sigma, nu)
        total += w * l0
        d_sigma += w * d0
        d_nu += w * d1
        sum_w += w
        score[i] = w * l1
    d_phi[0], d_phi[1] = d_sigma + sum_w * b1, d_nu + sum_w * d_shape
    return total + sum_w * (b0 + shape)


@_summed
def _gaussian_rows(y, trials, weights, eta, phi, score, d_phi):
    sigma, total, d_sigma, sum_w = phi[0], 0.0, 0.0, 0.0
    b0, b1 = base(GAUSSIAN_IDENTITY, sigma)
    for i in range(y.shape[0]):
        w = weights[i]
        (l0, l1, _, _), (d0, _, _) = gaussian(y[i], trials[i], eta[i], sigma)
        total += w * l0
        d_sigma += w * d0
        sum_w += w
        score[i] = w * l1
    d_phi[0] = d_sigma + sum_w * b1
    return total + sum_w * b0


@_summed
def _ordinal_rows(link, y, weights, eta, phi, score, d_phi):
    # thresholds of every row, and what belongs to them, apart from the arithmetic between
    n, K, total = y.shape[0], phi.shape[0], 0.0
    below, above = np.empty(n), np.empty(n)
    for i in range(n):
        k = int(y[i])
        below[i] = phi[k - 1] if k > 0 else -np.inf
        above[i] = phi[k] if k < K else np.inf
    for i in range(n):
        w = weights[i]
        (l0, l1, _, _), (d0, _, _), (d1, _, _) = ordinal(link, eta[i], below[i], above[i])
        total += w * l0
        score[i] = w * l1
        below[i], above[i] = w * d0, w * d1
    d_phi[:] = 0.0
    for i in range(n):
        _add(ORDINAL_LOGIT, y[i], below[i], above[i], d_phi)
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
    if code == BINOMIAL_LOGIT:
        for i in range(y.shape[0]):
            l0, l1, l2, l3 = binomial(LOGIT, y[i], trials[i], eta[i])
            _write(weights[i], l0, l1, l2, l3, out[i])
        return
    if code == POISSON_LOG:
        for i in range(y.shape[0]):
            l0, l1, l2, l3 = poisson_log(y[i], eta[i])
            _write(weights[i], l0, l1, l2, l3, out[i])
        return
    b0, _ = base(code, phi[0] if phi.shape[0] > 0 else 1.0)
    if code == STUDENT_IDENTITY:
        b0 += student_shape(1.0, phi[1])[0]
        for i in range(y.shape[0]):
            (l0, l1, l2, l3), _, _ = student(y[i], trials[i], eta[i], phi[0], phi[1])
            _write(weights[i], b0 + l0, l1, l2, l3, out[i])
        return
    for i in range(y.shape[0]):
        p0, p1 = _parameters(code, y[i], phi)
        (l0, l1, l2, l3), _, _ = terms(code, y[i], trials[i], eta[i], p0, p1)
        _write(weights[i], b0 + l0, l1, l2, l3, out[i])


@kernel
def slope_draws(code, y, trials, weights, eta, phi, out):
    """:func:`slope_rows` of many draws: eta (m, n), phi (m, n_phi), out (m, n, 4)."""
    for d in range(eta.shape[0]):
        slope_rows(code, y, trials, weights, eta[d], phi[d], out[d])


@kernel
def log_density_draws(code, y, trials, weights, eta, phi, out):
    """Weighted log densities of rows in many draws, without the constant.

    Parameters
    ----------
    code, y, trials, weights
        As in :func:`log_density_rows`.
    eta : (m, n) array
    phi : (m, n_phi) array
    out : (m, n) array
        Receives them; 0 where the weight is, whatever the density.
    """
    n = y.shape[0]
    first, second = np.empty(n), np.empty(n)
    for d in range(eta.shape[0]):
        for i in range(n):  # apart from the arithmetic between
            first[i], second[i] = _parameters(code, y[i], phi[d])
        b0, _ = base(code, phi[d, 0] if phi.shape[1] > 0 else 1.0)
        row = y, trials, weights, eta[d], first, second, b0, out[d]
        if code == BINOMIAL_LOGIT:
            _values(BINOMIAL_LOGIT, *row)
        elif code == POISSON_LOG:
            _values(POISSON_LOG, *row)
        elif code == NEGATIVE_BINOMIAL_LOG:
            _values(NEGATIVE_BINOMIAL_LOG, *row)
        elif code == GAMMA_LOG:
            _values(GAMMA_LOG, *row)
        elif code == BETA_LOGIT:
            _values(BETA_LOGIT, *row)
        elif code == ORDINAL_LOGIT:
            _values(ORDINAL_LOGIT, *row)
        elif code == ORDINAL_PROBIT:
            _values(ORDINAL_PROBIT, *row)
        elif code == ZERO_INFLATED_POISSON_LOG:
            _values(ZERO_INFLATED_POISSON_LOG, *row)
        elif code == ZERO_INFLATED_NEGATIVE_BINOMIAL_LOG:
            _values(ZERO_INFLATED_NEGATIVE_BINOMIAL_LOG, *row)
        else:
            _values(code, *row)


@_summed
def _values(code, y, trials, weights, eta, first, second, b0, out):
    for i in range(y.shape[0]):
        (l0, _, _, _), _, _ = terms(code, y[i], trials[i], eta[i], first[i], second[i])
        out[i] = choose(weights[i] > 0.0, weights[i] * (b0 + l0), 0.0)


@formula
def _write(w, l0, l1, l2, l3, out):
    out[0], out[1], out[2], out[3] = w * l0, w * l1, w * l2, w * l3


@formula
def _parameters(code, y, phi):
    """p0 and p1 of a row, as :func:`terms` takes them."""
    kind = code // 10
    if kind == ORDINAL:
        k = int(y)
        below = phi[k - 1] if k > 0 else -np.inf
        return below, phi[k] if k < phi.shape[0] else np.inf
    if kind == ZERO_INFLATED_POISSON:
        return 1.0, phi[0]
    return phi[0] if phi.shape[0] > 0 else 1.0, phi[1] if phi.shape[0] > 1 else 0.0


@formula
def _add(code, y, d0, d1, d_phi):
    """Add the derivatives in p0 and p1 of a row to those in phi."""
    kind, n_phi = code // 10, d_phi.shape[0]
    if kind == ORDINAL:
        k = int(y)
        if k > 0:
            d_phi[k - 1] += d0
        if k < n_phi:
            d_phi[k] += d1
    elif kind == ZERO_INFLATED_POISSON:
        d_phi[0] += d1
    else:
        if n_phi > 0:
            d_phi[0] += d0
        if n_phi > 1:
            d_phi[1] += d1


def _parameters_of_rows(code: int, y: np.ndarray, phi: np.ndarray) -> tuple:
    """The same of all rows."""
    if code // 10 == ORDINAL:
        padded, k = np.concatenate([[-np.inf], phi, [np.inf]]), y.astype(int)
        return padded[k], padded[k + 1]
    if code // 10 == ZERO_INFLATED_POISSON:
        return np.float64(1.0), phi[0]
    return tuple(np.append(phi, [1.0, 0.0][len(phi) :])) if len(phi) < 2 else tuple(phi)


@in_numpy(log_density_rows)
def _log_density_rows(code, y, trials, weights, eta, phi, score, d_phi):
    p0, p1 = _parameters_of_rows(code, y, phi)
    of_eta, d0, d1 = terms(code, y, trials, eta, p0, p1)
    b0, b1 = base(code, phi[0] if len(phi) else 1.0)
    np.multiply(weights, of_eta[1], out=score)
    first, second = weights * (b1 + d0[0]), weights * d1[0]
    if code // 10 == ORDINAL:
        k, K = y.astype(int), len(phi) + 1
        d_phi[:] = np.bincount(k, first, K)[1:] + np.bincount(k, second, K)[:-1]
    elif code // 10 == ZERO_INFLATED_POISSON:
        d_phi[0] = np.sum(second)
    else:
        d_phi[:] = [np.sum(first), np.sum(second)][: len(phi)]
    return float(weights @ (b0 + of_eta[0]))


@in_numpy(slope_rows)
def _slope_rows(code, y, trials, weights, eta, phi, out):
    p0, p1 = _parameters_of_rows(code, y, phi)
    of_eta, _, _ = terms(code, y, trials, eta, p0, p1)
    b0, _ = base(code, phi[0] if len(phi) else 1.0)
    for k, of in enumerate(of_eta):
        np.multiply(weights, b0 + of if k == 0 else of, out=out[:, k])


@in_numpy(log_density_draws)
def _log_density_draws(code, y, trials, weights, eta, phi, out):
    for eta_d, phi_d, out_d in zip(eta, phi, out, strict=True):
        p0, p1 = _parameters_of_rows(code, y, phi_d)
        (l0, *_), _, _ = terms(code, y, trials, eta_d, p0, p1)
        b0, _ = base(code, phi_d[0] if len(phi_d) else 1.0)
        out_d[:] = np.where(weights > 0.0, weights * (b0 + l0), 0.0)
