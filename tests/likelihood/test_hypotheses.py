"""Analyses of variance ask of spaces and terms: no coding, order or aliased column enters."""

from __future__ import annotations

import warnings
from itertools import permutations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.likelihood.columnspace import column_space
from bayeslmm.results.anova import term_hypotheses
from bayeslmm.results.marginal_means import comparison_rows
from tests.conftest import quietly

DDF = ("kenward-roger", "satterthwaite", "normal")
FACTORS = "fhqbn"


def _fit(formula, data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        return quietly(formula, data, **options).reml()


def _table(fit, type_=3, ddf="kenward-roger") -> pd.DataFrame:
    """The analysis of variance with the factors of each term sorted, rows sorted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        table = fit.anova(type_, ddf)
    table.index = [":".join(sorted(name.split(":"))) for name in table.index]
    return table.sort_index()


def _anova(formula, data, type_=3):
    return _table(_fit(f"y ~ {formula} + (1 | g)", data), type_)


def _data(seed=0, empty=(), n=160) -> pd.DataFrame:
    """Three factors, one of them true/false beside, one nested, and a covariate far from 0."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "f": rng.choice(list("abc"), n, p=[0.5, 0.3, 0.2]),
            "h": rng.choice(list("uv"), n),
            "q": rng.choice(list("klm"), n),
            "b": rng.random(n) < 0.4,
            "x": rng.normal(20, 1, n),
            "g": np.arange(n) % 15,
        }
    )
    frame["y"] = rng.normal(size=15)[frame.g] + 0.3 * frame.x + rng.normal(size=n)
    frame = frame[~(frame.f + frame.h + frame.q).isin(empty)].reset_index(drop=True)
    return frame.assign(n=frame.f + frame.q, w=np.where(frame.b, "yes", "no"))


# partly confounded: f:h has 4 degrees of freedom, of which h:q leaves 3
CONFOUNDED = ("awk", "awl", "bwk", "bwl", "cwl", "cwm", "cuk", "cul")


def _confounded(seed=2) -> pd.DataFrame:
    rng = np.random.default_rng(100 + seed)
    frame = _data(seed, n=220)
    frame["h"] = rng.choice(list("uvw"), len(frame), p=[0.3, 0.4, 0.3])
    frame = frame[~(frame.f + frame.h + frame.q).isin(CONFOUNDED)].reset_index(drop=True)
    return frame.assign(n=frame.f + frame.q)


def _cells(frame: pd.DataFrame, names) -> np.ndarray:
    """Every cell of the factors times the covariates: what a term may tell apart."""
    out = np.ones((len(frame), 1))
    for name in names:
        values = frame[name]
        if name in FACTORS:
            values = pd.get_dummies(values.astype(str)).to_numpy(float)
        out = np.einsum("na,nb->nab", out, np.asarray(values, float).reshape(len(frame), -1))
        out = out.reshape(len(frame), -1)
    return out


def _beyond(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Orthonormal basis of what B adds to the space of A."""

    def basis(M, cut):
        U, d, _ = np.linalg.svd(M, full_matrices=False)
        return U[:, d > cut]

    B = B / np.maximum(np.linalg.norm(B, axis=0), 1e-300)
    if A.shape[1]:
        Q = basis(A / np.maximum(np.linalg.norm(A, axis=0), 1e-300), 1e-6)
        B = B - Q @ (Q.T @ B)
        B = B - Q @ (Q.T @ B)
    return basis(B, 1e-4)


FORMULAS = [
    "f * h", "0 + f + h", "0 + h + f", "f * h * q", "0 + f * h * q", "f / h", "f / n", "f:h",
    "h:q + f:h", "f * x + h * x", "x:f", "x + x:f:h", "f * b * x", "h * q + f:h", "h + f:h - f",
    "f + h + q + f:h:q",
]  # fmt: skip


@pytest.mark.parametrize("frame", [_data(1), _data(2, ("auk", "bvl", "cuk")), _confounded()])
def test_types_one_and_two_are_what_a_term_adds_to_the_cells_of_others(frame):
    for formula in FORMULAS:
        model = quietly(f"y ~ {formula} + (1 | g)", frame)
        design, names = model.design, model.design.coef_names
        kept = [j for j, name in enumerate(names) if name not in model.aliased]
        columns = column_space(design.X, np.array(kept))
        terms = [term.components for term in design.terms]
        parts = [
            ({c for c in t if c in FACTORS}, {c for c in t if c not in FACTORS}) for t in terms
        ]
        X = design.X[:, kept]
        for type_ in (1, 2, 3):
            hypotheses = term_hypotheses(design, columns, type_)
            for at, (L, (factors, covariates)) in enumerate(zip(hypotheses, parts, strict=True)):
                above = [j for j, p in enumerate(parts) if factors < p[0] and covariates == p[1]]
                if type_ == 3 and above:
                    continue
                others = set(range(at)) if type_ == 1 else {*range(len(terms))} - {at, *above}
                before = [_cells(frame, terms[j]) for j in others]
                Q = _beyond(np.hstack([X[:, :0], *before]), _cells(frame, terms[at]))
                expected = Q.T @ X
                scale = np.linalg.norm(X, axis=0)
                assert len(L) == len(expected), (formula, type_, terms[at])
                if len(L):
                    rows = np.linalg.qr((expected / scale).T)[0]
                    rest = (L / scale).T - rows @ (rows.T @ (L / scale).T)
                    assert np.abs(rest).max() < 1e-6 * np.abs(L / scale).max(), (formula, type_)


@pytest.mark.parametrize("formula", ["f * h * q", "f * h + x", "0 + f * h", "b * f", "f / h"])
def test_type_three_compares_equally_weighted_means(formula):
    frame = _data(3)
    fit = _fit(f"y ~ {formula} + (1 | g)", frame)
    name = "b" if formula.startswith("b") else "f"
    means = fit.pairwise(name, adjust=None, ddf="kenward-roger")
    L = comparison_rows(fit, name).L
    F, numdf, dendf = fit.inference("kenward-roger").f_test(L, fit._solution.beta)
    row = fit.anova(3, "kenward-roger").loc[name]
    np.testing.assert_allclose(row[["F", "numdf", "dendf"]].to_list(), [F, numdf, dendf])
    assert numdf == (1 if name == "b" else 2)
    if name == "b":
        assert row["F"] == pytest.approx(means["t"].iloc[0] ** 2)


@pytest.mark.parametrize(
    ("formula", "frame"),
    [
        ("f * h * q", _confounded()),
        ("0 + f + h * q", _confounded()),
        ("f * h + x * f", _data(4, ("auk", "aul", "aum"))),
        ("f / n + h", _data(5)),
        ("f:h + x:q", _data(6, ("bvk", "bvl", "bvm"))),
        ("b * f + x", _data(7)),
    ],
)
def test_tests_do_not_depend_on_levels_names_or_the_order_of_terms(formula, frame):
    rng = np.random.default_rng(1)
    turned = frame.copy()
    for name in "fhqn":
        levels = list(rng.permutation(sorted(frame[name].unique())))
        turned[name] = pd.Categorical(frame[name], categories=levels)
    renamed = frame.assign(
        f=frame.f.map({"a": "z", "b": "y", "c": "x"}),
        h=frame.h.map(lambda v: 9 - ord(v)).astype(str),
    )
    parts = formula.replace("0 + ", "").split(" + ")
    terms = ("0 + " if formula.startswith("0") else "") + " + ".join(reversed(parts))
    terms = terms.replace("f * h * q", "q * h * f").replace("b * f", "f * b")
    fit = _fit(f"y ~ {formula} + (1 | g)", frame)
    others = [(formula, turned), (formula, renamed), (terms, frame)]
    others = [_fit(f"y ~ {text} + (1 | g)", data) for text, data in others]
    for type_ in (2, 3):
        for ddf in DDF:
            expected = _table(fit, type_, ddf)
            assert expected["F"].notna().any()
            for other in (_table(other, type_, ddf) for other in others):
                assert other.index.tolist() == expected.index.tolist()
                # Satterthwaite's degrees of freedom depend on the basis of the rows, as lmerTest's
                same = ["numdf", "F"] if ddf == "satterthwaite" else list(expected.columns)
                pd.testing.assert_frame_equal(other[same], expected[same], rtol=1e-6)
                np.testing.assert_allclose(other["dendf"], expected["dendf"], rtol=0.02)


def test_a_partly_confounded_interaction_is_tested_where_the_others_leave_it():
    frame = _confounded()
    seen = set()
    for order in permutations("fhq"):
        row = _anova(" * ".join(order), frame, 2).loc["f:h"]
        seen.add((row["numdf"], round(row["F"], 6)))
    assert len(seen) == 1
    # f:h has 4 degrees of freedom beside main effects; one of them is also one of h:q
    assert seen.pop()[0] == 3
    assert _anova("f * h", frame, 2).loc["f:h", "numdf"] == 4


def test_a_model_without_an_intercept_has_the_tests_of_one_with_it():
    frame = _data(8)
    for formula in ("f + h", "h + f", "f * h", "f + h + x"):
        for type_ in (2, 3):
            pd.testing.assert_frame_equal(
                _anova(f"0 + {formula}", frame, type_), _anova(formula, frame, type_), rtol=1e-6
            )
    # alone, its cell means are compared with 0
    assert _anova("0 + f", frame).loc["f", "numdf"] == 3
    assert _anova("0 + f + x", frame).loc["f", "numdf"] == 3
    assert _anova("0 + f:h", frame).loc["f:h", "numdf"] == 6


def test_a_true_false_predictor_is_a_factor_of_two_levels():
    frame = _data(9)
    for formula in ("f * {}", "{} * x", "f * {} * x", "h + {}"):
        for type_ in (1, 2, 3):
            expected = _anova(formula.format("w"), frame, type_)
            ours = _anova(formula.format("b"), frame, type_)
            expected.index = [
                ":".join(sorted(n.replace("w", "b").split(":"))) for n in expected.index
            ]
            pd.testing.assert_frame_equal(ours, expected.loc[ours.index], rtol=1e-6)


def test_nested_labels_of_their_own_are_no_empty_cells():
    frame = _data(10)
    for type_ in (1, 2, 3):
        own, shared = _anova("f / n", frame, type_), _anova("f / q", frame, type_)
        np.testing.assert_allclose(own, shared, rtol=1e-6)
        own, shared = _anova("h * f / n", frame, type_), _anova("h * f / q", frame, type_)
        np.testing.assert_allclose(own, shared, rtol=1e-6)
    # unequal numbers of nested levels: each level of f is the mean of its own
    fewer = frame[frame.n != "bk"]
    fit = _fit("y ~ f / n + (1 | g)", fewer)
    cells = _fit("y ~ 0 + n + (1 | g)", fewer)
    assert cells.design.coef_names == tuple(f"n[{v}]" for v in sorted(fewer.n.unique()))
    weights = np.zeros((3, 8))
    for j, name in enumerate(sorted(fewer.n.unique())):
        weights["abc".index(name[0]), j] = 1 / (2 if name[0] == "b" else 3)
    L = weights[1:] - weights[0]
    F, _, dendf = cells.inference("kenward-roger").f_test(L, cells._solution.beta)
    row = _anova("f / n", fewer).loc["f"]
    assert fit.kept.size == 8
    np.testing.assert_allclose(row[["F", "dendf"]].to_list(), [F, dendf], rtol=1e-6)


@pytest.mark.parametrize("formula", ["f / n", "b * f * x", "0 + f + h * q", "x + x2 + f"])
def test_rows_that_are_not_in_memory_have_the_same_tests(formula):
    frame = _data(17, ("auk", "aul", "bvm"), 300).assign(x2=lambda d: 24 * d.x - 3)
    fit = _fit(f"y ~ {formula} + (1 | g)", frame)
    streamed = _fit(f"y ~ {formula} + (1 | g)", blm.scan(frame, batch_rows=97))
    for type_ in (1, 2, 3):
        ours, expected = _table(streamed, type_), _table(fit, type_)
        pd.testing.assert_frame_equal(ours, expected, rtol=1e-4)


def test_the_highest_interaction_is_tested_beside_an_empty_cell():
    frame = _data(11, ("cuk", "cul", "cum"))
    fit = _fit("y ~ f * h + (1 | g)", frame)
    interaction = fit.contrast({"f[b]:h[v]": 1}, "kenward-roger").iloc[0]
    for type_ in (2, 3):
        row = _anova("f * h", frame, type_).loc["f:h"]
        assert row["numdf"] == 1
        assert row["F"] == pytest.approx(interaction["t"] ** 2)
        assert row["dendf"] == pytest.approx(interaction["df"])
    with pytest.warns(blm.ModelWarning, match="No type 3 test of f, h: it compares means"):
        table = fit.anova(3)
    assert table.loc[["f", "h"]].isna().all(axis=None)


def test_columns_that_are_combinations_of_others_leave_nothing_to_test():
    frame = _data(12).assign(x2=lambda d: 24 * d.x - 3)
    fit = _fit("y ~ x + x2 + f + (1 | g)", frame)
    for type_ in (2, 3):
        with pytest.warns(blm.ModelWarning, match="of x, x2: nothing of it is left"):
            table = fit.anova(type_)
        assert table.loc[["x", "x2"]].isna().all(axis=None)
        assert table.loc["f", "numdf"] == 2
    first = _anova("x + x2 + f", frame, 1)
    assert first.loc["x", "numdf"] == 1
    assert np.isnan(first.loc["x2", "F"])


@pytest.mark.parametrize("options", [{}, {"residual": "cs(g)"}, {"sigma": "~ h"}])
def test_every_table_of_a_fit_with_aliased_columns_is_that_of_the_others(options):
    frame = _data(13).assign(x2=lambda d: 24 * d.x - 3)
    random = "" if "residual" in options else " + (1 | g)"
    aliased = _fit(f"y ~ x + x2 + f{random}", frame, **options)
    plain = _fit(f"y ~ x + f{random}", frame, **options)
    for ddf in DDF:
        table = aliased.fixef(ddf)
        assert table.loc["x2"].isna().all()
        pd.testing.assert_frame_equal(table.drop("x2"), plain.fixef(ddf), rtol=1e-4)
        assert len(aliased.summary(ddf)) == len(plain.summary(ddf)) + 1
        assert "x2" in aliased.describe(ddf)
        with pytest.warns(blm.ModelWarning, match="not estimable"):
            assert aliased.contrast({"x2": 1.0}, ddf).isna().all(axis=None)
        # x and x2 move together, so that this is what x does in the other model
        both = aliased.contrast({"x": 1.0, "x2": 24.0}, ddf)
        np.testing.assert_allclose(both, plain.contrast({"x": 1.0}, ddf), rtol=1e-4)
        nothing = aliased.contrast({"x": 0.0}, ddf)
        assert nothing["estimate"].item() == 0
        assert np.isnan(nothing["df"].item()) or ddf == "normal"


def test_the_rank_of_a_test_does_not_depend_on_the_units_of_its_rows():
    fit = _fit("y ~ f * h + x + (1 | g)", _data(14))
    L = np.eye(len(fit.kept))[[1, 2, 4]]
    for ddf in DDF:
        expected = fit.inference(ddf).f_test(L, fit._solution.beta)
        scaled = fit.inference(ddf).f_test(L * [[1.0], [1e7], [1e-7]], fit._solution.beta)
        np.testing.assert_allclose(scaled, expected, rtol=0.02 if ddf == "satterthwaite" else 1e-6)
        assert scaled[:2] == pytest.approx(expected[:2])


def test_what_is_estimable_does_not_depend_on_units():
    frame = _data(15).assign(nano=lambda d: 1e-9 * d.x, giga=lambda d: 1e9 * d.x)
    for small, large in (("x", "nano"), ("x", "giga"), ("nano", "giga")):
        fit = _fit(f"y ~ {small} + {large} + (1 | g)", frame)
        values = {name: frame[name].mean() for name in (small, large)}
        assert fit.contrast({"Intercept": 1, **values})["estimate"].notna().all()
        with pytest.warns(blm.ModelWarning, match="not estimable"):
            assert fit.contrast({"Intercept": 1, **values, large: 0})["estimate"].isna().all()


def test_comparisons_that_cannot_be_made_are_not_counted():
    frame = _data(16, ("cuk", "cul", "cum"))
    frame = frame.assign(cell=frame.f + " " + frame.h)
    fit = _fit("y ~ f * h + (1 | g)", frame)
    cells = _fit("y ~ cell + (1 | g)", frame)  # the same model of the cells that are there
    for adjust in (None, "holm", "tukey"):
        with pytest.warns(blm.ModelWarning, match="NaN"):
            ours = fit.pairwise(["f", "h"], adjust=adjust)
        assert ours["p"].isna().sum() == 5
        expected = cells.pairwise("cell", adjust=adjust).set_index("contrast")
        ours = ours.dropna().set_index("contrast")
        pd.testing.assert_frame_equal(ours, expected.loc[ours.index], rtol=1e-5)
