"""The model written down: names, indices and forms; LaTeX that parses."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeslmm as blm
from bayeslmm.results.equation import _Latex
from tests.conftest import dataset, quietly

MODELS = {
    "slopes": ("Reaction ~ Days + (Days | Subject)", "sleepstudy"),
    "independent": ("Reaction ~ Days + (Days || Subject)", "sleepstudy"),
    "nested": ("score ~ Machine + (1 | Worker/Machine)", "machines"),
    "factor slopes": ("score ~ Machine + (Machine | Worker)", "machines"),
    "cells": ("score ~ 0 + Machine + (0 + Machine | Worker)", "machines"),
    "crossed": ("diameter ~ 1 + (1 | plate) + (1 | sample)", "penicillin"),
    "transformed": ("np.log(Reaction) ~ scale(Days) + poly(Days, 2) + (1 | Subject)", "sleepstudy"),
    "pooled": ("Reaction ~ Days", "sleepstudy"),
}


def _model(name):
    formula, data = MODELS[name]
    return quietly(formula, dataset(data))


def _parse(latex: str) -> None:
    """Every line is math that Matplotlib reads; the environment is amsmath's."""
    from matplotlib.mathtext import MathTextParser

    lines = latex.split("\n")
    assert (lines[0], lines[-1]) == (r"\begin{aligned}", r"\end{aligned}")
    for line in lines[1:-1]:
        line = line.removesuffix(r" \\")
        assert line.count("{") - line.count(r"\{") == line.count("}") - line.count(r"\}")
        MathTextParser("path").parse(f"${line.replace('&', '', 1)}$", dpi=72)


@pytest.mark.parametrize("form", ["conditional", "marginal"])
@pytest.mark.parametrize("name", MODELS)
def test_latex_of_every_kind_of_model_parses(name, form):
    _parse(_model(name).equation(form))


def test_the_conditional_form_of_random_slopes():
    assert _model("slopes").equation(format="text").split("\n") == [
        "Reaction[i] = beta0 + beta1 Days[i] + b0[Subject[i]] + b1[Subject[i]] Days[i] + error[i]",
        "(b0[j], b1[j]) ~ Normal(0, Sigma),  j = 1, ..., 18 (Subject)",
        "Sigma[1,1] = tau0^2",
        "Sigma[2,2] = tau1^2",
        "Sigma[1,2] = rho01 tau0 tau1",
        "error[i] ~ Normal(0, sigma^2)",
    ]


def test_the_marginal_form_is_the_implied_covariance():
    text = _model("independent").equation("marginal", "text")
    assert "Var(Reaction[i]) = tau0^2 + tau1^2 Days[i]^2 + sigma^2" in text
    assert "(tau0^2 + tau1^2 Days[i] Days[i']),  i' != i" in text
    # the numbers of the formula are those of implied_covariance
    fit = _model("independent").reml()
    tau0, tau1, sigma = fit.components()
    one, other = 2.0, 7.0
    frame = pd.DataFrame({"Days": [one, other]})
    expected = fit.implied_covariance(frame).to_numpy()
    assert tau0**2 + tau1**2 * one**2 + sigma**2 == pytest.approx(expected[0, 0])
    assert tau0**2 + tau1**2 * one * other == pytest.approx(expected[0, 1])


def test_crossed_and_nested_factors_are_told_apart():
    text = _model("crossed").equation(format="text")
    assert "b0_plate[plate[i]] + b0_sample[sample[i]]" in text
    latex = _model("nested").equation()
    assert r"b^{(1)}_{0,\,\text{Worker}[i]}" in latex
    assert r"b^{(2)}_{0,\,\text{Worker:Machine}[i]}" in latex
    assert r"(\tau^{(2)}_{0})^2" in latex
    assert "Machine[B][i]" in _model("nested").equation(format="text")


def test_weights_and_offsets_are_there():
    data = dataset("sleepstudy").assign(w=np.arange(180) % 3 + 1.0, known=np.arange(180.0))
    model = quietly("Reaction ~ Days + offset(known) + (1 | Subject)", data, weights="w")
    for form in ("conditional", "marginal"):
        text, latex = model.equation(form, "text"), model.equation(form)
        assert "sigma^2 / w[i]" in text
        assert "offset(known)[i]" in text
        assert r"\sigma^2 / \text{w}_{i}" in latex
        _parse(latex)


def test_models_without_groups_have_independent_responses():
    text = _model("pooled").equation("marginal", "text")
    assert "Cov(Reaction[i], Reaction[i']) = 0,  i' != i" in text


def test_several_correlated_parts_of_one_factor_have_their_own_matrices(toy):
    toy = toy.assign(u=np.sin(np.arange(96.0)))
    model = quietly("y ~ x + (x | g) + (0 + z + u | g)", toy)
    text = model.equation(format="text")
    assert "Normal(0, Sigma_1)" in text
    assert "Normal(0, Sigma_2)" in text
    assert "rho23 tau2 tau3" in text
    for form in ("conditional", "marginal"):
        _parse(model.equation(form))


def test_long_formulas_are_broken_into_lines(toy):
    for k in range(12):
        toy[f"x{k}"] = np.cos(k + np.arange(96.0) ** 1.5)
    formula = "y ~ " + " + ".join(f"x{k}" for k in range(12)) + " + (1 | g)"
    latex = quietly(formula, toy).equation()
    assert latex.count(r"&\quad +") == 2
    _parse(latex)


def test_fits_say_what_their_model_says(sleepstudy):
    model = quietly(MODELS["slopes"][0], sleepstudy)
    assert model.reml().equation("marginal", "text") == model.equation("marginal", "text")
    for wrong in ({"form": "joint"}, {"format": "html"}):
        with pytest.raises(ValueError, match="must be one of"):
            model.equation(**wrong)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1))
def test_any_name_is_escaped(text):
    written = _Latex.name(None, text)
    inside = written.removeprefix(r"\text{").removesuffix("}")
    bare = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[_%#$&{}]", "", inside)
    assert not set(bare) & set(r"\_%#$&{}~^")


def test_names_of_columns_survive():
    data = dataset("sleepstudy").rename(columns={"Days": "off_days %", "Subject": "id#"})
    model = quietly("Reaction ~ `off_days %` + (`off_days %` | `id#`)", data)
    latex = model.equation()
    assert r"\text{off\_days \%}_{i}" in latex
    assert r"\text{id\#}[i]" in latex
    _parse(latex)
    assert blm.LMM("Reaction ~ 1", data).equation(format="text").startswith("Reaction[i] = beta0")


STRUCTURES = {
    "ar1": {"residual": "ar1(Days | Subject)"},
    "car1": {"residual": "car1(Days | Subject)", "sigma": "~ Days"},
    "cs": {"residual": "cs(Subject)", "weights": "w"},
    "unstructured": {"residual": "unstructured(Days | Subject)"},
    "toeplitz": {"residual": "toeplitz(Days | Subject)"},
    "cells": {"sigma": "~ arm", "weights": "w"},
    "student": {"family": "student", "random": "student"},
    "related": {"relationship": {"Subject": "A"}},
    "missing": {"missing": "model"},
}


def _structured(name, formula="Reaction ~ Days + (Days | Subject)"):
    data = dataset("sleepstudy").assign(w=2.0)
    data = data[data["Days"] < 4]
    data = data.assign(arm=np.where(data["Subject"].astype(int) % 2, "a", "b"))
    options = STRUCTURES[name]
    if name == "related":
        labels = sorted(data["Subject"].unique())
        options = {"relationship": {"Subject": pd.DataFrame(np.eye(18), labels, labels)}}
    if name == "missing":
        data["Days"] = data["Days"].astype(float).where(np.arange(len(data)) % 9 != 2)
    return quietly(formula, data, **options)


@pytest.mark.parametrize("form", ["conditional", "marginal"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_latex_of_every_structure_parses(name, form):
    _parse(_structured(name).equation(form))


SAME = "1{Subject[i] = Subject[i']}"


@pytest.mark.parametrize(
    ("name", "conditional", "marginal"),
    [
        (
            "ar1",
            ["error[i] ~ Normal(0, sigma^2)",
             f"Corr(error[i], error[i']) = {SAME} rho^|Days[i] - Days[i']|,  i' != i"],
            f"{SAME} tau0^2 + {SAME} sigma^2 rho^|Days[i] - Days[i']|,  i' != i",
        ),
        (
            "car1",
            ["error[i] ~ Normal(0, sigma[i]^2)",
             "log(sigma[i]) = log(sigma) + gamma[1] (Days[i] - 1.5)",
             f"Corr(error[i], error[i']) = {SAME} exp(-|Days[i] - Days[i']| / range),  i' != i"],
            f"{SAME} tau0^2 + {SAME} sigma[i] sigma[i'] exp(-|Days[i] - Days[i']| / range)"
            ",  i' != i",
        ),
        (
            "cs",
            ["error[i] ~ Normal(0, sigma^2 / w[i])",
             f"Corr(error[i], error[i']) = {SAME} rho,  i' != i"],
            f"{SAME} tau0^2 + {SAME} sigma^2 rho / sqrt(w[i] w[i']),  i' != i",
        ),
        (
            "unstructured",
            ["error[i] ~ Normal(0, sigma[Days[i]]^2)",
             f"Corr(error[i], error[i']) = {SAME} R[Days[i], Days[i']],  i' != i"],
            f"{SAME} tau0^2 + {SAME} sigma[Days[i]] sigma[Days[i']] R[Days[i], Days[i']],  i' != i",
        ),
        (
            "toeplitz",
            ["error[i] ~ Normal(0, sigma^2)",
             f"Corr(error[i], error[i']) = {SAME} rho[|Days[i] - Days[i']|],  i' != i"],
            f"{SAME} tau0^2 + {SAME} sigma^2 rho[|Days[i] - Days[i']|],  i' != i",
        ),
        ("cells", ["error[i] ~ Normal(0, sigma[arm[i]]^2 / w[i])"], f"{SAME} tau0^2,  i' != i"),
        (
            "student",
            ["error[i] ~ StudentT(nu, 0, sigma^2)"],
            f"{SAME} nu_Subject/(nu_Subject - 2) tau0^2,  i' != i",
        ),
        (
            "related",
            ["error[i] ~ Normal(0, sigma^2)"],
            "A[Subject[i], Subject[i']] tau0^2,  i' != i",
        ),
    ],
)  # fmt: skip
def test_the_equations_of_residual_structures_and_relationships(name, conditional, marginal):
    model = _structured(name, "Reaction ~ Days + (1 | Subject)")
    lines = model.equation(format="text").split("\n")
    assert lines[-len(conditional) :] == conditional
    lines = model.equation("marginal", "text").split("\n")
    assert f"Cov(Reaction[i], Reaction[i']) = {marginal}" in lines


def test_the_equation_of_related_levels_and_heavy_tails():
    lines = _structured("related").equation(format="text").split("\n")
    stacked = "(b0[1], b1[1], ..., b0[18], b1[18])"
    assert lines[1] == f"{stacked} ~ Normal(0, A (x) Sigma),  A: relationship of Subject"
    lines = _structured("student").equation(format="text").split("\n")
    assert "u_Subject[j] ~ Gamma(nu_Subject/2, nu_Subject/2)" in lines
    effects = "(b0[j], b1[j]) ~ Normal(0, Sigma / u_Subject[j]),  j = 1, ..., 18 (Subject)"
    assert lines[1] == effects
    assert _structured("missing").equation(format="text").split("\n")[-1] == (
        "Days[i] ~ Normal(mu[Days], sigma[Days]^2)"
    )
