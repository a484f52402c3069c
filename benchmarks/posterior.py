"""Posterior sampling, bayeslmm against Bambi: seconds from model to draws, ESS, memory.

    uv run python benchmarks/posterior.py run --models sleepstudy penicillin
    uv run python benchmarks/posterior.py evaluation   # cost of one density evaluation by rows
    uv run python benchmarks/posterior.py shell        # a fit from the command line
    uv run python benchmarks/posterior.py table        # writes docs/benchmarks.md

Every measurement is a process of its own: the first fit in it is "cold" (imports and compilation
included, caches on disk warm); "warm" is the median of up to seven more, which are stopped after
five seconds. Bambi runs in an environment of its own, because
it needs another formulae. Results are added to ``benchmarks/posterior.json``, so that models can
be run one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "posterior.json"
TABLE = HERE.parent / "docs" / "benchmarks.md"
#: What is written by hand begins with this heading, and stays.
BY_HAND = "## The first seconds, and small models"

MODELS = {
    "sleepstudy": "Reaction ~ Days + (Days | Subject)",
    "penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
    "mathachieve": "MathAch ~ SES + (SES | School)",
    "chem97": "score ~ gcsecnt + (gcsecnt | school)",
    "insteval": "y ~ service + (1 | s) + (1 | d) + (1 | dept)",
    "rows-10000": "y ~ x + (x | g)",
    "rows-100000": "y ~ x + (x | g)",
    "rows-1000000": "y ~ x + (x | g)",
}
OURS = ("marginal", "importance", "noncentered")
BAMBI = ("bambi-pymc", "bambi-nutpie")
DRAWS, CHAINS = 1000, 4


def data(model: str):
    """The model's data frame; simulated ones have 1,000 groups whatever the rows."""
    import bayeslmm as blm

    if not model.startswith("rows-"):
        return blm.load_dataset(model)
    import numpy as np
    import pandas as pd

    n = int(model.removeprefix("rows-"))
    rng = np.random.default_rng(1)
    g = rng.permutation(np.arange(n) % 1000)
    b = rng.normal(size=(1000, 2)) * (1.0, 0.5)
    x = rng.normal(size=n)
    y = 1 + b[g, 0] + (2 + b[g, 1]) * x + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "g": g})


def _worker_ours(model: str, method: str) -> dict:
    frame = data(model)
    start = time.perf_counter()
    import bayeslmm as blm

    options = {"method": "importance"} if method == "importance" else {"parameterization": method}
    out, warm = {}, []
    while _again(out, warm):
        if out:
            start = time.perf_counter()
        fit = blm.LMM(MODELS[model], frame).fit(
            draws=DRAWS, chains=CHAINS, random_seed=1, progressbar=False, **options
        )
        _keep(out, warm, time.perf_counter() - start)
        table = fit.summary()
        out["ess"] = float(table["ess_bulk"].min())
        if fit.info.effective_draws is not None:
            out["ess"] = min(out["ess"], fit.info.effective_draws)
        out["r_hat"] = float(table["r_hat"].max())
        out["k_hat"] = fit.info.k_hat
    out["versions"] = {n: _version(n) for n in ("bayeslmm", "nutpie", "numba", "numpy", "pymc")}
    return out


def evaluation(rows: list[int]) -> None:
    """Microseconds per value and per value with gradient, same 1,000 groups, by rows."""
    import numpy as np

    import bayeslmm as blm
    from bayeslmm.bayes.marginal import marginal_density

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    prepared = {}
    for n in rows:
        model = blm.LMM("y ~ x + (x | g)", data(f"rows-{n}"))
        density = marginal_density(model.design, model.priors, model.problem)
        prepared[n] = density, np.tile(density.starting_points((0.5,))[0], (100, 1))
        del model
    best = {n: [np.inf, np.inf] for n in rows}
    for _ in range(50):  # interleaved: whatever else runs on the machine hits all sizes alike
        for n, (density, points) in prepared.items():
            start = time.perf_counter()
            density.values(points)
            middle = time.perf_counter()
            for x in points:
                density(x)
            end = time.perf_counter()
            best[n] = [min(best[n][0], middle - start), min(best[n][1], end - middle)]
    found = {str(n): [1e6 * t / 100 for t in pair] for n, pair in best.items()}
    print(json.dumps(found))
    results["evaluation"] = found
    RESULTS.write_text(json.dumps(results, indent=1))


def shell() -> None:
    """Seconds of a fit from the command line in a new process, the smallest of five."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    command = [str(Path(sys.executable).parent / "bayeslmm"), "fit", "sleepstudy"]
    command.append(MODELS["sleepstudy"])
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, env=_environment())
        times.append(time.perf_counter() - start)
    print(times)
    results["shell"] = {"seconds": min(times)}
    RESULTS.write_text(json.dumps(results, indent=1))


def _worker_bambi(model: str, method: str, path: str) -> dict:
    import pandas as pd

    frame = pd.read_parquet(path)
    start = time.perf_counter()
    import arviz as az
    import bambi
    import numpy as np

    out, warm = {}, []
    while _again(out, warm):
        if out:
            start = time.perf_counter()
        fitted = bambi.Model(MODELS[model], frame)
        idata = fitted.fit(
            draws=DRAWS,
            tune=1000,
            chains=CHAINS,
            random_seed=1,
            progressbar=False,
            **({"inference_method": "nutpie"} if method == "bambi-nutpie" else {}),
        )
        _keep(out, warm, time.perf_counter() - start)
        posterior = idata["posterior"]
        names = [n for n in posterior.data_vars if "|" not in n or n.endswith("_sigma")]
        names = [n for n in names if n != "mu"]
        ess, r_hat = (f(idata, var_names=names) for f in (az.ess, az.rhat))
        ess, r_hat = (v.get("posterior", v) for v in (ess, r_hat))
        out["ess"] = float(min(np.min(ess[n].values) for n in names))
        out["r_hat"] = float(max(np.max(r_hat[n].values) for n in names))
    out["versions"] = {n: _version(n) for n in ("bambi", "pymc", "nutpie")}
    return out


def _again(out: dict, warm: list[float]) -> bool:
    """Whether to fit once more: a cold fit, then warm ones for five seconds, at most seven."""
    return not out or not warm or (sum(warm) < 5.0 and len(warm) < 7)


def _keep(out: dict, warm: list[float], seconds: float) -> None:
    """The first fit is the cold one; of the warm ones the median counts."""
    if "cold_seconds" not in out:
        out["cold_seconds"] = seconds
        return
    warm.append(seconds)
    out["warm_seconds"] = statistics.median(warm)


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _measure(model: str, method: str, timeout: float) -> dict:
    if method in OURS:
        command = [sys.executable, __file__, "worker", model, method]
        return _run(command, timeout)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "data.parquet")
        frame = data(model)
        for column in frame.select_dtypes("category"):  # Bambi reads text or categories alike
            frame[column] = frame[column].astype(str)
        frame.to_parquet(path)
        command = ["uv", "run", "--no-project", "--with", "bambi", "--with", "nutpie"]
        command += ["--with", "pyarrow", "python", __file__, "worker", model, method, path]
        return _run(command, timeout)


def _environment() -> dict[str, str]:
    """Compiled Python files may be written: without them every start compiles all imports."""
    without = ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if k not in without}
    return {**kept, "BAYESLMM_COMPILE": "now"}


def _run(command: list[str], timeout: float) -> dict:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=_environment(),
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {timeout:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(models: list[str], methods: list[str], timeout: float) -> None:
    """Measure and add to the results."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for model in models:
        for method in methods:
            found = _measure(model, method, timeout)
            results.setdefault(model, {})[method] = found
            print(model, method, json.dumps(found), flush=True)
            RESULTS.write_text(json.dumps(results, indent=1))


def table() -> None:
    """Write the results as a page of the documentation."""
    results = json.loads(RESULTS.read_text())
    lines = [
        "# Benchmarks: time to a posterior",
        "",
        f"{CHAINS} chains of {DRAWS} draws. Seconds run from the formula and a data frame in",
        "memory to draws with their diagnostics; cold is the first fit of a process, imports and",
        "compilation included (compiled code already cached on disk), warm the median of up to",
        "seven later ones. ESS is the",
        "smallest bulk effective sample size over coefficients, standard deviations, correlations",
        "and sigma, for importance sampling at most 1 / sum of squared weights. Bambi has no",
        "correlated slopes: it fits fewer parameters there. Each has its own default priors.",
        "Other work ran on the machine at the time: ratios hold better than seconds.",
        "",
        f"Machine: {platform.machine()}, {os.cpu_count()} processors, Python "
        f"{platform.python_version()}. {_versions(results)}",
        "Remake with `benchmarks/posterior.py`.",
        "",
        "| model | method | cold s | warm s | ESS | ESS/s warm | r-hat | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for method in (*OURS, *BAMBI):
            row = results.get(model, {}).get(method)
            if row is None:
                continue
            if "failed" in row:
                lines.append(f"| {model} | {method} | {row['failed']} | | | | | |")
                continue
            rate = row["ess"] / row["warm_seconds"]
            lines.append(
                f"| {model} | {method} | {row['cold_seconds']:.1f} | {row['warm_seconds']:.2f} | "
                f"{row['ess']:.0f} | {rate:.3g} | {row['r_hat']:.3f} | {row['peak_mb']:.0f} |"
            )
    if found := results.get("evaluation"):
        lines += [
            "",
            "## One evaluation of the marginal density",
            "",
            "`y ~ x + (x | g)`, the same 1,000 groups whatever the rows; microseconds, the",
            "smallest of 50 interleaved rounds, the gradient's with the call from Python.",
            "",
            "| rows | value | value and gradient |",
            "|---|---|---|",
            *(f"| {int(n):,} | {v:.1f} | {g:.1f} |" for n, (v, g) in found.items()),
        ]
    if found := results.get("shell"):
        lines += [
            "",
            "`bayeslmm fit sleepstudy ...` in a new process, imports and tables included, compiled",
            f"code cached on disk: {found['seconds']:.1f} s.",
        ]
    _, by_hand, rest = TABLE.read_text().partition(BY_HAND)
    TABLE.write_text("\n".join(lines) + f"\n\n{by_hand}{rest}")


def _versions(results: dict) -> str:
    found: dict[str, dict] = {"ours": {}, "Bambi's environment": {}}
    for model in MODELS:
        for method, row in results.get(model, {}).items():
            found["ours" if method in OURS else "Bambi's environment"] |= row.get("versions", {})
    parts = [f"{k}: " + ", ".join(f"{n} {v}" for n, v in d.items()) for k, d in found.items() if d]
    return "Versions, " + "; ".join(parts) + "."


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="measure")
    running.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    running.add_argument("--methods", nargs="+", choices=OURS + BAMBI, default=OURS + BAMBI)
    running.add_argument("--timeout", type=float, default=1800.0, help="seconds per process")
    commands.add_parser("table", help="write docs/benchmarks.md")
    commands.add_parser("shell", help="time a fit from the command line")
    sizes = commands.add_parser("evaluation", help="time one density evaluation")
    sizes.add_argument("--rows", nargs="+", type=int, default=[10**k for k in (4, 5, 6, 7)])
    worker = commands.add_parser("worker")
    worker.add_argument("arguments", nargs="+")
    given = parser.parse_args()
    if given.command == "run":
        run(given.models, given.methods, given.timeout)
    elif given.command == "evaluation":
        evaluation(given.rows)
    elif given.command == "shell":
        shell()
    elif given.command == "table":
        table()
    else:
        model, method, *rest = given.arguments
        one = _worker_ours(model, method) if method in OURS else _worker_bambi(model, method, *rest)
        one["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(one))


if __name__ == "__main__":
    main()
