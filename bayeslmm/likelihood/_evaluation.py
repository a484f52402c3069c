"""The profiled criterion as a C function of a table of arrays, for the compiled search.

Importing this compiles it, or reads it from its cache: import it where many fits begin.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayeslmm.addresses import Table, reader
from bayeslmm.compiling import Integers, c_function
from bayeslmm.gaussian._criteria import (
    gradient_to_theta,
    head_derivatives,
    profile_statistics,
    profiled_levels,
    theta_to_factors,
    use_levels,
)
from bayeslmm.gaussian._elimination import eliminate_head
from bayeslmm.gaussian._levels import all_sums
from bayeslmm.gaussian.problem import Values
from bayeslmm.gaussian.symbolic import Layout
from bayeslmm.likelihood._descent import Criterion

__all__ = ["compiled", "evaluate"]


class Profiled(NamedTuple):
    """What :func:`evaluate` reads.

    Attributes
    ----------
    layout : Layout
    values : Values
        Of cross-products without a dense tail.
    theta_index : (r,) int array
    n : int
    sum_log_weights : float
    reml : bool
    """

    layout: Layout
    values: Values
    theta_index: Integers
    n: int
    sum_log_weights: float
    reml: bool


_read, _ = reader(Profiled)


@c_function("float64(int64[::1], float64[::1], float64[::1], int64)")
def evaluate(table, theta, out, what):
    """The profiled criterion and, into ``out``, what is asked for.

    The gradient in theta; derivatives in the entries of the relative covariance matrices, flat,
    which exist where L is singular too; or the generalized residual sum of squares, coefficients
    and (X'V^-1X)^-1 at sigma = 1, in the coordinates computed with.
    """
    c = _read(table, 0)
    lay, val = c.layout, c.values
    F = theta_to_factors(theta, c.theta_index, lay.f_ptr[-1])
    if what < 2 and use_levels(lay, val, F, what == 1):
        sums = all_sums(val.levels, lay.factor_q[0], val.gram.shape[0], F, what == 1)
        value, gradient = profiled_levels(
            lay, val, sums, F, c.theta_index, c.n, c.sum_log_weights, c.reml, what == 1
        )
        for i in range(gradient.shape[0]):
            out[i] = gradient[i]
        return value
    log_det, roots, K, diag, panel, rhs, S = eliminate_head(lay, val, F)
    value, beta, pwrss, inverse, omega = profile_statistics(
        S, log_det, c.n, c.sum_log_weights, c.reml
    )
    if what == 3:
        p = beta.shape[0]
        out[0] = pwrss
        for i in range(p):
            out[1 + i] = beta[i]
            for j in range(p):
                out[1 + p + i * p + j] = inverse[i, j]
    elif what > 0:
        T, Q = head_derivatives(lay, F, diag, panel, roots, K, rhs, omega)
        for i in range(T.shape[0]):
            T[i] -= Q[i]
            out[i] = T[i]
        if what == 1:
            gradient = gradient_to_theta(lay.f_ptr, lay.factor_q, T, F, c.theta_index)
            for i in range(theta.shape[0]):
                out[i] = gradient[i]
    return value


def compiled(search: Any) -> tuple[Criterion, Values]:
    """What the compiled search takes, and the arrays behind it, which are its own.

    Parameters
    ----------
    search : optimize.ProfiledSearch
    """
    problem, values = search.problem, search.problem.values
    own = values._replace(
        rhs=values.rhs.copy(), gram=values.gram.copy(), levels=values.levels.copy()
    )
    profiled = Profiled(
        problem.layout, own, problem.theta_index, int(problem.n),
        float(problem.cp.sum_log_weights), search.reml,
    )  # fmt: skip
    room = max(problem.n_parameters, problem.layout.f_ptr[-1], 1 + problem.p + problem.p**2)
    criterion = Criterion(
        Table(profiled).entries, problem.theta_index, search.unit(), search.size,
        search.block_sizes, np.empty(room), np.zeros(1, dtype=np.int64),
    )  # fmt: skip
    return criterion, own
