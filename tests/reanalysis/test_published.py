"""A published estimate alone: closed form for normals, quadrature for t."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

import bayeslmm as blm


def test_normal_with_normal_is_the_closed_form():
    prior = {"mine": blm.Prior("Normal", mu=1.0, sigma=2.0)}
    result = blm.reanalyze_estimate(3.0, se=1.5, priors=prior, mcid=2, rope=0.5)
    precision = 1 / 1.5**2 + 1 / 4
    mean, sd = (3.0 / 1.5**2 + 1 / 4) / precision, precision**-0.5
    exact, row = stats.norm(mean, sd), result.table.loc["mine"]
    assert row["estimate"] == pytest.approx(mean, rel=1e-12)
    assert row["sd"] == pytest.approx(sd, rel=1e-12)
    assert [row["lower"], row["upper"]] == pytest.approx(exact.interval(0.95), rel=1e-7)
    assert row["p_benefit"] == pytest.approx(exact.sf(0), rel=1e-12)
    assert row["p_mcid"] == pytest.approx(exact.sf(2), rel=1e-12)
    assert row["p_rope"] == pytest.approx(exact.cdf(0.5) - exact.cdf(-0.5), rel=1e-10)
    bf = stats.norm(1.0, np.hypot(1.5, 2.0)).pdf(3.0) / stats.norm(0, 1.5).pdf(3.0)
    assert row["bf10"] == pytest.approx(bf, rel=1e-12)


def test_a_ratio_is_analyzed_on_its_log():
    result = blm.reanalyze_estimate(
        0.8, interval=(0.64, 1.0), scale="ratio", direction="lower is better", mcid=0.9,
        rope=1.05, priors={"p": blm.Prior("Normal", mu=0, sigma=0.355)},
    )  # fmt: skip
    se = np.log(1.0 / 0.64) / (2 * stats.norm.ppf(0.975))
    precision = 1 / se**2 + 1 / 0.355**2
    exact = stats.norm(np.log(0.8) / se**2 / precision, precision**-0.5)
    row = result.table.loc["p"]
    assert row["estimate"] == pytest.approx(np.exp(exact.mean()))
    assert [row["lower"], row["upper"]] == pytest.approx(np.exp(exact.interval(0.95)))
    assert row["p_benefit"] == pytest.approx(exact.cdf(0))
    assert row["p_mcid"] == pytest.approx(exact.cdf(np.log(0.9)))
    inside = exact.cdf(np.log(1.05)) - exact.cdf(-np.log(1.05))
    assert row["p_rope"] == pytest.approx(inside)
    published = result.table.loc["as published"]
    assert [published["lower"], published["upper"]] == pytest.approx([0.64, 1.0], abs=1e-3)


def test_the_neutral_priors_of_a_ratio_are_those_published():
    priors = blm.reanalyze_estimate(0.8, se=0.1, scale="ratio").priors
    sds = [priors[f"sceptical, {s}"].parameters["sigma"] for s in ("weak", "moderate", "strong")]
    assert sds == [5.0, 0.355, 0.205]
    strong = stats.norm(0, 0.205)
    assert strong.cdf(np.log(1.5)) - strong.cdf(-np.log(1.5)) == pytest.approx(0.95, abs=0.003)
    moderate = stats.norm(0, 0.355)
    assert moderate.cdf(np.log(2)) - moderate.cdf(-np.log(2)) == pytest.approx(0.95, abs=0.003)


@pytest.mark.parametrize("df", [1.5, 4, 30, 500])
@pytest.mark.parametrize("estimate", [0.3, 4.0, -11.0])
@pytest.mark.parametrize(
    ("prior", "frozen"),
    [
        (blm.Prior("Normal", mu=0.5, sigma=1.2), stats.norm(0.5, 1.2)),
        (blm.Prior("StudentT", nu=3, mu=0, sigma=2), stats.t(3, 0, 2)),
    ],
)
def test_a_t_likelihood_is_integrated_to_what_quadrature_gives(df, estimate, prior, frozen):
    posterior = blm.reanalyze_estimate(estimate, se=0.9, df=df, priors={"p": prior}, mcid=1)
    row, like = posterior.table.loc["p"], stats.t(df, estimate, 0.9)

    def integral(f):
        points = np.unique([-60, -15, estimate - 3, 0.0, 0.5, estimate, estimate + 3, 15, 60.0])
        parts = zip(points[:-1], points[1:], strict=True)
        return sum(
            integrate.quad(lambda e: f(e) * like.pdf(e) * frozen.pdf(e), a, b, epsabs=1e-14)[0]
            for a, b in parts
        )

    total = integral(lambda e: 1.0)
    mean = integral(lambda e: e) / total
    assert row["estimate"] == pytest.approx(mean, rel=2e-3, abs=2e-3)
    benefit = integral(lambda e: float(e > 0)) / total
    assert row["p_benefit"] == pytest.approx(benefit, rel=2e-3, abs=2e-4)
    assert row["bf10"] == pytest.approx(total / like.pdf(0.0), rel=2e-3)


def test_the_interval_of_a_t_estimate_gives_back_its_standard_error():
    half = stats.t(7).ppf(0.95) * 0.4
    result = blm.reanalyze_estimate(2.0, interval=(2 - half, 2 + half), interval_level=0.9, df=7)
    assert result.table.loc["as published", "sd"] == pytest.approx(0.4)
    assert result.table.loc["as published", "p"] == pytest.approx(2 * stats.t(7).sf(5.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimate": 1.0}, "either se or interval"),
        ({"estimate": 1.0, "se": 1.0, "interval": (0, 2)}, "either se or interval"),
        ({"estimate": 1.0, "se": -1.0}, "se must be positive"),
        ({"estimate": 1.0, "interval": (2, 3)}, "does not contain"),
        ({"estimate": 0.8, "interval": (0.4, 1.6)}, 'scale="ratio"'),
        ({"estimate": -0.8, "se": 0.1, "scale": "ratio"}, "A ratio is positive"),
        ({"estimate": 0.8, "se": 0.1, "scale": "log"}, "scale must be"),
        ({"estimate": "x", "se": 0.1}, "estimate must be a number"),
        ({"estimate": 1.0, "se": 0.1, "df": 0}, "df must be positive"),
        ({"estimate": 0.8, "se": 0.1, "scale": "ratio", "mcid": 1}, "1 means no difference"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message.replace('"', '"')):
        blm.reanalyze_estimate(**arguments)
