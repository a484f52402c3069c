"""Correlated residuals, from dense blocks: see :class:`bayeslmm.gaussian.blocks.problem`."""

from __future__ import annotations

import numpy as np
from numba import carray, cfunc

from bayeslmm.bayes.kernels.coordinates import CovariancePrior, add_likelihood, is_finite, natural
from bayeslmm.bayes.kernels.tables import LOGP, point, reader, report
from bayeslmm.compiling import kernel
from bayeslmm.gaussian.blocks._kernel import BlockArguments, evaluate

__all__ = ["N_ARRAYS", "densities", "density", "logp"]


@kernel
def density(x, prior, likelihood, want_gradient):
    """Log density and gradient in one compiled call; nan where V is not positive definite."""
    at = natural(x, prior)
    nothing = np.full(x.shape[0], np.nan)
    if not is_finite(at):
        return np.nan, nothing
    lay = likelihood.layout
    log_y, d_Sigma, d_eta, d_c = evaluate(
        lay, likelihood.data, likelihood.n, at.F, at.eta, at.c, likelihood.root,
        likelihood.target, likelihood.log_det, False, want_gradient,
    )  # fmt: skip
    if not np.isfinite(log_y):
        return np.nan, nothing
    if want_gradient:
        add_likelihood(at, x, prior, lay.q, lay.f_ptr, d_Sigma, d_eta, d_c)
    return at.value + log_y, at.gradient


@kernel
def densities(X, prior, likelihood):
    """Log density at each row of X."""
    out = np.empty(X.shape[0])
    for i in range(X.shape[0]):
        out[i] = density(X[i], prior, likelihood, False)[0]
    return out


_prior, _N_PRIOR = reader(CovariancePrior)
_likelihood, _N_LIKELIHOOD = reader(BlockArguments)
N_ARRAYS = 2 + _N_PRIOR + _N_LIKELIHOOD


@cfunc(LOGP, cache=True)
def logp(n_dim, z, out, value, user_data):
    """Log density and gradient in the whitened coordinates of a chain."""
    t = carray(user_data, (3 * N_ARRAYS,), np.int64)
    x = point(carray(z, (n_dim,)), t)
    found = density(x, _prior(t, 2), _likelihood(t, 2 + _N_PRIOR), True)
    return report(found, t, carray(out, (n_dim,)), carray(value, (1,)))
