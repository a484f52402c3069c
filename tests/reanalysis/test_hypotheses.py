"""Hypotheses as text."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import bayeslmm as blm
from bayeslmm.reanalysis.hypotheses import parse_statement

NAMES = [
    "Intercept",
    "x",
    "x1",
    "x[a]",
    "x[a]:z",
    "I(x ** 2)",
    "b c",
    "sd(x | g)",
    "a>b",
    "log(x + 1)",
]


@cache
def fits():
    priors = {"Days": blm.Prior("Normal", mu=0, sigma=10)}
    model = blm.LMM(
        "Reaction ~ Days + (Days | Subject)", blm.load_dataset("sleepstudy"), priors=priors
    )
    post = model.fit(method="importance", draws=500, random_seed=1, progressbar=False)
    return model.reml(), post


@pytest.mark.parametrize(
    ("text", "names", "relation", "value"),
    [
        ("x > 5", ("x",), ">", 2.0 - 5),
        ("x1 = x", ("x1", "x"), "=", 3.0 - 2),
        ("x[a]:z - x[a]*2 <= 1e1", ("x[a]:z", "x[a]"), "<", 5.0 - 8 - 10),
        ("I(x ** 2) == `b c` / 2", ("I(x ** 2)", "b c"), "=", 6.0 - 3.5),
        ("exp(x) >= sqrt(x1)", ("x", "x1"), ">", np.exp(2) - np.sqrt(3)),
        ("-(sd(x | g) + .5) < 0", ("sd(x | g)",), "<", -8.5),
        ("`a>b` > x", ("a>b", "x"), ">", 7.0),
        ("2 ** x1 < 9", ("x1",), "<", -1.0),
        ("log( x+1) > 0", ("log(x + 1)",), ">", 10.0),
        ("log(x+2) > 0", ("x",), ">", np.log(4.0)),
        ("I(x**2)**2 = 0", ("I(x ** 2)",), "=", 36.0),
        ("`sd(x|g)` = x [ a ]", ("sd(x | g)", "x[a]"), "=", 4.0),
    ],
)
def test_text_is_read_as_it_is_meant(text, names, relation, value):
    statement = parse_statement(text, NAMES)
    assert (statement.names, statement.relation) == (names, relation)
    values = dict(zip(NAMES, np.arange(1.0, 11.0), strict=True))
    assert statement.difference(values) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Dayz > 5", "Did you mean 'Days'"),
        ("Days", "two sides"),
        ("Days > 5 > 3", "two relations"),
        ("Days > ", "two sides"),
        ("5 > 3", "names no parameter"),
        ("Days ** > 3", "arithmetic"),
        ("Days(2) > 3", "arithmetic|no 'Days"),
        ("Days > __import__", "no '__import__'"),
        (5, "text"),
        ([], "no hypothesis"),
        ("sd(Days | Subject) > 1", "no "),
        ("log(0 * Days) > 0", "not defined"),
        ("log(-Days) > 0", "not defined"),
        ("(-Days) ** 0.5 > 0", "not defined"),
        ("Days / 0 > 1", "not defined"),
        ("Days > 10 ** 400", "not defined"),
        ("Days => 0", "no relation"),
        ("Days != 0", "no relation"),
        ("+".join(["Days"] * 50_000) + " > 0", "arithmetic"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_wrong(text, word):
    with pytest.raises(ValueError, match=word):
        fits()[0].hypothesis(text)


@given(st.text(alphabet="x1ab[]()<>=+-*/`.e ", max_size=12))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(text):
    try:
        statement = parse_statement(text, NAMES)
    except ValueError:
        return
    assert statement.names
    assert statement.relation in "<>="


def test_tests_of_a_likelihood_fit_are_those_of_contrasts():
    fit, _ = fits()
    table = fit.hypothesis(["Days > 5", "2 * Days + Intercept = 270"], ddf="kenward-roger")
    one = fit.contrast({"Days": 1.0}, ddf="kenward-roger").iloc[0]
    t = (one["estimate"] - 5) / one["se"]
    assert table.loc[0, "t"] == pytest.approx(t)
    from scipy.stats import t as student

    assert table.loc[0, "p"] == pytest.approx(student.sf(t, one["df"]))
    two = fit.contrast({"Days": 2.0, "Intercept": 1.0}, ddf="kenward-roger").iloc[0]
    assert table.loc[1, "estimate"] == pytest.approx(two["estimate"] - 270)
    assert table.loc[1, "se"] == pytest.approx(two["se"])
    assert fit.hypothesis("Days < 5")["p"].iloc[0] == pytest.approx(
        1 - fit.hypothesis("Days > 5")["p"].iloc[0]
    )
    ratio = fit.hypothesis("Days / Intercept = 0").iloc[0]
    b, a = fit.fixef()["estimate"][["Days", "Intercept"]]
    gradient = np.array([-b / a**2, 1 / a])
    assert ratio["se"] == pytest.approx(np.sqrt(gradient @ fit.vcov.to_numpy() @ gradient))
    many = fit.hypothesis(["Days = 9", "Intercept = 240"], adjust="bonferroni")
    alone = fit.hypothesis(["Days = 9", "Intercept = 240"])
    np.testing.assert_allclose(many["p"], np.minimum(2 * alone["p"], 1))


def test_hypotheses_of_a_posterior_are_of_its_draws_and_priors():
    _, post = fits()
    beta = post.posterior["beta"].to_numpy()
    sd = post.posterior[post.names.factors[0].sd].to_numpy()[..., 1]
    table = post.hypothesis(
        ["Days > 8", "Days < 8", "sd(Days | Subject) > 5", "Days = 0", "Days / Intercept > 0.05"]
    ).set_index("hypothesis")
    share = (beta[..., 1] > 8).mean()
    assert table.loc["Days > 8", "probability"] == pytest.approx(share)
    prior = norm.sf(0.8)
    odds = share / (1 - share) * (1 - prior) / prior
    assert table.loc["Days > 8", "bayes_factor"] == pytest.approx(odds)
    assert table.loc["Days < 8", "bayes_factor"] == pytest.approx(1 / odds)
    assert table.loc["sd(Days | Subject) > 5", "probability"] == pytest.approx((sd > 5).mean())
    assert np.isnan(table.loc["sd(Days | Subject) > 5", "bayes_factor"])
    exact = blm.savage_dickey(post, "Days", curve=False)
    assert table.loc["Days = 0", "bayes_factor"] == pytest.approx(exact.bf01, rel=0.05)
    assert np.isnan(table.loc["Days = 0", "probability"])
    assert table.loc["Days / Intercept > 0.05", "probability"] == pytest.approx(
        (beta[..., 1] / beta[..., 0] > 0.05).mean()
    )
    with pytest.raises(ValueError, match="likelihood"):
        post.hypothesis("Days > 5", ddf="normal")
