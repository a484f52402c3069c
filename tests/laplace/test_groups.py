"""Groups and rows left out of them, against integrals on grids."""

import numpy as np
import pytest
from scipy.integrate import trapezoid

from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.laplace.groups import GroupRows, ParameterDraws
from bayeslmm.laplace.quadrature import standard_rule
from bayeslmm.laplace.system import ResponseSystem
from bayeslmm.parts.families import family_of
from bayeslmm.parts.patterns import CovariancePattern

PHI = {
    "bernoulli": [],
    "binomial": [],
    "poisson": [],
    "negativebinomial": [2.0],
    "gamma": [3.0],
    "ordinal": [-1.0, 0.5],
    "zero_inflated_poisson": [0.3],
}
INTEGRATED = list(PHI)
PHI |= {"beta": [4.0], "lognormal": [0.8], "zero_inflated_negativebinomial": [2.0, 0.3]}


def system_of(name, sizes, q=1, *, weights=None, seed=3):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    codes = rng.permutation(codes)
    n = len(codes)
    family = family_of(name, n_categories=3 if name == "ordinal" else None)
    trials = np.full(n, 4.0) if name == "binomial" else np.ones(n)
    Z = np.column_stack([np.ones(n), rng.normal(size=(n, q - 1))])
    phi = np.array(PHI[name])
    y = family.draw(rng, rng.normal(0.3, 1.0, n), phi, trials)
    return ResponseSystem(
        y=np.asarray(y, dtype=float),
        trials=trials,
        weights=np.ones(n) if weights is None else rng.choice(weights, n),
        offset=np.zeros(n),
        X=np.ones((n, 1)),
        factors=(FactorRows(codes, Z, len(sizes)),),
        family=family,
        patterns=(CovariancePattern(q, (tuple(range(q)),)),),
    )


def draws_of(system, m=3, seed=5):
    rng = np.random.default_rng(seed)
    q = system.factors[0].q
    F = np.tril(rng.normal(0.0, 0.4, (m, q, q)))
    F[:, np.arange(q), np.arange(q)] = rng.uniform(0.4, 1.4, (m, q))
    phi = np.tile(np.array(PHI[system.family.name]), (m, 1))
    return ParameterDraws(rng.normal(0.2, 0.5, (m, system.n)), F, phi)


def integral(system, at, d, rows, function=None):
    """Of the likelihood of some rows of one group, times a function of u, on a fine grid, where the
    trapezoidal rule is exact for smooth functions.
    """
    q = system.factors[0].q
    Z, phi = system.factors[0].Z[rows], at.phi[d]
    axis = np.linspace(-9, 9, 2001 if q == 1 else 181)
    u = np.stack(np.meshgrid(*[axis] * q, indexing="ij"), axis=-1)
    eta = at.fixed[d, rows] + u @ (Z @ at.F[d]).T
    density = system.family.log_density(system.y[rows], eta, phi, system.trials[rows])
    log = density @ system.weights[rows] - 0.5 * np.sum(u**2, axis=-1) - 0.5 * q * np.log(2 * np.pi)
    inside = np.exp(log) * (1.0 if function is None else function(u))
    for _ in range(q):
        inside = trapezoid(inside, axis, axis=0)
    return inside


def by_the_rule(system, at, d, rows):
    """The same by 21 nodes around the mode, one group of one draw, one row after the other."""
    f, phi = at.F[d, 0, 0], at.phi[d]
    rows_of = system.y[rows], system.weights[rows], system.trials[rows]

    def log_terms(u):
        y, weights, trials = rows_of
        l0, l1, l2, _ = system.family.slopes(y, at.fixed[d, rows] + f * u, phi, trials)
        curvature = 1.0 + f**2 * weights @ np.maximum(-l2, 0.0)
        return weights @ l0 - 0.5 * u**2, f * weights @ l1 - u, curvature

    mode = 0.0
    for _ in range(100):
        _, gradient, curvature = log_terms(mode)
        mode += np.clip(gradient / curvature, -0.5, 0.5)
    h0, _, curvature = log_terms(mode)
    nodes = mode + standard_rule(21, 1)[0][:, 0] / np.sqrt(curvature)
    h = np.array([log_terms(u)[0] for u in nodes])
    total = np.sum(np.exp(standard_rule(21, 1)[1] + h - h0))
    return np.log(total) + h0 - 0.5 * np.log(curvature)


def inverse(rows):
    back = np.empty_like(rows.order)
    back[rows.order] = np.arange(len(back))
    return back


@pytest.mark.parametrize("name", INTEGRATED)
def test_rows_left_out_have_the_ratio_of_two_integrals(name):
    """Of groups of one row to many: both ways to integrate are met. 1e-4: 21 nodes."""
    system = system_of(name, [1, 2, 4, 30])
    rows, at, codes = GroupRows.of(system, 0), draws_of(system), system.factors[0].codes
    found = rows.left_out(at.part(slice(None), rows.order), distribution=True)
    density, upper, lower = (part[:, inverse(rows)] for part in found)
    family = system.family
    for i in [np.flatnonzero(codes == g)[0] for g in range(4)]:
        group = np.flatnonzero(codes == codes[i])
        rest = group[group != i]
        for d in range(2):
            less = integral(system, at, d, rest)
            assert density[d, i] == pytest.approx(
                np.log(integral(system, at, d, group) / less), abs=1e-4
            )
            for reached, of in ((upper, family.cdf), (lower, family.cdf_below)):
                expected = integral(
                    system, at, d, rest,
                    lambda u, i=i, d=d, of=of: of(
                        system.y[i], at.fixed[d, i] + at.F[d, 0, 0] * u[:, 0], at.phi[d],
                        system.trials[i],
                    ),
                )  # fmt: skip
                assert reached[d, i] == pytest.approx(expected / less, abs=2e-3)


@pytest.mark.parametrize("name", list(PHI))
def test_rows_left_out_have_the_rule_around_their_own_mode(name, monkeypatch):
    monkeypatch.setattr("bayeslmm.laplace.groups._SHARE", -1.0)
    system = system_of(name, [1, 2, 4], weights=[0.5, 1.0, 2.0])
    rows, at, codes = GroupRows.of(system, 0), draws_of(system), system.factors[0].codes
    of_rows = at.part(slice(None), rows.order)
    groups = rows.log_likelihoods(of_rows)
    density = rows.left_out(of_rows).log_density[:, inverse(rows)]
    for i in range(system.n):
        group = np.flatnonzero(codes == codes[i])
        whole, rest = (by_the_rule(system, at, 1, r) for r in (group, group[group != i]))
        assert groups[1, codes[i]] == pytest.approx(whole, rel=1e-8)
        assert density[1, i] == pytest.approx(whole - rest, rel=1e-8)


@pytest.mark.parametrize("name", INTEGRATED)
def test_groups_have_their_integral(name):
    system = system_of(name, [1, 2, 4, 30], weights=[0.5, 1.0, 2.0])
    rows, at, codes = GroupRows.of(system, 0), draws_of(system), system.factors[0].codes
    found = rows.log_likelihoods(at.part(slice(None), rows.order))
    for g in range(4):
        expected = np.log(integral(system, at, 0, np.flatnonzero(codes == g)))
        assert found[0, g] == pytest.approx(expected, abs=1e-4)


def test_two_effects_are_integrated_together():
    """11 nodes for each: 1e-3, far below the error of any number of draws."""
    system = system_of("bernoulli", [1, 3, 8], q=2)
    rows, at, codes = GroupRows.of(system, 0), draws_of(system), system.factors[0].codes
    at = at._replace(F=at.F[:, :2, :2])
    density = rows.left_out(at.part(slice(None), rows.order)).log_density[:, inverse(rows)]
    for g in range(3):
        group = np.flatnonzero(codes == g)
        expected = integral(system, at, 0, group) / integral(system, at, 0, group[1:])
        assert density[0, group[0]] == pytest.approx(np.log(expected), abs=1e-3)


def test_the_nodes_of_a_group_serve_rows_that_move_it_little(monkeypatch):
    """What they give is what each row's own nodes give."""
    system = system_of("poisson", [60, 80])
    rows = GroupRows.of(system, 0)
    at = draws_of(system).part(slice(None), rows.order)
    shared = rows._by_shared_nodes(at, False)[2]
    assert np.mean(shared) < 0.5
    found = rows.left_out(at, distribution=True)
    monkeypatch.setattr("bayeslmm.laplace.groups._SHARE", -1.0)
    own = rows.left_out(at, distribution=True)
    for one, other in zip(found, own, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_chosen_groups_are_those_of_the_whole():
    system = system_of("negativebinomial", [3, 5, 2, 4])
    rows, at = GroupRows.of(system, 0), draws_of(system)
    whole = rows.log_likelihoods(at.part(slice(None), rows.order))
    some = rows.of_groups(np.array([1, 3]))
    np.testing.assert_allclose(
        some.log_likelihoods(at.part(slice(None), some.order)), whole[:, [1, 3]], rtol=1e-12
    )
