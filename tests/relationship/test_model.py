"""Models with a relationship: REML is that of dense matrices, and everything else goes along."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, sparse

import bayeslmm as blm
from bayeslmm.gaussian import conditional_moments, profiled_criterion, with_prior
from tests.conftest import dataset, quietly
from tests.relationship.test_pedigree import random_pedigree, tabular


@cache
def herd() -> tuple[pd.DataFrame, blm.RelationshipMatrix]:
    """160 records of 60 animals with a pedigree of 70, a covariate and four pens."""
    rng = np.random.default_rng(12)
    sire, dam = random_pedigree(rng, 70, 12)
    names = [f"a{i:02d}" for i in range(70)]
    known = [*names, None]
    pedigree = pd.DataFrame(
        {"id": names, "sire": [known[i] for i in sire], "dam": [known[i] for i in dam]}
    )
    A = blm.pedigree_relationship(pedigree)
    value = 1.5 * np.linalg.cholesky(tabular(sire, dam)) @ rng.normal(size=70)
    slope = 0.6 * np.linalg.cholesky(tabular(sire, dam)) @ rng.normal(size=70)
    own = rng.normal(size=70)
    at = rng.integers(10, 70, 160)
    x = rng.normal(size=160)
    pen = rng.integers(0, 4, 160)
    y = 20 + (2 + slope[at]) * x + value[at] + own[at] + rng.normal(size=4)[pen]
    data = pd.DataFrame(
        {
            "y": y + 1.2 * rng.normal(size=160),
            "x": x,
            "id": [names[i] for i in at],
            "pen": pen,
            "w": rng.uniform(0.5, 2, 160),
        }
    )
    return data.assign(animal=data["id"]), A


def clones() -> pd.DataFrame:
    """The relationship of the herd with ten animals cloned: singular."""
    _, A = herd()
    frame = A.to_frame()
    for i in range(20, 30):
        one, two = f"a{i:02d}", f"a{i + 20:02d}"
        frame.loc[two] = frame.loc[one]
        frame[two] = frame[one]
    return frame


def once() -> pd.DataFrame:
    """One record per animal."""
    data, _ = herd()
    return data.groupby("id").first().reset_index()


MODELS = {
    "pedigree": ("y ~ x + (1 | id)", "pedigree", {}),
    "permanent environment": ("y ~ x + (1 | id) + (1 | animal) + (1 | pen)", "pedigree", {}),
    "slopes": ("y ~ x + (x | id)", "pedigree", {}),
    "uncorrelated slopes, weights": ("y ~ x + (x || id)", "pedigree", {"weights": "w"}),
    "kinship": ("y ~ x + (1 | id) + (1 | pen)", "kinship", {}),
    "clones": ("y ~ x + (1 | id)", "clones", {}),
    "one record": ("y ~ x + (1 | id)", "once", {}),
    "no fixed effect": ("y ~ 0 + (1 | id)", "pedigree", {}),
}


@cache
def model(key: str) -> blm.LMM:
    formula, kind, options = MODELS[key]
    data, A = herd()
    if kind == "once":
        data = once()
    relationship = A if kind == "pedigree" else clones() if kind == "clones" else A.to_frame()
    return quietly(formula, data, relationship={"id": relationship}, **options)


def _dense(lmm: blm.LMM, reml: bool):
    """-2 log-likelihood in (factors, log sigma), n x n, and a start."""
    design = lmm.design
    X, y = design.X, design.y
    n, p = X.shape
    w = np.ones(n) if design.weights is None else design.weights
    blocks = []
    for block in design.blocks:
        A = np.eye(block.n_levels) if block.relationship is None else block.relationship.dense()
        blocks.append((block.Z, A[np.ix_(block.codes, block.codes)], block.pattern))
    sizes = [len(part) * (len(part) + 1) // 2 for _, _, pattern in blocks for part in pattern]

    def deviance(x):
        V = np.diag(np.exp(2 * x[-1]) / w)
        at = 0
        for Z, K, pattern in blocks:
            for part in pattern:
                q = len(part)
                L = np.zeros((q, q))
                L[np.tril_indices(q)] = x[at : at + q * (q + 1) // 2]
                at += q * (q + 1) // 2
                z = Z[:, list(part)] @ L
                V = V + K * (z @ z.T)
        C = np.linalg.cholesky(V)
        log_det = 2 * np.log(np.diag(C)).sum()
        half_X, half_y = np.linalg.solve(C, X), np.linalg.solve(C, y)
        beta = np.linalg.lstsq(half_X, half_y, rcond=None)[0] if p else np.zeros(0)
        rss = np.sum((half_y - half_X @ beta) ** 2)
        if not reml:
            return n * np.log(2 * np.pi) + log_det + rss
        return (
            (n - p) * np.log(2 * np.pi) + log_det + rss
            + np.linalg.slogdet(half_X.T @ half_X)[1]
        )  # fmt: skip

    start = []
    for size in sizes:
        q = int((np.sqrt(8 * size + 1) - 1) / 2)
        start.extend(np.eye(q)[np.tril_indices(q)])
    return deviance, np.array([*start, 0.0])


#: The general optimizer takes long: their criterion is compared with dense matrices elsewhere.
LONG = ("slopes", "permanent environment")


@pytest.mark.parametrize(
    ("key", "reml"),
    [
        *(pytest.param(key, True, marks=pytest.mark.slow if key in LONG else ()) for key in MODELS),
        ("permanent environment", False),
        ("one record", False),
    ],
)
def test_the_fit_is_that_of_dense_matrices_and_a_general_optimizer(key, reml):
    lmm = model(key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lmm.reml() if reml else lmm.ml()
    deviance, start = _dense(lmm, reml)
    # the criterion at our optimum, by n x n matrices, to rounding
    ours = np.append(fit.sigma * fit.theta, np.log(fit.sigma))
    assert -0.5 * deviance(ours) == pytest.approx(fit.loglik, abs=1e-8)
    best = optimize.minimize(deviance, start, method="L-BFGS-B", options={"ftol": 1e-11})
    # with differenced gradients it stops within about 1e-6 of its optimum; never above ours
    assert fit.loglik >= -0.5 * best.fun - 1e-8
    assert fit.loglik == pytest.approx(-0.5 * best.fun, abs=1e-5)


def test_mrodes_animal_model_has_his_breeding_values():
    """Mrode (2005), example 3.1: five calves, additive variance 20, residual variance 40."""
    data = pd.DataFrame(
        {"calf": [4, 5, 6, 7, 8], "sex": list("mffmm"), "gain": [4.5, 2.9, 3.9, 3.5, 5.0]}
    )
    pedigree = {"id": [4, 5, 6, 7, 8], "sire": [1, 3, 1, 4, 3], "dam": [0, 2, 2, 5, 6]}
    lmm = blm.LMM(
        "gain ~ 0 + sex + (1 | calf)",
        data,
        relationship={"calf": blm.pedigree_relationship(pedigree)},
    )
    found = conditional_moments(with_prior(lmm.problem), [np.sqrt([[20.0]])], np.sqrt(40.0))
    np.testing.assert_allclose(found.beta, [3.404, 4.358], atol=1e-3)
    values = dict(zip(lmm.design.blocks[0].levels, found.b[0].ravel(), strict=True))
    book = [0.098, -0.019, -0.041, -0.009, -0.186, 0.177, -0.249, 0.183]
    np.testing.assert_allclose([values[i] for i in range(1, 9)], book, atol=1e-3)


def test_a_dense_covariance_a_pedigree_and_its_labelled_inverse_are_the_same_model():
    data, A = herd()
    formula = "y ~ x + (x | id) + (1 | pen)"
    frame = A.to_frame()
    shuffled = frame.sample(frac=1, random_state=1)
    fits = [
        quietly(formula, data, relationship={"id": matrix}).reml()
        for matrix in (
            A,
            frame,
            shuffled,  # rows and columns in different orders
            blm.RelationshipMatrix(frame.index, precision=np.linalg.inv(frame)),
        )
    ]
    for fit in fits[1:]:
        assert fit.loglik == pytest.approx(fits[0].loglik, abs=1e-8)
        left, right = (f.ranef("id").set_index(["level", "effect"]) for f in (fits[0], fit))
        columns = ["estimate", "sd"]
        pd.testing.assert_frame_equal(
            left[columns], right.loc[left.index, columns], rtol=1e-3, atol=1e-3
        )


def test_an_xarray_matrix_is_taken():
    import xarray as xr

    data, A = herd()
    frame = A.to_frame()
    array = xr.DataArray(
        frame, dims=("one", "two"), coords={"one": frame.index, "two": frame.columns}
    )
    fit = quietly("y ~ x + (1 | id)", data, relationship={"id": array}).reml()
    assert fit.loglik == pytest.approx(model("pedigree").reml().loglik, abs=1e-9)


def test_relatives_without_rows_have_breeding_values_and_predictions():
    fit = model("pedigree").reml()
    effects = fit.ranef("id").set_index("level")
    assert len(effects) == 70
    data, A = herd()
    absent = sorted(set(A.labels) - set(data["id"]))
    assert absent
    # E[b_absent | y] = A_21 A_11^-1 E[b_present | y]
    frame = A.to_frame()
    present = sorted(set(data["id"]))
    weights = np.linalg.solve(frame.loc[present, present], frame.loc[present, absent]).T
    expected = weights @ effects.loc[present, "estimate"]
    np.testing.assert_allclose(effects.loc[absent, "estimate"], expected, atol=1e-10)
    new = pd.DataFrame({"x": [0.0], "id": absent[:1]})
    predicted = fit.predict(new)["estimate"].iloc[0]
    intercept = fit.fixef("normal").loc["Intercept", "estimate"]
    assert predicted == pytest.approx(intercept + effects.loc[absent[0], "estimate"], rel=1e-10)
    with pytest.raises(blm.DataError, match="'nobody'"):
        fit.predict(pd.DataFrame({"x": [0.0], "id": ["nobody"]}))


def test_predictions_of_the_fitted_rows_are_the_same_in_sparse_and_dense_form():
    data, A = herd()
    tables = [
        quietly("y ~ x + (x | id) + (1 | pen)", data, relationship={"id": R}).reml().predict()
        for R in (A, A.to_frame())
    ]
    # the optimum is found to about seven digits in either form
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)


def test_heritability_is_the_ratio_of_variances_with_the_delta_method():
    fit = model("permanent environment").reml()
    sd = fit.components()
    variance = sd**2
    with pytest.warns(blm.ModelWarning, match="near it"):
        h2 = fit.heritability()
    assert h2["estimate"] == pytest.approx(variance["sd(Intercept | id)"] / variance.sum())
    assert h2["se"] > h2["estimate"]  # 0 is within reach, and an interval on logits is none
    assert np.isnan(h2[["lower", "upper"]].to_numpy(dtype=float)).all()
    within = variance.drop("sd(Intercept | pen)")
    narrow = fit.heritability(exclude="pen")
    assert narrow["estimate"] == pytest.approx(variance["sd(Intercept | id)"] / within.sum())
    both = variance["sd(Intercept | id)"] + variance["sd(Intercept | animal)"]
    assert fit.repeatability()["estimate"] == pytest.approx(both / variance.sum())
    only = fit.repeatability("animal")["estimate"]
    r = fit.repeatability()
    assert 0 < r["lower"] < r["estimate"] < r["upper"] < 1
    assert only == pytest.approx(variance["sd(Intercept | animal)"] / variance.sum())
    assert fit.heritability(fixed=True)["estimate"] < h2["estimate"]
    # 40 simulations know the standard error to about 11 % (six of these), and the delta method
    # is a first-order approximation to it
    boot = fit.heritability(method="bootstrap", n_sims=40, random_seed=1, progressbar=False)
    assert 0.5 < boot["se"] / h2["se"] < 2
    assert 0 <= boot["lower"] < boot["upper"] <= 1


def test_what_heritability_cannot_mean_is_refused():
    data, A = herd()
    plain = quietly("y ~ x + (1 | pen)", data).reml()
    with pytest.raises(blm.DataError, match="needs a grouping factor with a known relationship"):
        plain.heritability()
    fit = model("permanent environment").reml()
    with pytest.raises(blm.DataError, match="'animal' has no relationship"):
        fit.heritability("animal")
    with pytest.raises(KeyError, match="herd"):
        fit.heritability(exclude="herd")
    with pytest.raises(blm.DataError, match="cannot be excluded"):
        fit.heritability(exclude="id")
    with pytest.raises(ValueError, match="method"):
        fit.heritability(method="magic")


def test_the_mean_diagonal_enters_shares_of_variance():
    fit = model("pedigree").reml()
    block = fit.design.blocks[0]
    own = block.relationship.diagonal[block.codes].mean()
    assert own > 1.001  # some animals are inbred
    variance = fit.components() ** 2
    genetic = own * variance["sd(Intercept | id)"]
    assert fit.icc()["adjusted"] == pytest.approx(genetic / (genetic + variance["sigma"]))
    fixed = fit.r2()["marginal"] / (1 - fit.r2()["marginal"]) * (genetic + variance["sigma"])
    shares = fit.variance_shares().set_index("term")["estimate"]
    assert shares["(1 | id)"] == pytest.approx(genetic / (genetic + variance["sigma"] + fixed))


def test_the_implied_covariance_is_that_of_relatives():
    data, A = herd()
    fit = model("pedigree").reml()
    rows = data.drop_duplicates("id").head(6)
    value = fit.implied_covariance(rows).to_numpy()
    frame = A.to_frame().loc[rows["id"], rows["id"]].to_numpy()
    sd = fit.components()
    expected = sd["sd(Intercept | id)"] ** 2 * frame + sd["sigma"] ** 2 * np.eye(6)
    np.testing.assert_allclose(value, expected, atol=1e-12)


def test_simulated_responses_have_the_fitted_covariance():
    fit = model("one record").reml()
    y = fit.simulate(6000, random_seed=4).to_numpy()
    found = np.cov(y)
    block = fit.design.blocks[0]
    A = block.relationship.between(block.codes)
    sd = fit.components()
    expected = sd["sd(Intercept | id)"] ** 2 * A + sd["sigma"] ** 2 * np.eye(len(A))
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    # an entry of a sample covariance has a standard error of at most sqrt(2/m): seven of them,
    # for about 2,000 entries
    assert np.max(np.abs(found - expected) / size) < 7 * np.sqrt(2 / 6000)


def test_kenward_roger_and_satterthwaite_are_those_of_the_same_model_without_a_relationship():
    """Related levels b = T v are ordinary slopes on the columns of T when they are few."""
    rng = np.random.default_rng(6)
    A = pd.DataFrame(0.4 * np.ones((8, 8)) + 0.6 * np.eye(8), index=range(8), columns=range(8))
    data = pd.DataFrame({"g": np.repeat(np.arange(8), 5), "x": rng.normal(size=40)})
    data["all"] = 0
    root = np.linalg.cholesky(A)
    data["y"] = 2 * (root @ rng.normal(size=8))[data["g"]] + data["x"] + rng.normal(size=40)
    related = quietly("y ~ x + (1 | g)", data, relationship={"g": A}).reml()
    # A = 0.4 + 0.6 I: the common part cannot be told from the intercept, so REML, the slope and
    # its degrees of freedom are those of independent levels with 0.6 of the variance
    plain = quietly("y ~ x + (1 | g)", data).reml()
    assert related.loglik == pytest.approx(plain.loglik, abs=1e-8)
    for ddf in ("satterthwaite", "kenward-roger"):
        one, two = (f.fixef(ddf).loc["x", ["estimate", "se", "df"]] for f in (related, plain))
        np.testing.assert_allclose(one.astype(float), two.astype(float), rtol=1e-5)


def test_kenward_roger_of_a_huge_pedigree_is_refused_in_words(monkeypatch):
    from bayeslmm.gaussian.related import coupled_derivatives

    monkeypatch.setattr(coupled_derivatives, "MAX_EFFECTS", 10)
    with pytest.raises(blm.DataError, match="satterthwaite"):
        model("pedigree").reml().fixef("kenward-roger")


def test_profiles_work_on_rotated_products():
    limits = model("one record").reml().confint(parameters=["x", "sigma"], progressbar=False)
    assert (limits["lower"] < limits["estimate"]).all()
    assert (limits["estimate"] < limits["upper"]).all()


def test_a_refit_gives_the_same_in_every_form():
    for key in ("pedigree", "clones", "one record"):
        fit = model(key).reml()
        again = fit.refit(fit.design.y)
        assert again.loglik == pytest.approx(fit.loglik, abs=1e-9)
        moved = fit.refit(fit.design.y + 3.0)
        assert moved.loglik == pytest.approx(fit.loglik, abs=1e-6)


def test_the_flock_has_the_heritability_it_was_simulated_with():
    data = dataset("flock").assign(sheep=lambda d: d["id"])
    A = blm.pedigree_relationship(dataset("flock_pedigree"))
    fit = quietly(
        "weight ~ sex + poly(age, 2) + (1 | id) + (1 | sheep) + (1 | year)",
        data,
        relationship={"id": A},
    ).reml()
    h2 = fit.heritability(exclude="year", level=0.999)
    assert h2["lower"] < 9 / 25 < h2["upper"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda A: A.to_numpy(), "Without labels"),
        (lambda A: A.iloc[:, :-1], "same labels"),
        (
            lambda A: A.drop("a30").drop(columns="a30"),
            "data are not in it: 'a30'",
        ),
        (lambda A: A + np.triu(np.ones(A.shape), 1), "not symmetric"),
        (lambda A: A - 0.8 * np.eye(len(A)), "not positive semidefinite"),
        (lambda A: A.where(A < 1.0), "missing or infinite"),
        (lambda A: pd.concat([A, A.iloc[:1]]), "occurs twice"),
        (lambda A: A.rename(index={"a01": "zz"}), "same labels"),
        (lambda A: A.astype(str) + "?", "must hold numbers"),
    ],
)
def test_a_matrix_that_is_no_covariance_of_the_levels_is_refused(change, message):
    data, A = herd()
    with pytest.raises(blm.DataError, match=message):
        blm.LMM("y ~ x + (1 | id)", data, relationship={"id": change(A.to_frame())})


def test_other_wrong_relationships_are_refused():
    data, A = herd()
    with pytest.raises(blm.FormulaError, match="Did you mean 'id'"):
        blm.LMM("y ~ x + (1 | id)", data, relationship={"idd": A})
    with pytest.raises(blm.DataError, match="must be a dict"):
        blm.LMM("y ~ x + (1 | id)", data, relationship=A.to_frame().to_numpy())
    with pytest.raises(blm.DataError, match="made of several columns"):
        blm.LMM("y ~ x + (1 | id:pen)", data, relationship={"id:pen": A})
    with pytest.raises(blm.FormulaError, match="copy the column"):
        blm.LMM("y ~ x + (1 | id) + (1 | id)", data, relationship={"id": A})
    bad = blm.RelationshipMatrix(A.labels, precision=A.precision - 3 * sparse.eye_array(70))
    with pytest.raises(blm.DataError, match="not positive definite"):
        blm.LMM("y ~ x + (1 | id)", data, relationship={"id": bad})
    with pytest.raises(blm.DataError, match="one of them"):
        blm.RelationshipMatrix(A.labels)


def test_unrelated_levels_with_one_row_each_cannot_be_told_from_residuals():
    data = once()
    identity = pd.DataFrame(np.eye(len(data)), index=data["id"], columns=data["id"])
    lmm = quietly("y ~ x + (1 | id)", data, relationship={"id": identity})
    with pytest.raises(blm.DataError, match="cannot be told apart"):
        lmm.reml()


def test_the_model_says_what_is_related():
    assert "levels related by a known precision, " in repr(model("pedigree"))


@pytest.mark.slow
def test_heritability_is_recovered_with_nominal_coverage_in_half_and_full_sib_families():
    """40 sires with three dams each and three offspring of every dam; true heritability 0.4."""
    ids = [f"o{k}" for k in range(360)]
    sire = [f"s{k // 9}" for k in range(360)]
    dam = [f"d{k // 3}" for k in range(360)]
    A = blm.pedigree_relationship({"id": ids, "sire": sire, "dam": dam})
    rng = np.random.default_rng(31)
    data = pd.DataFrame({"id": ids, "x": rng.normal(size=360), "y": rng.normal(size=360)})
    lmm = quietly("y ~ x + (1 | id)", data, relationship={"id": A})
    block, true, n_sims = lmm.design.blocks[0], 0.4, 300
    estimates, by_deviance, by_delta = [], 0, 0
    for _ in range(n_sims):
        value = block.relationship.times_root(rng.normal(size=block.relationship.n_normals))
        y = np.sqrt(true) * value[block.codes] + np.sqrt(1 - true) * rng.normal(size=360)
        fit = lmm.with_response(y).reml()
        h2 = fit.heritability()
        at_truth = profiled_criterion(fit._problem, np.array([np.sqrt(true / (1 - true))]), True)
        by_deviance += at_truth + 2 * fit.loglik < 3.841
        by_delta += h2["lower"] < true < h2["upper"]
        estimates.append(h2["estimate"])
    # a mean of 300 has a standard error of 0.007; REML's bias of order 1/40 sires is below 0.02
    assert np.mean(estimates) == pytest.approx(true, abs=0.02 + 5 * 0.007)
    # 285 expected, standard deviation 3.8: five of them either way, once in 1.7 million
    assert abs(by_deviance - 0.95 * n_sims) < 5 * 3.8
    # the delta interval on the logit scale is conservative here: at least nominal
    assert by_delta > 0.95 * n_sims - 5 * 3.8
