"""Covariates with unknown values: the compiled joint density beside PyMC's NUTS of the same model.

    uv run python benchmarks/unknowns.py [DESIGN ...]

Both sides in one process, one after the other, 4 chains of 1000 draws (PyMC: 2,000 of warm-up,
target_accept 0.95): seconds of the clock and of all cores, of the second fit of each ("warm"), the
smallest bulk effective sample size over all variables, divergences, and the largest difference of
posterior means and standard deviations in Monte Carlo standard errors.
"""

from __future__ import annotations

import sys
import time
import warnings

import arviz as az
import numpy as np
import pandas as pd

import bayeslmm as blm

DESIGNS = {
    "missing": ("y ~ x * f + (1 | g)", "model"),
    "groups": ("y ~ age + x + (x | g)", {"age": "~ f + (1 | site)", "x": "~ z"}),
    "measured": ("y ~ me(x, s) + z + (1 | g)", {"x": "~ z"}),
}


def data() -> pd.DataFrame:
    """200 rows in 25 groups at 5 sites; a fifth of x is missing, and a fifth of the ages."""
    rng = np.random.default_rng(6)
    g = np.repeat(np.arange(25), 8)
    site, n = g % 5, len(g)
    z, f = rng.normal(size=n), rng.choice(["a", "b"], 25)[g]
    x = 0.5 * z + rng.normal(size=n)
    age = 50 + 5 * (f == "b") + rng.normal(0, 4, 5)[site] + rng.normal(0, 8, 25)[g]
    b = rng.multivariate_normal([0, 0], [[0.5, 0.1], [0.1, 0.1]], 25)[g]
    y = 1 + 0.8 * x + 0.05 * age + 0.3 * z + b[:, 0] + b[:, 1] * x + rng.normal(0, 0.7, n)
    s = rng.uniform(0.3, 0.8, n)
    missing = rng.random(n) < 0.2
    return pd.DataFrame(
        {
            "y": y,
            "x": np.where(missing, np.nan, x),
            "z": z,
            "f": f,
            "age": np.where(np.isin(g, [3, 8, 11, 17, 20]), np.nan, age),
            "s": s,
            "w": x + s * rng.normal(size=n),
            "g": g.astype(str),
            "site": site.astype(str),
        }
    )


def timed(model: blm.LMM, **options):
    """The second of two fits, its seconds of the clock and of all cores."""
    for _ in range(2):
        start, cpu = time.perf_counter(), time.process_time()
        fit = model.fit(random_seed=1, progressbar=False, **options)
    return fit, time.perf_counter() - start, time.process_time() - cpu


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    frame = data()
    for name in names or DESIGNS:
        formula, missing = DESIGNS[name]
        own = frame.assign(x=frame["w"]) if name == "measured" else frame
        model = blm.LMM(formula, own, missing=missing)
        fits = {
            "joint": timed(model),
            "pymc": timed(model, parameterization="noncentered", tune=2000, target_accept=0.95),
        }
        moments = {}
        for side, (fit, wall, cpu) in fits.items():
            posterior = fit.idata["posterior"].to_dataset()
            ess = az.ess(posterior)
            smallest = min(float(np.nanmin(ess[v].to_numpy())) for v in ess.data_vars)
            divergent = int(fit.idata["sample_stats"]["diverging"].sum())
            print(
                f"{name} {side}: {wall:.2f} s, {cpu:.2f} cpu s, smallest ess {smallest:.0f}, "
                f"{divergent} divergences",
                flush=True,
            )
            errors = [az.mcse(posterior, method=method) for method in ("mean", "sd")]
            moments[side] = {
                v: [
                    (posterior[v].mean(("chain", "draw")).to_numpy(), errors[0][v].to_numpy()),
                    (posterior[v].std(("chain", "draw")).to_numpy(), errors[1][v].to_numpy()),
                ]
                for v in posterior.data_vars
                if not v.startswith("corr")
            }
        largest, count = [0.0, 0.0], 0
        for v, own in moments["joint"].items():
            count += own[0][0].size
            for k, (one, other) in enumerate(zip(own, moments["pymc"][v], strict=True)):
                z = np.abs(one[0] - other[0]) / np.hypot(one[1], other[1])
                largest[k] = max(largest[k], z.max())
        print(
            f"{name}: largest difference of {count} means {largest[0]:.2f}, of standard deviations "
            f"{largest[1]:.2f} standard errors; cpu {fits['pymc'][2] / fits['joint'][2]:.0f} times",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
