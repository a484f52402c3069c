"""Joint densities: effective draws per second beside Bambi and plain PyMC, and seconds of ml().

Responses that are not Gaussian, Student-t residuals, and a horseshoe.

    uv run python benchmarks/responses.py                  # every model, both sides in one run
    uv run python benchmarks/responses.py cbpp epilepsy
    uv run python benchmarks/responses.py large            # 100,000 rows in 1,000 groups, slopes
    uv run python benchmarks/responses.py sleepstudy horseshoe   # Student-t; 200 rows, 50 columns

4 chains of 1000 draws. Every measurement is a process of its own; "cold" is its first fit, imports
and compilation included (caches on disk warm), "warm" the next one. The effective sample size is
the smallest bulk one over coefficients and standard deviations. Seconds are of the clock, "cpu"
those of all cores of the warm fit. Bambi runs in an environment of its own, with nutpie and with
PyMC's NUTS; its effects are not correlated. It has no horseshoe: that is a plain PyMC model,
non-centered, with the priors that bayeslmm has, in the same environment.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

MODELS = {
    "cbpp": ("p(incidence, size) ~ period + (1 | herd)", "binomial"),
    "epilepsy": ("y ~ lbase * trt + lage + V4 + (1 | subject)", "poisson"),
    "contraception": ("use ~ age + I(age**2) + urban + livch + (1 | district)", "bernoulli"),
    "grouseticks": (
        "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)",
        "poisson",
    ),
    "items": ("y ~ anger + mode + situation + (1 | person) + (1 | item)", "bernoulli"),
    "large": ("y ~ x + w + (x | g)", "bernoulli"),
    "sleepstudy": ("Reaction ~ Days + (Days | Subject)", "student"),
    "horseshoe": ("y ~ " + " + ".join(f"x{j}" for j in range(50)) + " + (1 | g)", "gaussian"),
}
#: Names that Bambi has for families.
BAMBI_FAMILIES = {"student": "t"}
#: Coefficients that are expected far from zero.
EXPECTED = 5
BAMBI = ("nutpie", "pymc")


def data(name: str):
    """The model's data frame."""
    import bayeslmm as blm

    if name == "items":
        return blm.simulate_item_responses(seed=1).data
    if name not in ("large", "horseshoe"):
        return blm.load_dataset(name)
    import numpy as np
    import pandas as pd

    if name == "horseshoe":
        rng, g = np.random.default_rng(0), np.arange(200) % 20
        frame = pd.DataFrame(rng.normal(size=(200, 50)), columns=[f"x{j}" for j in range(50)])
        beta = np.concatenate([[1.5, -1.2, 1.0, 0.8, -0.6], np.zeros(45)])
        noise = rng.normal(0, 0.7, 20)[g] + rng.normal(size=200)
        return frame.assign(y=1.0 + frame.to_numpy() @ beta + noise, g=g.astype(str))
    rng, J, rows = np.random.default_rng(0), 1000, 100
    g, x, w = np.repeat(np.arange(J), rows), rng.normal(size=J * rows), rng.normal(size=J)
    b = rng.multivariate_normal([0, 0], [[0.5, 0.1], [0.1, 0.2]], J)
    eta = -0.5 + 0.7 * x + 0.3 * w[g] + b[g, 0] + b[g, 1] * x
    y = (rng.random(J * rows) < 1 / (1 + np.exp(-eta))).astype(int)
    return pd.DataFrame({"y": y, "x": x, "w": w[g], "g": g.astype(str)})


def ours(name: str) -> dict:
    """Seconds, effective draws, and seconds of ml()."""
    start = time.perf_counter()
    import bayeslmm as blm

    formula, family = MODELS[name]
    frame, out = data(name), {}
    for when in ("cold", "warm"):
        if when == "warm":
            start = time.perf_counter()
        priors = {"beta": blm.horseshoe(expected=EXPECTED)} if name == "horseshoe" else None
        cpu = time.process_time()
        model = blm.MixedModel(formula, frame, family=family, priors=priors)
        post = model.fit(random_seed=1, progressbar=False)
        out[when], out["cpu"] = time.perf_counter() - start, time.process_time() - cpu
    table = post.summary()
    rows = [n for n in table.index if not n.startswith("corr")]
    out |= {"ess": float(table.loc[rows, "ess_bulk"].min()), "r_hat": float(table["r_hat"].max())}
    out["divergences"] = int(post.idata["sample_stats"]["diverging"].sum())
    if family not in ("gaussian", "student"):
        model.ml()
        start = time.process_time()
        blm.MixedModel(formula, frame, family=family).ml()
        out["ml cpu"] = time.process_time() - start
    out["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return out


def bambis(name: str, method: str, path: str) -> dict:
    """The same by Bambi."""
    import pandas as pd

    frame, out = pd.read_parquet(path), {}
    start = time.perf_counter()
    import arviz as az
    import bambi

    options = {"draws": 1000, "tune": 1000, "chains": 4, "random_seed": 1, "progressbar": False}
    formula, family = MODELS[name]
    for when in ("cold", "warm"):
        if when == "warm":
            start = time.perf_counter()
        cpu = _cpu()
        if name == "horseshoe":
            idata = _horseshoe(frame, method, options)
        else:
            model = bambi.Model(formula, frame, family=BAMBI_FAMILIES.get(family, family))
            idata = model.fit(inference_method=method, **options)
        out[when], out["cpu"] = time.perf_counter() - start, _cpu() - cpu
    names = [n for n in idata["posterior"].data_vars if "|" not in n or n.endswith("_sigma")]
    names = [n for n in names if n not in ("mu", "p", *PARTS)]
    out["divergences"] = int(idata["sample_stats"]["diverging"].sum())
    ess, r_hat = (f(idata, var_names=names) for f in (az.ess, az.rhat))
    ess, r_hat = (v.get("posterior", v) for v in (ess, r_hat))
    out["ess"] = float(min(ess[n].values.min() for n in names))
    out["r_hat"] = float(max(r_hat[n].values.max() for n in names))
    return out


def _cpu() -> float:
    """Seconds of this process, its threads, and the processes it has waited for."""
    who = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in who)


#: Of the plain model what is neither a coefficient nor a standard deviation.
PARTS = ("z", "b_z", "tau", "c2", "lambda")


def _horseshoe(frame, method: str, options: dict):
    """The regularized horseshoe (Piironen and Vehtari 2017, eq. 2.8) in non-centered form."""
    import numpy as np
    import pymc as pm

    X = frame[[f"x{j}" for j in range(50)]].to_numpy()
    spread, unit, y = X.std(axis=0, ddof=1), frame["y"].std(ddof=1), frame["y"].to_numpy()
    codes = frame["g"].astype(int).to_numpy()
    tau_0 = EXPECTED / (50 - EXPECTED) / np.sqrt(len(y))
    with pm.Model():
        sigma = pm.HalfStudentT("sigma", nu=3, sigma=unit)
        tau = pm.HalfCauchy("tau", beta=1.0)
        c2 = pm.InverseGamma("c2", alpha=2.0, beta=2.0 * (2.0 * unit) ** 2)
        local = pm.HalfCauchy("lambda", beta=1.0, shape=50)
        width = tau * tau_0 * sigma
        size = pm.math.sqrt(c2 * local**2 / (c2 + width**2 * local**2))
        beta = pm.Deterministic("beta", pm.Normal("z", shape=50) * width * size / spread)
        center = pm.Normal("Intercept", mu=y.mean(), sigma=2.5 * unit)
        sd = pm.HalfStudentT("sd", nu=3, sigma=unit)
        b = sd * pm.Normal("b_z", shape=20)
        mu = center + pm.math.dot(X - X.mean(axis=0), beta) + b[codes]
        pm.Normal("y", mu=mu, sigma=sigma, observed=y)
        return pm.sample(nuts_sampler=method, **options)


def measured(*arguments: str, other: bool = False) -> dict:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "worker", *arguments]
    if other:
        command = ["uv", "run", "--no-project", "--with", "bambi", "--with", "nutpie"]
        command += ["--with", "pyarrow", "python", __file__, "worker", *arguments]
    env = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | {"BAYESLMM_COMPILE": "now"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(names: list[str]) -> None:
    """Both sides of every model."""
    for name in names or [n for n in MODELS if n != "large"]:
        found = measured(name)
        rate = {k: found["ess"] / found[k] for k in ("cold", "warm") if k in found}
        print(name, "bayeslmm", json.dumps(found), json.dumps(rate), flush=True)
        if name == "large":
            continue
        with tempfile.TemporaryDirectory() as folder:
            path, frame = os.path.join(folder, "data.parquet"), data(name)
            for column in frame.select_dtypes("category"):
                frame[column] = frame[column].astype(str)
            frame.to_parquet(path)
            for method in BAMBI:
                other = measured(name, method, path, other=True)
                print(name, method, json.dumps(other), flush=True)
                for k in ("cold", "warm"):
                    if k in other and k in rate:
                        print(f"  {k}: {rate[k] / (other['ess'] / other[k]):.1f} times", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        one = ours(*sys.argv[2:]) if len(sys.argv) == 3 else bambis(*sys.argv[2:])
        print(json.dumps(one))
    else:
        main(sys.argv[1:])
