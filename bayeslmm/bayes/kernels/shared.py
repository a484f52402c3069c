"""Residuals of one variance: see :class:`bayeslmm.gaussian.shared.SharedSystem`."""

from __future__ import annotations

import numpy as np
from numba import carray

from bayeslmm.addresses import reader
from bayeslmm.bayes.kernels.coordinates import N_PRIOR, add_likelihood, natural, read_prior
from bayeslmm.bayes.kernels.shrinkage import add_coefficients, coefficient_prior
from bayeslmm.bayes.kernels.tables import LOGP, N_PLACE, point, report, task
from bayeslmm.compiling import c_function, fused
from bayeslmm.gaussian._criteria import marginal_head
from bayeslmm.gaussian.marginal import MarginalArguments

__all__ = ["N_ARRAYS", "logp"]

_likelihood, _N_LIKELIHOOD = reader(MarginalArguments)
N_ARRAYS = N_PRIOR + _N_LIKELIHOOD


@fused
def density(x, t, want_gradient):
    """Log density and its gradient in one compiled call; without a dense tail."""
    prior, likelihood = read_prior(t, 0), _likelihood(t, N_PRIOR)
    at = natural(x, prior)
    lay, sigma = likelihood.layout, at.scalar[prior.effects.diagonal.shape[0]]
    given = coefficient_prior(likelihood.prior, prior.coefficients, at)
    log_y, d_Sigma, d_sigma2, slopes = marginal_head(
        lay, likelihood.values, at.F, sigma, likelihood.n, likelihood.sum_log_weights, given,
        want_gradient,
    )  # fmt: skip
    if want_gradient:
        d_eta = np.full(1, 2.0 * sigma * sigma * d_sigma2)
        add_coefficients(at, likelihood.prior, prior.coefficients, slopes, d_eta)
        add_likelihood(at, x, prior, lay.factor_q, lay.f_ptr, d_Sigma, d_eta, at.c)
    return at.value + log_y, at.gradient


@c_function(LOGP)
def logp(n_dim, z, out, value, user_data):
    """Log density and gradient at points, in the coordinates that the table says."""
    t = carray(user_data, (3 * (N_ARRAYS + N_PLACE),), np.int64)
    n, want_gradient = task(t, N_ARRAYS)
    points, gradients, values = carray(z, (n, n_dim)), carray(out, (n, n_dim)), carray(value, (n,))
    code = 0
    for i in range(n):
        found = density(point(points[i], t, N_ARRAYS), t, want_gradient)
        code = report(found, t, N_ARRAYS, want_gradient, gradients[i], values[i : i + 1])
    return code
