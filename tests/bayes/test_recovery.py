"""Known parameters are recovered, and intervals cover them at their rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm

TRUTH = {
    "Intercept": 5.0,
    "x": -1.5,
    "sd(Intercept | g)": 1.2,
    "sd(x | g)": 0.8,
    "corr(Intercept, x | g)": 0.6,
    "sigma": 1.0,
}
GROUPS, ROWS = 40, 8
REPLICATES = 60
LEVEL = 0.9


def _covariates() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    n = GROUPS * ROWS
    return pd.DataFrame({"x": rng.normal(size=n), "g": np.repeat(np.arange(GROUPS), ROWS)})


def _simulate(frame: pd.DataFrame, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    s0, s1 = TRUTH["sd(Intercept | g)"], TRUTH["sd(x | g)"]
    cov = TRUTH["corr(Intercept, x | g)"] * s0 * s1
    b = rng.multivariate_normal([0, 0], [[s0**2, cov], [cov, s1**2]], size=GROUPS)
    g, x = frame["g"].to_numpy(), frame["x"].to_numpy()
    mean = TRUTH["Intercept"] + b[g, 0] + (TRUTH["x"] + b[g, 1]) * x
    return mean + TRUTH["sigma"] * rng.normal(size=len(frame)), b


def _named(draws) -> dict[str, np.ndarray]:
    return {
        "Intercept": draws["beta"].sel(coef="Intercept"),
        "x": draws["beta"].sel(coef="x"),
        "sd(Intercept | g)": draws["sd_g"].sel(g_effect="Intercept"),
        "sd(x | g)": draws["sd_g"].sel(g_effect="x"),
        "corr(Intercept, x | g)": draws["corr_g"].sel(g_effect_pair="Intercept, x"),
        "sigma": draws["sigma"],
    }


@pytest.mark.slow
def test_noncentered_intervals_cover_the_truth_at_their_rate():
    import nutpie

    frame = _covariates()
    rng = np.random.default_rng(20261122)
    first, _ = _simulate(frame, rng)
    model = blm.LMM("y ~ x + (x | g)", frame.assign(y=first))
    # one compilation serves every replicate; the priors stay those of the first
    compiled = nutpie.compile_pymc_model(model.pymc_model(), freeze_model=False)
    tail = (1 - LEVEL) / 2
    hits = dict.fromkeys(TRUTH, 0)
    effects = 0
    for replicate in range(REPLICATES):
        y, b = _simulate(frame, rng)
        tree = nutpie.sample(
            compiled.with_data(**{model.names.data: y}),
            draws=400,
            tune=400,
            chains=2,
            cores=2,
            seed=replicate,
            progress_bar=False,
        )
        draws = tree["posterior"].to_dataset()
        for name, values in _named(draws).items():
            low, high = np.quantile(values, [tail, 1 - tail])
            hits[name] += int(low <= TRUTH[name] <= high)
        low, high = draws["b_g"].quantile([tail, 1 - tail], dim=("chain", "draw")).to_numpy()
        effects += ((low <= b) & (b <= high)).sum()
    # A right program covers 0.9 of 360 intervals with standard error 0.016; five of them,
    # and 0.02 for the pull of the priors. The 4,800 effects share little within a replicate.
    assert sum(hits.values()) / (len(TRUTH) * REPLICATES) == pytest.approx(LEVEL, abs=0.10)
    assert all(count > 0.65 * REPLICATES for count in hits.values()), hits
    assert effects / (REPLICATES * GROUPS * 2) == pytest.approx(LEVEL, abs=0.03)
