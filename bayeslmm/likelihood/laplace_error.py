"""How far Laplace's approximation moves the estimates of a response that is not Gaussian.

Where levels are independent, adaptive Gauss-Hermite quadrature integrates their effects out as
exactly as one likes (Pinheiro & Bates 1995, J. Comput. Graph. Stat. 4, 12-35). One Newton step of
the likelihood by quadrature from Laplace's optimum says in standard errors what the approximation
costs; with few rows of rare events per level it may be several.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.gaussian import single_threaded_blas

if TYPE_CHECKING:
    from bayeslmm.likelihood.laplace import ResponseSolution

__all__ = ["NODES", "laplace_error"]

#: Nodes per effect, by the number of effects of a level: 15, 49 and 125 in all.
NODES = {1: 15, 2: 7, 3: 5}

#: A smaller error of the log-likelihood is not looked into: its slope is smaller still.
_SMALL = 0.25


def laplace_error(solution: ResponseSolution) -> float:
    """Largest move of a parameter by a Newton step of the likelihood by quadrature.

    Parameters
    ----------
    solution : ResponseSolution
        Of Laplace's approximation.

    Returns
    -------
    float
        In standard errors; 0 where the log-likelihoods are next to each other, nan where there is
        no quadrature to compare with.
    """
    engine = solution.engine
    factors = engine.problem.factors
    if engine.n_quadrature != 1 or len(factors) != 1 or factors[0].q not in NODES:
        return np.nan
    x = engine.inner_x(solution.theta)
    exact = replace(engine.inner, n_quadrature=NODES[factors[0].q])
    with single_threaded_blas():
        found = exact.evaluate(x)
    if not np.isfinite(found.value) or abs(found.value - solution.loglik) < _SMALL:
        return 0.0
    covariance = solution.curvature.covariance
    se = np.sqrt(np.diag(covariance))
    step = np.abs(covariance @ found.gradient)
    return float(np.max(step[se > 0] / se[se > 0], initial=0.0))
