"""Random designs and brute-force n x n answers for the numerical core."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from bayeslmm.gaussian import (
    CrossProducts,
    FactorRows,
    FixedPrior,
    Problem,
    draw_conditional_many,
    log_marginal_flat,
)
from bayeslmm.gaussian.aliasing import remaining_shares_of_products
from bayeslmm.gaussian.shared import SharedSystem
from bayeslmm.gaussian.system import Theta
from bayeslmm.parts.patterns import CovariancePattern, unpack_theta

#: Every way to factorize; all must say the same.
ROUTES = ("auto", "sparse", "blocked", "syrk", "dense")


def row_moments(
    problem: Problem, Ls, sigma: float, rows: tuple, prior: FixedPrior | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of x'beta + z'b of rows (y, X, factors, weights), given all of them.

    From what a row tells: y - fitted = R V^-1 (y - X beta^), and [K^-1]_ii = R^-1 - R^-2 variance.
    """
    y, X, factors, weights = rows
    system = SharedSystem(problem, y, X, tuple(factors), weights)
    theta = Theta(problem.flat(Ls), np.log([sigma]), np.zeros(0))
    found, noise = system.row_information(theta, prior), system.row_variances(theta.eta)
    spread = np.einsum("ij,jk,ik->i", found.columns, found.covariance, found.columns)
    return y - noise * found.residual, noise - noise**2 * (found.diagonal - spread)


#: Reproducible examples; no deadline, because the first one compiles the kernels.
check = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclass(frozen=True, repr=False)
class Design:
    """Rows of a random mixed model and parameters to evaluate it at."""

    y: np.ndarray
    X: np.ndarray
    factors: list[FactorRows]
    patterns: list[CovariancePattern]
    weights: np.ndarray | None
    theta: np.ndarray
    sigma: float

    @property
    def cp(self) -> CrossProducts:
        return CrossProducts.from_rows(self.y, self.X, self.factors, self.weights)

    @property
    def w(self) -> np.ndarray:
        return np.ones(len(self.y)) if self.weights is None else self.weights

    @property
    def relative(self) -> list[np.ndarray]:
        return unpack_theta(self.patterns, self.theta)

    @property
    def absolute(self) -> list[np.ndarray]:
        return [self.sigma * L for L in self.relative]

    def dense_Z(self, k: int) -> np.ndarray:
        f = self.factors[k]
        Z = np.zeros((len(f.codes), f.n_levels * f.q))
        for i, code in enumerate(f.codes):
            Z[i, code * f.q : (code + 1) * f.q] = f.Z[i]
        return Z

    def covariance(self, Ls=None, sigma=None) -> np.ndarray:
        """The n x n matrix V."""
        Ls = self.absolute if Ls is None else Ls
        sigma = self.sigma if sigma is None else sigma
        V = np.diag(sigma**2 / self.w)
        for k, L in enumerate(Ls):
            Z = self.dense_Z(k)
            V += Z @ np.kron(np.eye(self.factors[k].n_levels), L @ L.T) @ Z.T
        return V


def random_pattern(rng, q: int) -> CovariancePattern:
    """A random partition of the columns."""
    label = rng.integers(0, q, q)
    blocks = [tuple(int(c) for c in np.flatnonzero(label == v)) for v in np.unique(label)]
    return CovariancePattern(q, tuple(blocks))


def random_design(seed, n_factors, qs, kind, *, n=36, p=2, weighted=False, zeros=False) -> Design:
    """Unbalanced rows; ``kind`` is "crossed", "nested" or "mixed"."""
    rng = np.random.default_rng(seed)
    outer = rng.integers(0, 3, n)
    middle = outer * 3 + rng.integers(0, 3, n)
    inner = middle * 2 + rng.integers(0, 2, n)
    nested = [(inner, 18), (middle, 9), (outer, 3)]
    crossed = [(rng.integers(0, J - 1, n), J) for J in (9, 6, 5)]  # the last level has no rows
    choices = {
        "nested": nested[3 - n_factors :] if n_factors < 3 else nested,
        "crossed": crossed[:n_factors],
        "mixed": [nested[0], nested[2], crossed[1]][:n_factors],
    }[kind]
    choices = [choices[i] for i in rng.permutation(len(choices))]
    factors, patterns = [], []
    for (codes, J), q in zip(choices, qs, strict=False):
        codes = codes.copy()
        if J > 5:
            codes[0] = J - 1  # a level with a single row
        Z = np.column_stack([np.ones(n), rng.normal(size=(n, q - 1))])
        factors.append(FactorRows(codes, Z, J))
        patterns.append(random_pattern(rng, q))
    size = sum(pattern.n_parameters for pattern in patterns)
    theta = rng.normal(size=size) * 0.8
    if zeros and size:
        theta[rng.random(size) < 0.4] = 0.0
    X = np.column_stack([np.ones(n), rng.normal(size=(n, max(p - 1, 0)))])[:, :p]
    weights = rng.uniform(0.3, 3.0, n) if weighted else None
    return Design(
        rng.normal(size=n) + 2.0, X, factors, patterns, weights, theta, float(rng.uniform(0.5, 2))
    )


@st.composite
def designs(draw):
    """Hypothesis strategy over shapes; the numbers come from a seeded generator."""
    n_factors = draw(st.integers(1, 3))
    largest = {1: 4, 2: 3, 3: 2}[n_factors]
    qs = [draw(st.integers(1, largest)) for _ in range(n_factors)]
    return random_design(
        draw(st.integers(0, 10_000)),
        n_factors,
        qs,
        draw(st.sampled_from(["crossed", "nested", "mixed"])),
        p=draw(st.integers(0, 3)),
        weighted=draw(st.booleans()),
        zeros=draw(st.booleans()),
    )


def normal_logpdf(y, mean, V) -> float:
    """log N(y; mean, V) by an n x n Cholesky factor."""
    C = np.linalg.cholesky(V)
    z = np.linalg.solve(C, y - mean)
    return float(-0.5 * (len(y) * np.log(2 * np.pi) + z @ z) - np.log(np.diag(C)).sum())


def brute_profile(design: Design, reml: bool) -> float:
    """-2 log-likelihood at the best beta and sigma, from the n x n matrix."""
    y, X = design.y, design.X
    n, p = X.shape
    V = design.covariance(design.relative, 1.0)
    Vi = np.linalg.inv(V)
    A = X.T @ Vi @ X
    beta = np.linalg.solve(A, X.T @ Vi @ y) if p else np.zeros(0)
    r = y - X @ beta
    df = n - p if reml else n
    value = np.linalg.slogdet(V)[1] + df * (1 + np.log(2 * np.pi * (r @ Vi @ r) / df))
    return float(value + (np.linalg.slogdet(A)[1] if reml and p else 0.0))


def central_difference(f, x, step=1e-5):
    """Five-point central differences, error of order step^4."""
    out = np.empty(len(x))
    for i in range(len(x)):
        values = []
        for s in (-2, -1, 1, 2):
            z = x.copy()
            z[i] += s * step
            values.append(f(z))
        out[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    return out


def log_marginal_and_gradient(model, Ls, sigma):
    """log p(y | theta), its derivative in each Sigma_k and in sigma^2."""
    value, D, d_sigma2, _ = log_marginal_flat(model, model.problem.flat(Ls), sigma)
    return value, model.problem.split(D), d_sigma2


def draws_at(model, Ls, sigma, normals):
    """Draws of (beta, b) at one theta, one per row of normals."""
    m = len(normals)
    repeated = [np.repeat(L[None], m, axis=0) for L in Ls]
    return draw_conditional_many(model, repeated, np.full(m, sigma), normals)


def aliased_in(cp: CrossProducts) -> np.ndarray:
    """Indices of aliased columns, from the cross-products."""
    return np.flatnonzero(remaining_shares_of_products(cp) == 0)
