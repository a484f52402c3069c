"""An MMRM of 1,000 patients and 10 visits: this package against nlme's gls, in one run.

    uv run python benchmarks/mmrm.py [patients] [visits]

Needs R with nlme for the second part. Both fit the same simulated data (unstructured covariance,
treatment by visit, monotone dropout) by REML.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import bayeslmm as blm

_R = """
suppressMessages(library(nlme))
d <- read.csv("{file}")
d$visit <- factor(d$visit); d$arm <- factor(d$arm)
d$number <- as.integer(d$visit)
seconds <- system.time(fit <- gls(y ~ base + arm * visit, d,
  corSymm(form = ~ number | patient), weights = varIdent(form = ~ 1 | visit),
  control = glsControl(maxIter = 500, msMaxIter = 500)))[["elapsed"]]
cat(sprintf("%.3f %.8f\\n", seconds, as.numeric(logLik(fit))))
"""


def simulate(patients: int, visits: int, seed: int = 1) -> pd.DataFrame:
    """A trial with two arms, a baseline, correlated visits and 20 % dropout."""
    rng = np.random.default_rng(seed)
    lag = np.abs(np.subtract.outer(np.arange(visits), np.arange(visits)))
    sd = np.linspace(8, 12, visits)
    root = np.linalg.cholesky(0.8**lag * np.outer(sd, sd))
    base = rng.normal(50, 10, patients)
    arm = rng.integers(0, 2, patients)
    y = 10 + 0.8 * base[:, None] + np.outer(arm, np.linspace(0, 4, visits))
    y += rng.standard_normal((patients, visits)) @ root.T
    stay = np.where(rng.random(patients) < 0.2, rng.integers(2, visits, patients), visits)
    frame = pd.DataFrame(
        {
            "patient": np.repeat(np.arange(patients), visits),
            "visit": np.tile(np.arange(1, visits + 1), patients).astype(str),
            "arm": np.repeat(np.where(arm, "drug", "placebo"), visits),
            "base": np.repeat(base, visits),
            "y": y.ravel(),
        }
    )
    frame["visit"] = pd.Categorical(frame["visit"], [str(v + 1) for v in range(visits)])
    return frame[np.tile(np.arange(visits), patients) < np.repeat(stay, visits)]


def timed(run):
    """Result and wall seconds."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def main() -> None:
    """Print one line per step."""
    patients, visits = (int(v) for v in (sys.argv[1:] + ["1000", "10"][len(sys.argv) - 1 :])[:2])
    data = simulate(patients, visits)
    blm.LMM(
        "y ~ base + arm * visit", simulate(30, 3), residual="unstructured(visit | patient)"
    ).reml()
    model, seconds = timed(
        lambda: blm.LMM("y ~ base + arm * visit", data, residual="unstructured(visit | patient)")
    )
    print(f"{patients} patients, {visits} visits, {len(data)} rows")
    print(f"design: {seconds:.2f} s")
    fit, seconds = timed(model.reml)
    print(
        f"REML: {seconds:.2f} s, {fit.n_evaluations} evaluations, log-likelihood {fit.loglik:.6f}"
    )
    for ddf in ("satterthwaite", "kenward-roger"):
        table, seconds = timed(lambda ddf=ddf: fit.fixef(ddf))
        last = table.iloc[-1]
        print(
            f"{ddf}: {seconds:.2f} s ({table.index[-1]}: df {last['df']:.1f}, se {last['se']:.4f})"
        )
    blm.LMM(
        "y ~ base + arm * visit", simulate(30, 3), residual="unstructured(visit | patient)"
    ).fit(draws=20, tune=20, random_seed=1, progressbar=False)
    start = time.process_time()
    post, seconds = timed(lambda: model.fit(random_seed=1, progressbar=False))
    ess = post.summary()["ess_bulk"].min()
    print(
        f"posterior, 4 x 1000 draws: {seconds:.2f} s, {time.process_time() - start:.2f} s of CPU "
        f"time, smallest bulk effective sample size {ess:.0f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trial.csv"
        data.to_csv(file, index=False)
        script = Path(folder) / "fit.R"
        script.write_text(_R.format(file=file))
        done = subprocess.run(["Rscript", str(script)], capture_output=True, text=True, check=False)
    print("nlme gls (seconds, log-likelihood):", done.stdout.strip() or done.stderr.strip()[-300:])


if __name__ == "__main__":
    main()
