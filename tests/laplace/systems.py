"""Small systems of every family, with true parameters at hand."""

from __future__ import annotations

import numpy as np

from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.laplace.system import ResponseSystem
from bayeslmm.parts.families import FAMILIES, family_of, links_of
from bayeslmm.parts.patterns import CovariancePattern

#: Links whose mean is in its range wherever the linear predictor is.
UNBOUNDED = {"logit", "probit", "cloglog", "log"}
CASES = [
    (name, link)
    for name in FAMILIES
    for link in links_of(name)
    if not family_of(name, link).gaussian
    and (link in UNBOUNDED or name == "lognormal")
    and not (link == "log" and name in ("bernoulli", "binomial"))
]
PHI = {"ordinal": [-1.0, 0.2, 1.0], "zero_inflated_poisson": [0.2]}


def simulated(
    name: str, link: str, *, n: int = 120, levels: int = 8, crossed: bool = False, seed: int = 1
) -> tuple[ResponseSystem, np.ndarray, np.ndarray]:
    """A system with an intercept and a slope by level, phi and coefficients it is made with."""
    rng, family = np.random.default_rng(seed), family_of(name, link, 4)
    x, codes = rng.standard_normal(n), rng.integers(0, levels, n)
    X = x[:, None] + 1.0 if name == "ordinal" else np.column_stack([np.ones(n), x])
    phi = np.array(PHI.get(name, [2.0, 0.2]))[: family.n_phi]
    beta = np.array([0.3, 0.4])[-X.shape[1] :]
    trials = rng.integers(1, 9, n).astype(float) if name == "binomial" else np.ones(n)
    effects = rng.normal(0, 0.5, levels)[codes] + rng.normal(0, 0.3, levels)[codes] * x
    factors = [FactorRows(codes, np.column_stack([np.ones(n), x]), levels)]
    patterns = [CovariancePattern.full(2)]
    if crossed:
        others = rng.integers(0, 5, n)
        effects = effects + rng.normal(0, 0.4, 5)[others]
        factors.append(FactorRows(others, np.ones((n, 1)), 5))
        patterns.append(CovariancePattern.full(1))
    offset = 0.1 * rng.standard_normal(n)
    y = np.asarray(family.draw(rng, X @ beta + offset + effects, phi, trials), dtype=float)
    weights = rng.uniform(0.5, 2.0, n)
    system = ResponseSystem(y, trials, weights, offset, X, tuple(factors), family, tuple(patterns))
    return system, phi, beta
