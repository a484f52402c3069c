"""Are the stated uncertainties right? Simulations from known truth, too slow for the tests.

    uv run python benchmarks/calibration.py [PART ...] [--sims N] [--seed S]

Parts (all by default):

bayes-factors   bayes_factor and savage_dickey in 2 x 2 designs with crossed subjects and items,
                both models equally likely before: the mean of BF01 where model 1 is true has to be
                1, and model probabilities right on average and on the log odds (z statistics).
kinship         simulation-based calibration with effects of related individuals.
families        simulation-based calibration of 0/1 and count responses, 12 groups of 8 rows and
                8 x 6 crossed ones.
shrinkage       simulation-based calibration of a horseshoe, of R2D2 and of a Student-t prior, six
                columns, 10 groups of 6 rows.
student         simulation-based calibration of Student-t residuals, 12 groups of 8 rows.
unknown         simulation-based calibration with a missing covariate (rows; groups, with a
                regression and sites), a covariate read with error, and missing 0/1 values: whole
                data sets are simulated, 12 groups of 6 rows.
intervals       coverage of 90 % bootstrap intervals of R2 and of the variance components.
trajectories    moments by trajectories of a surrogate against NUTS, in standard errors.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd

import bayeslmm as blm

PROPER = {
    "Intercept": blm.Prior("Normal", mu=0, sigma=1),
    "beta": blm.Prior("Normal", mu=0, sigma=0.6),
    "sd": blm.Prior("HalfNormal", sigma=0.5),
    "sigma": blm.Prior("HalfNormal", sigma=1),
}


def quietly(formula, data, **options) -> blm.LMM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return blm.LMM(formula, data, **options)


def bayes_factors(n: int, seed: int) -> None:
    subj, item = (v.ravel() for v in np.meshgrid(np.arange(10), np.arange(8)))
    cell = (subj + item) % 4
    A, B = np.where(cell < 2, 0.5, -0.5), np.where(cell % 2 == 0, 0.5, -0.5)
    data = pd.DataFrame({"A": A, "B": B, "AB": 2 * A * B, "subj": subj, "item": item})
    data["y"] = np.random.default_rng(0).standard_normal(len(data))
    random = " + (1 + A || subj) + (1 + A || item)"
    one = quietly("y ~ A + B + AB" + random, data, priors=PROPER)
    rows = []
    for sim in range(n):
        rng = np.random.default_rng([seed, sim])
        tested, present = ("A", "AB")[sim % 2], bool(rng.random() < 0.5)
        others = [name for name in ("A", "B", "AB") if name != tested]
        zero = quietly(f"y ~ {' + '.join(others)}" + random, data, priors=PROPER)
        y = rng.normal() + sum(
            rng.normal(0, 0.6) * data[c] * (present or c != tested) for c in ("A", "B", "AB")
        )
        y = y + abs(rng.normal()) * rng.standard_normal(len(data))
        for group in (subj, item):
            b = rng.standard_normal((group.max() + 1, 2)) * np.abs(rng.normal(0, 0.5, 2))
            y = y + b[group, 0] + b[group, 1] * A
        models = [model.with_response(np.asarray(y)) for model in (one, zero)]
        dickey = blm.savage_dickey(models[0], tested, curve=False, draws=1000, random_seed=sim)
        record = {"present": present, "savage_dickey": dickey.log_bf10}
        try:
            fits = [
                m.fit(method="importance", draws=250, random_seed=sim, progressbar=False)
                for m in models
            ]
        except blm.SamplingError:
            fits = [m.fit(draws=500, random_seed=sim, progressbar=False) for m in models]
        record["bayes_factor"] = blm.bayes_factor(*fits, random_seed=sim).log_bf10
        rows.append(record)
    table = pd.DataFrame(rows)
    for name in ("savage_dickey", "bayes_factor"):
        bf01 = np.exp(-table.loc[table["present"], name])
        p = np.clip(1 / (1 + np.exp(-table[name])), 1e-12, 1 - 1e-12)
        gap, variance = table["present"] - p, p * (1 - p)
        odds = np.clip(table[name], -6, 6)
        print(
            f"{name}: {n} data sets; mean BF01 under model 1 {bf01.mean():.3f} +- "
            f"{bf01.std() / np.sqrt(len(bf01)):.3f}; z of the probabilities "
            f"{gap.sum() / np.sqrt(variance.sum()):.2f}, of the log odds "
            f"{(gap * odds).sum() / np.sqrt((variance * odds**2).sum()):.2f}"
        )
    both = table["savage_dickey"] - table["bayes_factor"]
    print(f"difference of the two log Bayes factors: rms {np.sqrt((both**2).mean()):.3f}")


def kinship(n: int, seed: int) -> None:
    rng = np.random.default_rng(1)
    names = [f"a{i}" for i in range(30)]
    # even numbers are male
    parent = [
        [names[rng.integers(i // 2) * 2 + sex] if i > 7 else None for i in range(30)]
        for sex in (0, 1)
    ]
    pedigree = pd.DataFrame({"id": names, "sire": parent[0], "dam": parent[1]})
    A = blm.pedigree_relationship(pedigree)
    data = pd.DataFrame({"id": rng.choice(names, 60), "x": rng.normal(size=60)})
    data["y"] = rng.normal(size=60)
    for formula, options in (
        ("y ~ x + (1 | id)", {"relationship": {"id": A}}),
        ("y ~ x + (x | id)", {"relationship": {"id": A.to_frame()}}),
    ):
        model = quietly(formula, data, priors=PROPER, **options)
        found = blm.sbc(model, n, method="importance", random_seed=seed, progressbar=False)
        print(f"{formula}, related\n{found!r}")


def shrinkage(n: int, seed: int) -> None:
    rng = np.random.default_rng(5)
    data = pd.DataFrame(rng.normal(size=(60, 6)), columns=[f"x{j}" for j in range(6)])
    data = data.assign(g=np.arange(60) % 10, y=rng.normal(size=60))
    formula = f"y ~ {' + '.join(f'x{j}' for j in range(6))} + (1 | g)"
    for prior in (
        blm.horseshoe(expected=2),
        blm.r2d2(),
        blm.Prior("StudentT", nu=3, mu=0, sigma=0.5),
    ):
        model = quietly(formula, data, priors={**PROPER, "beta": prior})
        found = blm.sbc(model, n, method="nuts", random_seed=seed, progressbar=False)
        print(f"{prior!r}\n{found!r}")


def families(n: int, seed: int) -> None:
    rng = np.random.default_rng(4)
    grouped = pd.DataFrame({"a": np.repeat(np.arange(12), 8)})
    a, b = (v.ravel() for v in np.meshgrid(np.arange(8), np.arange(6)))
    designs = {
        "y ~ x + (1 | a)": grouped,
        "y ~ x + (1 | a) + (1 | b)": pd.DataFrame({"a": a, "b": b}),
    }
    priors = {
        "Intercept": blm.Prior("Normal", mu=0, sigma=1),
        "beta": blm.Prior("Normal", mu=0, sigma=1),
        "sd": blm.Prior("HalfNormal", sigma=1),
    }
    own = {"negativebinomial": {"alpha": blm.Prior("LogNormal", mu=1, sigma=0.7)}}
    for family in ("bernoulli", "poisson", "negativebinomial"):
        for formula, rows in designs.items():
            data = rows.assign(x=rng.normal(size=len(rows)), y=rng.integers(0, 2, len(rows)))
            model = blm.MixedModel(
                formula, data, family=family, priors=priors | own.get(family, {})
            )
            start = time.perf_counter()
            found = blm.sbc(model, n, random_seed=seed, progressbar=False)
            seconds = time.perf_counter() - start
            print(f"{family}, {formula}, {seconds:.0f} s\n{found!r}", flush=True)


def student(n: int, seed: int) -> None:
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 8)})
    data["x"], data["y"] = rng.normal(size=(2, 96))
    priors = PROPER | {"nu": blm.Prior("Gamma", alpha=2, beta=0.1)}
    model = quietly("y ~ x + (1 | g)", data, family="student", priors=priors)
    found = blm.sbc(model, n, random_seed=seed, progressbar=False)
    print(f"Student-t residuals\n{found!r}")


#: Formula, missing=, and what is simulated of x: regression on z, sites, error of readings.
UNKNOWN = {
    "missing in rows": ("y ~ x + (1 | g)", {"x": "~ z"}, "rows"),
    "missing in groups": ("y ~ x + (1 | g)", {"x": "~ z + (1 | site)"}, "groups"),
    "slopes on it": ("y ~ x + (x || g)", {"x": "~ z"}, "rows"),
    "measured": ("y ~ me(x, s) + (1 | g)", {"x": "~ z"}, "measured"),
    "0/1": ("y ~ x + (1 | g)", {"x": "~ z"}, "binary"),
}


def _simulated(kind: str, slopes: bool, rng: np.random.Generator):
    """Rows without a response, true values of x, and the parameters that both were drawn with."""
    g = np.repeat(np.arange(12), 6)
    true = {"mean(x)": rng.normal(), "x ~ z": rng.normal(0, 0.6)}
    unit = np.arange(12)[g] if kind == "groups" else np.arange(len(g))
    z = np.random.default_rng(9).normal(size=unit.max() + 1)[unit]
    units = np.unique(unit, return_index=True)[1]
    x = true["mean(x)"] + true["x ~ z"] * (z - z[units].mean())
    if kind == "binary":
        x = (rng.random(len(x)) < 1 / (1 + np.exp(-x))).astype(float)
    else:
        true["sd(x)"] = abs(rng.normal())
        x = x + true["sd(x)"] * rng.normal(size=len(g))[unit]
    site = g % 4
    if kind == "groups":
        true["sd(x ~ 1 | site)"] = abs(rng.normal(0, 0.5))
        x = x + true["sd(x ~ 1 | site)"] * rng.normal(size=4)[site]
    s = np.random.default_rng(8).uniform(0.3, 1.0, len(g))
    read = x + s * rng.normal(size=len(g))
    if kind != "measured":
        read = np.where(np.random.default_rng(7).random(unit.max() + 1)[unit] < 0.25, np.nan, x)
    own = {"Intercept": rng.normal(), "x": rng.normal(0, 0.6), "sigma": abs(rng.normal())}
    own |= {f"sd({e} | g)": abs(rng.normal(0, 0.5)) for e in ("Intercept", "x")[: 1 + slopes]}
    frame = pd.DataFrame({"x": read, "z": z, "s": s, "g": g, "site": site})
    return frame.assign(y=rng.normal(size=len(g))), x, true | own


def _response(true: dict, x: np.ndarray, g: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    y = true["Intercept"] + true["x"] * x + true["sigma"] * rng.normal(size=len(g))
    y = y + true["sd(Intercept | g)"] * rng.normal(size=12)[g]
    return y + true.get("sd(x | g)", 0.0) * rng.normal(size=12)[g] * x


def _draws(post, key: str) -> np.ndarray:
    base = "true_x" if "true_x_mean" in post.posterior else "missing_x"
    names = {
        "mean(x)": f"{base}_mean",
        "x ~ z": f"{base}_slope",
        "sd(x)": f"{base}_sd",
        "sd(x ~ 1 | site)": f"{base}_sd_site",
        "sigma": "sigma",
    }
    if key in names:
        return post.posterior[names[key]].to_numpy().ravel()
    name, at = (
        ("sd_g", key == "sd(x | g)") if key.startswith("sd(") else ("beta", key != "Intercept")
    )
    return post.posterior[name].to_numpy()[0, :, int(at)]


def unknown(n: int, seed: int) -> None:
    from scipy import stats

    half = {"sd(x)": 1.0, "sd(x ~ 1 | site)": 0.5}
    priors = PROPER | {key: blm.Prior("HalfNormal", sigma=s) for key, s in half.items()}
    priors |= {
        "mean(x)": blm.Prior("Normal", mu=0, sigma=1),
        "x ~ z": blm.Prior("Normal", mu=0, sigma=0.6),
    }
    for name, (formula, missing, kind) in UNKNOWN.items():
        rows = []
        for sim in range(n):
            rng = np.random.default_rng([seed, sim])
            slopes = "(x ||" in formula
            data, x, true = _simulated(kind, slopes, rng)
            while kind == "binary" and data["x"].nunique() < 2:  # a constant has no model
                data, x, true = _simulated(kind, slopes, rng)
            own = {key: p for key, p in priors.items() if key in (*true, *PROPER)}
            # the intercept's prior is about the means of the columns as they stand
            model = quietly(formula, data, missing=missing, priors=own)
            true["Intercept"] -= model.priors.combinations()[0, 1] * true["x"]
            data["y"] = _response(true, x, data["g"].to_numpy(), rng)
            model = quietly(formula, data, missing=missing, priors=own)
            post = model.fit(
                draws=396, chains=1, random_seed=int(rng.integers(2**31)), progressbar=False
            )
            rows.append({k: (_draws(post, k)[::4] < value).sum() for k, value in true.items()})
        found = pd.DataFrame(rows)
        p = {
            key: stats.chisquare(np.bincount(ranks // 10, minlength=10)).pvalue
            for key, ranks in found.items()
        }
        shown = ", ".join(f"{key} {value:.2g}" for key, value in p.items())
        print(f"{name}: p values of {n} ranks: {shown}", flush=True)


def intervals(n: int, seed: int) -> None:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(20), 5)
    data = pd.DataFrame({"g": g, "x": rng.normal(size=100)})
    beta, sd, sigma = 0.5, 0.8, 1.0
    fixed = beta**2 * data["x"].var()
    total = fixed + sd**2 + sigma**2
    true = {
        "marginal": fixed / total,
        "conditional": (fixed + sd**2) / total,
        "x": beta,
        "sd(Intercept | g)": sd,
        "sigma": sigma,
    }
    model = quietly("y ~ x + (1 | g)", data.assign(y=rng.normal(size=100)))
    covered = []
    for sim in range(n):
        rng = np.random.default_rng([seed, sim])
        y = beta * data["x"] + (sd * rng.standard_normal(20))[g] + sigma * rng.standard_normal(100)
        fit = model.with_response(y.to_numpy()).reml()
        options = {"n_sims": 199, "level": 0.9, "random_seed": sim, "progressbar": False}
        table = pd.concat([fit.r2(**options), fit.confint("bootstrap", **options)])
        inside = {
            name: table.loc[name, "lower"] <= value <= table.loc[name, "upper"]
            for name, value in true.items()
        }
        covered.append(inside)
    share = pd.DataFrame(covered).mean()
    print(f"Coverage of 90 % bootstrap intervals in {n} data sets (standard error "
          f"{np.sqrt(0.09 / n):.3f})\n{share.round(3).to_string()}")  # fmt: skip


def trajectories(n: int, seed: int) -> None:
    """n is the number of designs."""
    import arviz as az

    shapes = ((45, 40), (60, 30), (80, 25), (30, 60), (50, 50), (100, 20))
    for k, (subjects, items) in enumerate(shapes[:n]):
        rng = np.random.default_rng([seed, k])
        cells = np.argwhere(rng.random((subjects, items)) < 0.5)
        s, i = cells.T
        x = rng.normal(size=len(cells))
        y = 1 + rng.normal(size=subjects)[s] + 0.5 * rng.normal(size=items)[i] + 0.3 * x
        y = y + 0.4 * rng.normal(size=subjects)[s] * x + rng.normal(size=len(x))
        frame = pd.DataFrame({"y": y, "x": x, "s": s, "i": i})
        model = quietly("y ~ x + (x | s) + (x | i)", frame)
        options = {"draws": 500, "random_seed": k, "progressbar": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pair = [model.fit(**options), model.fit(target_accept=0.8, **options)]
        largest = 0.0
        names = ["beta", "sigma", *(f.sd for f in model.names.factors)]
        for name in names:
            one, two = (fit.posterior[name] for fit in pair)
            error = np.hypot(*(az.mcse(fit.posterior[[name]])[name].to_numpy() for fit in pair))
            gap = one.mean(("chain", "draw")).to_numpy() - two.mean(("chain", "draw")).to_numpy()
            largest = max(largest, float(np.abs(gap / error).max()))
        print(f"{subjects} x {items}, {len(x)} rows: {pair[0].info.sampler} against "
              f"{pair[1].info.sampler}: largest |z| of a mean {largest:.2f}")  # fmt: skip


PARTS = {
    "bayes-factors": (bayes_factors, 300),
    "kinship": (kinship, 200),
    "shrinkage": (shrinkage, 300),
    "families": (families, 500),
    "student": (student, 300),
    "unknown": (unknown, 300),
    "intervals": (intervals, 200),
    "trajectories": (trajectories, 6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--sims", type=int)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name in given.parts or PARTS:
        run, size = PARTS[name]
        start = time.perf_counter()
        print(f"== {name}", flush=True)
        run(given.sims or size, given.seed)
        print(f"   {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
