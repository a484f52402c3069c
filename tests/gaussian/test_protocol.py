"""Every engine is the same Gaussian model: the claims of ``System``, against dense matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from scipy import sparse, stats

from bayeslmm.gaussian import CrossProducts, FactorRows, FixedPrior, Relationship, prepare
from bayeslmm.gaussian.blocks.problem import prepare_blocks
from bayeslmm.gaussian.cells.problem import prepare_cells
from bayeslmm.gaussian.reference import DenseSystem
from bayeslmm.gaussian.related.coupled import CoupledProblem
from bayeslmm.gaussian.related.rotation import RotatedProblem, prepare_related
from bayeslmm.gaussian.shared import SharedSystem
from bayeslmm.gaussian.system import System, Theta
from bayeslmm.gaussian.woodbury.problem import prepare_woodbury
from bayeslmm.parts.patterns import CovariancePattern
from bayeslmm.parts.structures import Structure, make_structure
from tests.gaussian.gaussian_helpers import central_difference

N = 48


@dataclass(frozen=True)
class Case:
    """An engine, the reference, and unconstrained numbers of its residual structure."""

    engine: System
    dense: DenseSystem
    theta: Theta
    w: np.ndarray

    def at(self, x: np.ndarray) -> Theta:
        """Parameters at (F, eta, w)."""
        k, s = len(self.theta.F), len(self.theta.eta)
        return Theta(x[:k], x[k : k + s], self.engine.structure.natural(x[k + s :]))

    @property
    def x(self) -> np.ndarray:
        return np.concatenate([self.theta.F, self.theta.eta, self.w])

    def gradient(self, found) -> np.ndarray:
        """Derivatives in (F, eta, w): what does not depend on how entries of c are counted."""
        parts = [np.zeros(0)]
        split = zip(self.engine.split(found.d_Sigma), self.engine.split(self.theta.F), strict=True)
        parts += [2.0 * (D @ F).ravel() for D, F in split]
        d_w = self.engine.structure.pullback(self.w, found.d_c)
        return np.concatenate([*parts, found.d_eta, d_w])


def _related(J: int) -> np.ndarray:
    """Additive relationships of J animals over several generations."""
    rng, A = np.random.default_rng(1), np.eye(J)
    for i in range(4, J):
        s, d = 2 * rng.integers(0, i // 2), 2 * rng.integers(0, i // 2) + 1
        A[i, :i] = A[:i, i] = 0.5 * (A[s, :i] + A[d, :i])
        A[i, i] = 1 + 0.5 * A[s, d]
    return A


#: engine, shape of the factors, numbers of effects, residual structure
CASES = {
    "one factor": ("shared", "one", (2,), None),
    "one factor, three effects, weights": ("shared", "one", (3,), "weights"),
    "no random effects": ("shared", "none", (), "weights"),
    "nested": ("shared", "nested", (2, 1), "weights"),
    "crossed": ("shared", "crossed", (2, 1, 1), "weights"),
    "coupled": ("precision", "related", (2, 1), None),
    "coupled, weights": ("precision", "related", (1, 1), "weights"),
    "rotated": ("kinship", "related", (1,), None),
    "rotated, border": ("kinship", "border", (1, 1), None),
    "ar1": ("blocks", "one", (2,), "ar1"),
    "car1": ("blocks", "one", (1,), "car1"),
    "cs": ("blocks", "nested", (1, 1), "cs"),
    "unstructured": ("blocks", "none", (), "unstructured"),
    "toeplitz": ("blocks", "one", (2,), "toeplitz"),
    "unequal variances": ("blocks", "one", (2,), "independent"),
    "ar1, crossed items": ("woodbury", "subjects and items", (2, 2), "ar1"),
    "unstructured, crossed": ("woodbury", "subjects and items", (1, 1), "unstructured"),
    "car1, three factors": ("woodbury", "crossed", (2, 1, 1), "car1"),
    "unequal variances, precision": ("woodbury precision", "related", (1, 1), "independent"),
    "unequal variances, kinship": ("woodbury clones", "related", (2, 1), "independent"),
    "ar1, precision": ("woodbury precision", "related", (2, 1), "ar1"),
    "cs, clones": ("woodbury clones", "related", (1, 1), "cs"),
    "no effects outside": ("woodbury", "one", (2,), "ar1"),
    "cells, one factor": ("cells", "one", (2,), "independent"),
    "cells, nested": ("cells", "nested", (2, 1), "independent"),
    "cells, crossed": ("cells", "crossed", (2, 1, 1), "independent"),
}
ENGINES = {"precision": CoupledProblem, "kinship": RotatedProblem}

#: Shapes whose first factor lies within the residual groups.
INSIDE = ("one", "subjects and items")

every = pytest.mark.parametrize("key", CASES)


def _levels(shape: str, rng) -> list[tuple[np.ndarray, int]]:
    outer = np.repeat(np.arange(8), N // 8)
    inner = 2 * outer + np.tile([0, 0, 0, 1, 1, 1], 8)
    return {
        "none": [],
        "one": [(outer, 9)],  # the last level has no rows
        "nested": [(inner, 16), (outer, 8)],
        "crossed": [(rng.integers(0, 9, N), 9), (rng.integers(0, 6, N), 6), (outer % 4, 5)],
        "subjects and items": [(outer, 9), (rng.integers(0, 7, N), 8)],
        "border": [(rng.integers(3, 40, N), 40), (outer % 3, 3)],
        "related": [(rng.integers(3, 14, N), 14), (outer, 8)],
    }[shape]


def _known(engine: str, J: int) -> tuple[np.ndarray, Relationship]:
    """A pedigree by its precision, or a singular covariance with two pairs of clones."""
    if engine == "woodbury precision":
        A = _related(J)
        inverse = np.linalg.inv(A)
        return A, Relationship(precision=sparse.csr_array(inverse * (np.abs(inverse) > 1e-9)))
    same = np.arange(J)
    same[[4, 9]] = [3, 8]
    A = _related(J)[np.ix_(same, same)]
    return A, Relationship(covariance=A)


@cache
def case(key: str) -> Case:
    engine, shape, qs, kind = CASES[key]
    rng = np.random.default_rng(sorted(CASES).index(key))
    X = np.column_stack([np.ones(N), rng.normal(3.0, 1.0, N), np.arange(N) % 2])
    y = rng.normal(size=N) + X @ [2.0, 1.0, -1.0]
    weights = rng.choice([0.5, 1.0, 2.0], N) if kind not in (None, "unstructured") else None
    factors = []
    for (codes, J), q in zip(_levels(shape, rng), qs, strict=False):
        factors.append(
            FactorRows(codes, np.column_stack([np.ones(N), rng.normal(size=(N, q - 1))]), J)
        )
    patterns = tuple(CovariancePattern.full(f.q) for f in factors)
    flat = [np.zeros(0)]
    for f in factors:
        L = np.tril(rng.normal(size=(f.q, f.q)))
        np.fill_diagonal(L, np.abs(np.diag(L)) + 0.3)
        flat.append(L.ravel())
    F = np.concatenate(flat)
    structure, group, time, scale, w = Structure(), np.arange(N), np.zeros(N), np.ones((N, 1)), []
    if engine in ("blocks", "cells") or engine.startswith("woodbury"):
        cell = rng.integers(0, 3, N)
        scale = np.eye(3)[cell]
        if kind != "independent":
            group, time = np.repeat(np.arange(8), N // 8), np.tile(np.arange(N // 8), 8)
            time = time * (0.7 if kind == "car1" else 1.0)
            structure = make_structure(kind, group, time, 6 * (kind == "unstructured"), 6)
        w = rng.normal(size=structure.n_free) * 0.4
    eta = 0.4 * rng.normal(size=scale.shape[1])
    related = [None] * len(factors)
    if engine == "shared":
        whole = prepare(CrossProducts.from_rows(y, X, factors, weights), patterns)
        system = SharedSystem(whole, y, X, tuple(factors), weights)
    elif engine in ENGINES:
        A = _related(factors[0].n_levels)
        inverse = np.linalg.inv(A)
        sparse_inverse = sparse.csr_array(np.where(np.abs(inverse) > 1e-9, inverse, 0.0))
        known = {"precision": {"precision": sparse_inverse}, "kinship": {"covariance": A}}
        related[0] = A
        relationships = [Relationship(**known[engine]), *[None] * (len(factors) - 1)]
        cp = CrossProducts.from_rows(y, X, factors, weights)
        whole = prepare_related(cp, patterns, relationships)
        assert type(whole) is ENGINES[engine]
        system = SharedSystem(whole, y, X, tuple(factors), weights)
    elif engine == "cells":
        system = prepare_cells(y, X, factors, patterns, structure, scale, weights)
    elif engine.startswith("woodbury"):
        known = [None] * len(factors)
        if engine != "woodbury":
            related[0], known[0] = _known(engine, factors[0].n_levels)
        inside = np.array([k == 0 and shape in INSIDE for k in range(len(factors))])
        own = [
            [v for v, here in zip(part, inside, strict=True) if here]
            for part in (factors, patterns)
        ]
        inner = prepare_blocks(y, X, *own, structure, group, time, scale, weights)
        system = prepare_woodbury(inner, factors, patterns, known, ~inside)
    else:
        system = prepare_blocks(y, X, factors, patterns, structure, group, time, scale, weights)
    dense = DenseSystem(
        y, X, tuple(factors), patterns, structure, group, time, scale, weights, tuple(related)
    )
    theta = Theta(F, eta, structure.natural(np.asarray(w)))
    return Case(system, dense, theta, np.asarray(w, dtype=float))


def proper() -> FixedPrior:
    """A prior that leaves one direction flat."""
    return FixedPrior.normal(np.array([1.0, 0.5, 0.0]), np.diag([4.0, 1.0, np.inf]))


def lifted(number: float = 0.7, scale: float = 0.3) -> FixedPrior:
    """The slope given, the last coefficient scaled, the intercept at their means flat."""
    A = np.array([[1.0, 3.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    kinds = np.array([False, True, False]), np.array([False, False, True])
    prior = FixedPrior.with_pins(A, np.zeros(3), np.array([np.inf, 1.0, 0.8]), *kinds)
    own = prior.lifted
    basis = own.basis * [1.0, scale]
    return replace(prior, lifted=replace(own, known=own.pins[:, 0] * number, basis=basis))


def priors():
    return (None, proper(), lifted())


@every
def test_an_engine_is_a_system(key):
    c = case(key)
    assert isinstance(c.engine, System)
    assert (c.engine.n, c.engine.p) == (N, 3)
    for ours, theirs in zip(
        c.engine.covariances(c.theta.F), c.dense.covariances(c.theta.F), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(
        c.engine.row_variances(c.theta.eta), c.dense.row_variances(c.theta.eta), rtol=1e-13
    )
    np.testing.assert_allclose(c.engine.rest, c.dense.rest, atol=1e-11)


@every
@pytest.mark.parametrize("ml", [False, True])
def test_value_and_gradient(key, ml):
    c = case(key)
    for prior in priors():
        found = c.engine.evaluate(c.theta, c.engine.prior(prior), ml)
        expected = c.dense.evaluate(c.theta, c.dense.prior(prior), ml)
        assert found.value == pytest.approx(expected.value, rel=1e-10)
        assert c.engine.evaluate(c.theta, c.engine.prior(prior), ml, False)[0] == pytest.approx(
            expected.value, rel=1e-10
        )
        theirs = c.gradient(expected)
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(c.gradient(found), theirs, rtol=1e-8, atol=1e-9 * scale)


@every
def test_the_gradient_of_the_reference_is_that_of_finite_differences(key):
    c = case(key)
    for ml, given in ((False, proper()), (True, proper()), (False, lifted())):
        prior = c.dense.prior(given)
        exact = c.gradient(c.dense.evaluate(c.theta, prior, ml))
        numeric = central_difference(
            lambda x, prior=prior, ml=ml: c.dense.evaluate(c.at(x), prior, ml, False).value,
            c.x, 1e-3,
        )  # fmt: skip
        # error of order step^4, about 1e-9 of the largest
        np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-7 * np.abs(numeric).max())


@every
def test_derivatives_in_what_is_known_of_the_coefficients(key):
    c = case(key)
    given = c.engine.prior(lifted())
    slopes = c.engine.evaluate(c.theta, given).slopes
    exact = [slopes[:3] @ given.pins[:, 0], slopes[3 + given.shrunk[0]]]

    def value(x):
        prior = c.engine.prior(lifted(x[0], np.exp(x[1])))
        return c.engine.evaluate(c.theta, prior, False, False).value

    numeric = central_difference(value, np.array([0.7, np.log(0.3)]), 1e-3)
    np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-7)


@every
def test_a_normal_prior_is_that_of_its_value_given_times_what_is_left(key):
    """log p(y) = log p(y | value) + log p(value) - log p(value | y), whatever the value."""
    c = case(key)
    A = np.array([[1.0, 3.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    mean, sd = np.array([1.0, 0.5, 0.0]), np.array([2.0, 1.3, 0.8])
    whole = FixedPrior.on_combinations(A, mean, sd)
    moments = c.engine.solve(c.theta, whole)
    for j, number in ((0, 4.0), (1, -0.6), (2, 0.2)):
        kinds = np.arange(3) == j, np.zeros(3, dtype=bool)
        part = FixedPrior.with_pins(A, mean, sd, *kinds)
        known = part.lifted.pins[:, 0] * number
        part = replace(part, lifted=replace(part.lifted, known=known))
        value = c.engine.evaluate(c.theta, c.engine.prior(part)).value
        left = stats.norm(A[j] @ moments.beta, np.sqrt(A[j] @ moments.vcov @ A[j])).logpdf(number)
        value += stats.norm(mean[j], sd[j]).logpdf(number) - left
        assert value == pytest.approx(moments.value, rel=1e-9)


@every
@pytest.mark.parametrize("ml", [False, True])
def test_solve(key, ml):
    c = case(key)
    for prior in priors() if not ml else (None,):
        found, expected = (s.solve(c.theta, prior, ml) for s in (c.engine, c.dense))
        assert found.value == pytest.approx(expected.value, rel=1e-10)
        np.testing.assert_allclose(found.beta, expected.beta, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(found.vcov, expected.vcov, rtol=1e-9, atol=1e-10)
        if prior is None or prior.lifted is None:  # else singular
            np.testing.assert_allclose(found.root @ found.root.T, found.vcov, rtol=1e-9, atol=1e-12)
        for ours, theirs in zip(found.b, expected.b, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9)


@every
def test_draws_have_the_exact_mean_and_covariance(key):
    """A draw is affine in its normals: their images are its mean and a root of its covariance."""
    c = case(key)
    normals = np.vstack([np.zeros(c.engine.n_normals), np.eye(c.engine.n_normals)])
    m = len(normals)
    for prior in priors():
        given = FixedPrior.flat(3) if prior is None else prior
        same = (np.tile(v, (m, 1)) for v in (c.theta.F, c.theta.eta, c.theta.c))
        beta, b = c.engine.draw(*same, given, normals)
        draws = np.hstack([beta, *(v.reshape(m, -1) for v in b)])
        root = draws[1:] - draws[0]
        mean, covariance = c.dense.joint(c.theta, prior)
        np.testing.assert_allclose(draws[0], mean, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(root.T @ root, covariance, rtol=1e-8, atol=1e-9)


@every
def test_rows_left_out(key):
    c = case(key)
    for prior in priors():
        rows = c.engine.row_information(c.theta, prior)
        diagonal = rows.diagonal - np.einsum(
            "ia,ab,ib->i", rows.columns, rows.covariance, rows.columns
        )
        mean, variance = c.dense.left_out(c.theta, prior)
        np.testing.assert_allclose(1.0 / diagonal, variance, rtol=1e-9)
        np.testing.assert_allclose(c.dense.y - rows.residual / diagonal, mean, rtol=1e-8, atol=1e-8)
        some = c.engine.row_information(c.theta, prior, [7, 2])
        np.testing.assert_allclose(some.diagonal, rows.diagonal[[7, 2]], rtol=1e-12)
        np.testing.assert_allclose(some.residual, rows.residual[[7, 2]], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(some.columns, rows.columns[[7, 2]], rtol=1e-10, atol=1e-12)


@every
def test_effects_and_predictors(key):
    c = case(key)
    for ours, theirs in zip(
        c.engine.effect_covariances(c.theta), c.dense.effect_covariances(c.theta), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
    rng = np.random.default_rng(5)
    X = rng.normal(size=(9, 3))
    Z = [rng.normal(size=(9, f.q)) for f in c.engine.factors]
    codes = [rng.choice(f.codes, 9) for f in c.engine.factors]  # pairs that never met as well
    found, expected = (s.predictor_variance(c.theta, X, Z, codes) for s in (c.engine, c.dense))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@every
def test_another_response_other_rows_other_effects(key):
    c = case(key)
    rng = np.random.default_rng(8)
    y, X = rng.normal(size=N) + 5.0, c.dense.X + rng.normal(size=3)
    keep = np.sort(rng.permutation(N)[: N - 7])
    K = [rng.normal(size=(f.q, f.q)) + 2 * np.eye(f.q) for f in c.engine.factors]
    for change in (
        lambda s: s.with_response(y, X),
        lambda s: s.with_rows(keep, y, X),
        lambda s: s.with_effects(K),
    ):
        ours, theirs = change(c.engine), change(c.dense)
        found = ours.evaluate(c.theta, ours.prior(proper()))
        expected = theirs.evaluate(c.theta, theirs.prior(proper()))
        assert found.value == pytest.approx(expected.value, rel=1e-10)
        gradient = c.gradient(expected)
        atol = 1e-9 * np.abs(gradient).max()
        np.testing.assert_allclose(c.gradient(found), gradient, rtol=1e-8, atol=atol)
        rows, dense_rows = (s.row_information(c.theta) for s in (ours, theirs))
        np.testing.assert_allclose(rows.diagonal, dense_rows.diagonal, rtol=1e-9)
        np.testing.assert_allclose(rows.residual, dense_rows.residual, rtol=1e-8, atol=1e-9)


@every
def test_the_root_of_the_residual_covariance(key):
    c = case(key)
    apply = c.engine.residual_root(c.theta)
    C = apply(np.eye(N), inverse=False)
    R = c.dense.residual_covariance(c.theta.eta, c.theta.c)
    np.testing.assert_allclose(C @ C.T, R, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(apply(C, inverse=True), np.eye(N), atol=1e-10)


def test_a_draw_of_the_reference_has_its_own_moments():
    c = case("nested")
    normals = np.vstack([np.zeros(c.dense.n_normals), np.eye(c.dense.n_normals)])
    same = (np.tile(v, (len(normals), 1)) for v in (c.theta.F, c.theta.eta, c.theta.c))
    beta, b = c.dense.draw(*same, proper(), normals)
    draws = np.hstack([beta, *(v.reshape(len(normals), -1) for v in b)])
    mean, covariance = c.dense.joint(c.theta, proper())
    np.testing.assert_allclose(draws[0], mean, rtol=1e-12)
    root = draws[1:] - draws[0]
    np.testing.assert_allclose(root.T @ root, covariance, rtol=1e-9, atol=1e-12)


def test_a_covariate_far_from_zero_loses_nothing_when_rows_are_left_out():
    """Changes keep the digits of the shifted columns: the value does not know the origin."""
    c = case("nested")
    keep, far = np.arange(N) % 7 != 3, np.array([0.0, 1e7, 0.0])
    values = []
    for X in (c.dense.X, c.dense.X + far):
        cp = CrossProducts.from_rows(c.dense.y, X, c.dense.factors, c.dense.weights)
        whole = prepare(cp, c.dense.patterns)
        system = SharedSystem(whole, c.dense.y, X, c.dense.factors, c.dense.weights)
        for changed in (system.with_rows(keep, c.dense.y, X), system.with_response(c.dense.y, X)):
            values.append(changed.evaluate(c.theta, changed.prior(None)).value)
    assert values[2:] == pytest.approx(values[:2], rel=1e-8)
