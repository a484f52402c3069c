"""ArviZ takes the tree of a posterior as it is."""

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.tree import log_likelihood
from tests.conftest import dataset, quietly

pytestmark = pytest.mark.filterwarnings("ignore:Estimated shape parameter")


def _pastes():
    return quietly("strength ~ 1 + (1 | batch)", dataset("pastes")).fit(
        method="importance", draws=250, random_seed=1
    )


def test_rows_of_the_summary_have_the_labels_of_their_draws(sleepstudy_posterior):
    table = az.summary(sleepstudy_posterior.idata, round_to="none")
    post = sleepstudy_posterior.posterior
    for subject in ("308", "309", "372"):
        for effect in ("Intercept", "Days"):
            mean = post["b_Subject"].sel(Subject=subject, Subject_effect=effect).mean()
            row = table.loc[f"b_Subject[{subject}, {effect}]"]
            np.testing.assert_allclose(row["mean"], mean, rtol=1e-10)
    assert [name for name in table.index if name.startswith("corr")] == [
        "corr_Subject[Intercept, Days]"
    ]
    assert np.isfinite(table["r_hat"]).all()
    assert (table["sd"] > 0).all()


def test_arviz_draws_and_compares_by_its_defaults(sleepstudy_posterior):
    fit = _pastes()
    for plot in (az.plot_trace, az.plot_dist, az.plot_forest):
        plot(fit.idata)
    for plot in (az.plot_trace, az.plot_dist):  # ArviZ draws no more than 40 panels
        plot(sleepstudy_posterior.idata, var_names="~b_Subject")
    az.plot_ppc_dist(sleepstudy_posterior.idata)
    az.plot_loo_pit(sleepstudy_posterior.idata)
    loo = az.loo(sleepstudy_posterior.idata)
    assert loo.elpd == pytest.approx(az.loo(sleepstudy_posterior.idata).elpd)
    table = az.compare({"one": sleepstudy_posterior.idata, "two": sleepstudy_posterior.idata})
    assert len(table) == 2
    sensitivity = az.psense_summary(sleepstudy_posterior.idata)
    plt.close("all")
    assert np.isfinite(sensitivity[["prior", "likelihood"]].to_numpy()).all()


def test_log_prior_is_that_of_the_parameters(sleepstudy_posterior):
    fit = sleepstudy_posterior
    found, post, priors = fit.idata["log_prior"], fit.posterior, fit.priors
    days = priors["Days"].parameters
    expected = stats.norm(days["mu"], days["sigma"]).logpdf(post["beta"].sel(coef="Days"))
    np.testing.assert_allclose(found["beta"].sel(coef="Days"), expected, rtol=1e-10)
    own = priors["sigma"].parameters
    expected = np.log(2) + stats.t(own["nu"], scale=own["sigma"]).logpdf(post["sigma"])
    np.testing.assert_allclose(found["sigma"], expected, rtol=1e-10)
    own = priors["sd(Days | Subject)"].parameters
    sd = post["sd_Subject"].sel(Subject_effect="Days")
    expected = np.log(2) + stats.t(own["nu"], scale=own["sigma"]).logpdf(sd)
    np.testing.assert_allclose(found["sd_Subject"].sel(Subject_effect="Days"), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("prior", "law"),
    [
        (blm.Prior("Gamma", alpha=2.0, beta=3.0), stats.gamma(2, scale=1 / 3)),
        (blm.Prior("LogNormal", mu=0.3, sigma=0.7), stats.lognorm(0.7, scale=np.exp(0.3))),
        (blm.Prior("Logistic", mu=0.3, s=0.7), stats.logistic(0.3, 0.7)),
        (blm.Prior("SkewNormal", mu=0.3, sigma=0.7, alpha=2), stats.skewnorm(2, 0.3, 0.7)),
        (blm.Prior("Laplace", mu=0.3, b=0.7), stats.laplace(0.3, 0.7)),
        (blm.Prior("Beta", alpha=2, beta=3), stats.beta(2, 3)),
        (blm.Prior("Uniform", lower=0.5, upper=2.5), stats.uniform(0.5, 2)),
    ],
)
def test_densities_of_priors_are_those_of_scipy(prior, law):
    from bayeslmm.parts.scales import log_densities

    x = np.array([-1.5, 0.2, 0.6, 0.9, 2.0, 4.0])
    np.testing.assert_allclose(log_densities(prior, x), law.logpdf(x), rtol=1e-10)


def test_the_log_likelihood_says_that_it_is_conditional(sleepstudy_posterior):
    fit = sleepstudy_posterior
    assert "conditional" in fit.idata["log_likelihood"].attrs["of"]
    assert "conditional" in log_likelihood(fit.model.design, fit.names, fit.posterior).attrs["of"]


def test_replications_that_nobody_asked_for_are_not_in_the_file(tmp_path):
    fit = _pastes()
    fit.idata["posterior_predictive"]
    fit.save(tmp_path / "fit.nc")
    import xarray as xr

    with xr.open_datatree(tmp_path / "fit.nc", engine="h5netcdf") as stored:
        assert "posterior_predictive" not in stored.children
        assert "log_prior" in stored.children
    again = blm.load(tmp_path / "fit.nc")
    assert again.idata.identical(fit.idata)
