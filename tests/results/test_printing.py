"""Tables print whole and rounded, and keep their digits."""

from __future__ import annotations

import pickle
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.results.printing import Table, format_table
from tests.conftest import dataset, quietly


@cache
def _fits() -> tuple:
    model = blm.LMM("score ~ Machine + (1 | Worker)", dataset("machines"))
    return model.reml(), model.fit(method="importance", draws=200, random_seed=1)


def _tables(fit) -> dict[str, pd.DataFrame]:
    both = {
        "summary": fit.summary(),
        "fixef": fit.fixef(),
        "varcomp": fit.varcomp(),
        "ranef": fit.ranef(),
        "coef": fit.coef(),
        "contrast": fit.contrast({"Intercept": 1}),
        "marginal_means": fit.marginal_means("Machine"),
        "pairwise": fit.pairwise("Machine"),
        "predict": fit.predict(),
        "average_effects": fit.average_effects(),
        "average_contrasts": fit.average_contrasts(),
        "predictions": fit.predictions("Machine"),
        "comparisons": fit.comparisons("Machine"),
        "hypothesis": fit.hypothesis("Machine[B] = Machine[C]"),
        "variance_shares": fit.variance_shares(),
        "reliability": fit.reliability(),
        "implied_covariance": fit.implied_covariance(),
        "implied_correlation": fit.implied_correlation(),
    }
    if isinstance(fit, blm.LikelihoodFit):
        model = fit.model
        smaller = quietly("score ~ 1 + (1 | Worker)", dataset("machines")).ml()
        more = {
            "anova": fit.anova(),
            "vcov": fit.vcov,
            "simulate": fit.simulate(3, random_seed=1),
            "confint": fit.confint(method="wald"),
            "compare_models": blm.compare_models({"one": smaller, "other": model.ml()}),
            "likelihood_ratio_test": blm.likelihood_ratio_test(smaller, model.ml()),
        }
    else:
        more = {
            "predictive_check": fit.predictive_check(random_seed=1),
            "power_scaling": blm.power_scaling(fit),
            "compare_estimates": blm.compare_estimates(_fits()[0], fit),
            "r2": fit.r2(),
        }
    return both | more


@pytest.mark.parametrize("which", [0, 1], ids=["likelihood", "posterior"])
def test_every_table_of_a_fit_prints_all_its_columns_in_80_characters(which):
    for name, table in _tables(_fits()[which]).items():
        assert type(table) is Table, name
        lines = str(table).split("\n")
        assert max(map(len, lines)) <= 80, name
        words = str(table).split()
        for column in table.columns:
            for part in column if isinstance(column, tuple) else (column,):
                assert set(str(part).split()) <= set(words), (name, column)
        assert "..." not in words, name
        html = table._repr_html_()
        assert "..." not in html, name
        columns = range(table.shape[1])
        assert html.count("<td>") == min(len(table), 10 if len(table) > 60 else 60) * len(columns)


def test_every_method_that_gives_data_frames_gives_tables():
    for cls in (blm.LikelihoodFit, blm.PosteriorFit):
        for name in dir(cls):
            member = getattr(cls, name)
            annotated = str(getattr(member, "__annotations__", {}).get("return", ""))
            if not name.startswith("_") and "DataFrame" in annotated and "dict" not in annotated:
                assert hasattr(member, "__wrapped__"), name
                assert member.__doc__, name
                assert member.__name__ == name


def test_a_table_is_a_data_frame_with_all_digits():
    table = _fits()[0].fixef()
    plain = pd.DataFrame(table)
    assert type(plain) is pd.DataFrame
    assert f"{table.loc['Intercept', 'estimate']:.4g}" in str(table)
    assert table.loc["Intercept", "estimate"] != float(f"{table.loc['Intercept', 'estimate']:.4g}")
    np.testing.assert_array_equal(table.to_numpy(), plain.to_numpy())
    np.testing.assert_array_equal((2 * table).to_numpy(), 2 * plain.to_numpy())
    again = pickle.loads(pickle.dumps(table))
    assert type(again) is Table
    assert again.equals(table)
    assert table.to_string() == plain.to_string()
    assert table.to_csv() == plain.to_csv()


def test_a_table_keeps_its_attributes():
    assert _fits()[0].summary().attrs.keys() == {"missing"}


def test_numbers_print_by_what_they_are():
    table = Table(
        {
            "p": [2.156888e-87, 0.034567],
            "ess_bulk": [1234.56, np.nan],
            "r_hat": [1.00049, 1.1],
            "n": [3, 12],
            "aic": [1755.628, 12345.678],
            "estimate": [251.405104848, 123456.7],
        }
    )
    assert str(table).split("\n")[1].split()[1:] == ["<0.0001", "1235", "1.000", "3", "1755.63",
                                                     "251.4"]  # fmt: skip
    assert str(table).split("\n")[2].split()[1:] == ["0.0346", "-", "1.100", "12", "12345.68",
                                                     "123457"]  # fmt: skip


def test_a_rounded_table_prints_the_digits_that_were_asked_for():
    table = Table({"estimate": [251.405104848, 10.46], "p": [1e-9, 0.5]}, index=["a", "b"])
    plain = pd.DataFrame(table).round(2)
    assert str(table.round(2)).split() == str(plain).split()
    assert str(table.round(2)[["estimate"]]).split() == str(plain[["estimate"]]).split()


def test_long_tables_show_both_ends_and_their_number():
    table = Table({"group": ["g"] * 1200, "mean": np.arange(1200.0)})
    lines = str(table).split("\n")
    assert len(lines) == 14
    assert lines[6] == ".."
    assert lines[-1] == "[the first and last of 1,200 rows]"
    assert lines[5].split() == ["4", "g", "4"]
    assert lines[7].split() == ["1195", "g", "1195"]
    assert "1,200 rows" in table._repr_html_()
    assert len(format_table(table).split("\n")) == 1201


def test_long_labels_are_cut_in_the_middle_and_stand_in_every_block():
    names = ["a condition " * 12 + "first", "a condition " * 12 + "second"]
    table = Table({f"column {i}": [1.5, 2.5] for i in range(12)}, index=names)
    lines = str(table).split("\n")
    assert max(map(len, lines)) <= 80
    assert sum("first" in line for line in lines) == str(table).count("\n\n") + 1 > 1
    assert all(f"column {i}" in str(table) for i in range(12))


def test_tables_without_rows_name_their_columns():
    table = Table(columns=["group", "level", *(f"quantity {i}" for i in range(10))])
    assert "quantity 9" in str(table)
    assert max(map(len, str(table).split("\n"))) <= 80


def test_html_escapes_names():
    data = dataset("machines").rename(columns={"Worker": "<b>"})
    model = quietly("score ~ Machine + (1 | `<b>`)", data)
    for shown in (model, model.reml(), model.reml().varcomp()):
        html = shown._repr_html_()
        assert "&lt;b&gt;" in html
        assert "<b>" not in html
        assert "color" not in html


def test_models_and_fits_are_html_in_a_notebook():
    fit, post = _fits()
    for shown, tables in ((fit, 2), (post, 2), (fit.model, 1)):
        html = shown._repr_html_()
        assert html.count("<table") == tables
        assert "score ~ Machine + (1 | Worker)" in html
        assert "54" in html
    assert "HalfStudentT" in fit.model._repr_html_()
    assert "sigma" in post._repr_html_()


def test_warnings_of_a_table_name_the_line_of_the_call():
    data = dataset("machines").assign(twin=lambda d: (d["Machine"] == "B").astype(float))
    fit = quietly("score ~ Machine + twin + (1 | Worker)", data).reml()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit.marginal_means("Machine")
        fit.predict(data.head(3).assign(twin=5.0), random="population")
    assert len(caught) == 2
    assert {warning.filename for warning in caught} == {__file__}


def test_tables_that_are_parts_of_others_print_alike():
    fit = _fits()[0]
    assert isinstance(fit.model.check(), Table)
    assert {type(found) for found in fit.covariances.values()} == {Table}
    many = fit.refit_many(fit.simulate(2, random_seed=1))
    assert {type(many.coefficients), type(many.components)} == {Table}
    assert str(many).count("\n") == 1 + many.coefficients.shape[1] + many.components.shape[1]
