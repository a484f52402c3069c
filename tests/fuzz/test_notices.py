"""The checks of random designs can fail: planted faults are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.fits.likelihood import LikelihoodFit
from bayeslmm.gaussian import profiled_criterion, single_threaded_blas
from tests.fuzz import likelihood_checks, posterior_checks
from tests.fuzz.cases import FixedTerm, draw_case
from tests.fuzz.likelihood_checks import check_fit, check_said
from tests.fuzz.transforms import say_otherwise

#: y ~ 1 + u + year + offset(o) + (1 | g), 41 rows
SEED = 4


def _violations(case, reml=True):
    with single_threaded_blas():
        return check_fit(case, reml, starts=2, rng=np.random.default_rng(1)).violations


def test_a_right_fit_has_no_violations():
    assert _violations(draw_case(SEED)) == []
    assert _violations(draw_case(SEED), reml=False) == []


def test_a_column_read_wrongly_is_noticed():
    case = draw_case(SEED)
    term = FixedTerm(case.fixed[0].text, lambda rows: rows["u"].to_numpy() ** 1.001)
    assert any("column space" in text for text in _violations(replace(case, fixed=(term,))))


@pytest.mark.parametrize("relative", [1e-3, -1e-3])
def test_an_optimum_missed_by_a_little_is_noticed(monkeypatch, relative):
    def off(case, reml):
        fit = likelihood_checks_fit(case, reml)
        return LikelihoodFit(fit.model, fit._engine, moved(fit), reml=reml)

    def moved(fit):
        theta = fit.theta * (1 + 20 * relative)
        value = float(profiled_criterion(fit._problem, theta, fit.reml))
        return replace(fit.optimum, theta=theta, criterion=value)

    likelihood_checks_fit = likelihood_checks.fit_case
    monkeypatch.setattr(likelihood_checks, "fit_case", off)
    assert [text.partition(":")[0] for text in _violations(draw_case(SEED))] == ["optimum"]


def test_numbers_that_change_with_the_units_are_noticed():
    case, rng = draw_case(SEED), np.random.default_rng(3)
    said = say_otherwise(case, "response", rng)
    wrong = replace(said.case, data=said.case.data.assign(o=case.data["o"]))
    with single_threaded_blas():
        first = check_fit(case, True, starts=0, rng=rng)
        assert check_said(first, said, True) == []
        assert check_said(first, replace(said, case=wrong), True)


def test_a_prior_that_changes_by_a_hundredth_is_noticed(monkeypatch):
    case, rng = draw_case(SEED), np.random.default_rng(3)
    said = say_otherwise(case, "units", rng)
    original = posterior_checks.prior_model

    def changed(some):
        model = original(some)
        if some is said.case:
            prior = model.priors["u"]
            model.priors["u"] = blm.Prior("Normal", mu=0, sigma=1.01 * prior.parameters["sigma"])
        return model

    with single_threaded_blas():
        assert posterior_checks.check_densities(case, said, rng) == []
        assert posterior_checks.check_draws(case, said, 1) == []
        monkeypatch.setattr(posterior_checks, "prior_model", changed)
        found = posterior_checks.check_densities(case, said, rng)
    assert found
    assert all("log posterior density differs" in text for text in found)
