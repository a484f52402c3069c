"""Cost against size: the pass over the data, one evaluation, the REML fit, the whole posterior.

Run by hand:

    uv run python benchmarks/scale.py run --rows 1e5 1e6 1e7 --groups 1e3 1e4 1e5 --json out.json
    uv run python benchmarks/scale.py pass --rows 1e8 --groups 1e4 --files 50
    uv run python benchmarks/scale.py crossed --rows 1e6 --levels 20000 2000
    uv run python benchmarks/scale.py dask --rows 1e7 --groups 1e4
    uv run python benchmarks/scale.py bambi --rows 1e5 --groups 1e3
    uv run python benchmarks/scale.py lme4 --rows 1e6 --groups 1e4

Data are made in chunks, written as Parquet to a temporary directory (TMPDIR) and removed. Every
measurement runs in a process of its own, whose peak resident memory is reported. The model is
y ~ x + (x | g), with columns in the file that it does not use.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

FORMULA = "y ~ x + (x | g)"
CHUNK = 1_000_000


def write_data(folder: Path, rows: int, groups: int, files: int, seed: int = 1) -> float:
    """Random slopes in Parquet; seconds it took."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    b = rng.normal(size=(groups, 2)) * [1.0, 0.5]
    per_file = -(-rows // files)
    for number in range(files):
        left = min(per_file, rows - number * per_file)
        writer = None
        while left > 0:
            m = min(CHUNK, left)
            g, x = rng.integers(0, groups, m), rng.normal(size=m)
            y = 2 + 0.5 * x + b[g, 0] + b[g, 1] * x + rng.normal(size=m)
            unused = rng.integers(0, 1000, m)
            table = pa.table({"y": y, "x": x, "g": g, "unused": unused})
            if writer is None:
                path = folder / f"part{number:03}.parquet"
                writer = pq.ParquetWriter(path, table.schema, compression="snappy")
            writer.write_table(table, row_group_size=CHUNK)
            left -= m
        if writer is not None:
            writer.close()
    return time.perf_counter() - start


def write_crossed(folder: Path, rows: int, levels: tuple[int, int], seed: int = 2) -> float:
    """Two crossed factors in Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    g, h = rng.integers(0, levels[0], rows), rng.integers(0, levels[1], rows)
    x = rng.normal(size=rows)
    a, b = rng.normal(size=(levels[0], 2)) * [1.0, 0.5], rng.normal(size=levels[1])
    y = 2 + 0.5 * x + a[g, 0] + a[g, 1] * x + b[h] + rng.normal(size=rows)
    pq.write_table(pa.table({"y": y, "x": x, "g": g, "h": h}), folder / "part000.parquet")
    return time.perf_counter() - start


class Clock:
    """Seconds of each step, and the peak memory so far."""

    def __init__(self) -> None:
        self.record: dict[str, float] = {}

    def __call__(self, name: str, action, repeat: int = 1):
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeat):
            result = action()
        self.record[name] = (time.perf_counter() - start) / repeat
        # what a busy machine does not stretch: seconds of processor, over all threads
        self.record[f"{name}: cpu"] = (time.process_time() - cpu) / repeat
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        self.record[f"{name}: peak GB"] = peak
        took = f"{self.record[name]:.4g} s (cpu {self.record[f'{name}: cpu']:.4g} s)"
        print(f"  {name}: {took}, peak {peak:.2f} GB", flush=True)
        return result


def warm_up() -> None:
    """Load compiled kernels, so that they are not measured."""
    import bayeslmm as blm

    rng = np.random.default_rng(0)
    data = {"y": rng.normal(size=400), "x": rng.normal(size=400), "g": rng.integers(0, 20, 400)}
    model = blm.LMM(FORMULA, blm.scan(data))
    model.reml()
    model.fit(draws=20, tune=20, chains=2, random_seed=1, progressbar=False)
    model.fit(method="importance", draws=50, random_seed=1, random_effects="summary")


def measure(folder: str, formula: str, what: str, method: str) -> dict[str, float]:
    """Measurements of one size, in this process."""
    import bayeslmm as blm
    from bayeslmm.bayes.marginal import marginal_density
    from bayeslmm.gaussian import single_threaded_blas

    warnings.simplefilter("ignore")
    warm_up()
    clock = Clock()
    source = blm.scan(folder)
    model = clock("pass", lambda: blm.LMM(formula, source))
    clock.record["rows"] = model.design.n_rows
    clock.record["effects"] = sum(b.n_levels * b.n_effects for b in model.design.blocks)
    if what == "pass":
        return clock.record
    clock("prepare", lambda: model.problem)
    with single_threaded_blas():
        density = marginal_density(model.design, model.priors, model.problem)
        x = density.starting_points((0.5,))[0]
        clock("value and gradient", lambda: density(x), repeat=5)
    reml = clock("reml", model.reml)
    post = clock(
        "posterior",
        lambda: model.fit(
            method=method, random_seed=1, random_effects="summary", progressbar=False
        ),
    )
    table = clock("ranef", post.ranef)
    clock.record["effects in the table"] = len(table)
    print(blm.compare_estimates(post, reml).round(4).to_string(), flush=True)
    summary = post.summary()
    clock.record["smallest ess_bulk"] = float(summary["ess_bulk"].min())
    clock.record["largest r_hat"] = float(summary["r_hat"].max())
    return clock.record


def measure_dask(folder: str, formula: str, workers: int) -> dict[str, float]:
    """The pass on Dask workers in processes of their own."""
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    import bayeslmm as blm

    clock = Clock()
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        frame = dd.read_parquet(folder, columns=["y", "x", "g"], split_row_groups=True)
        client.run(warm_up)
        before = client.run(time.process_time)
        model = clock(f"pass, {workers} workers", lambda: blm.LMM(formula, frame))
        after = client.run(time.process_time)
        clock.record[f"{workers} workers: cpu"] = sum(after[w] - before[w] for w in before)
        clock.record["rows"] = model.design.n_rows
        peaks = client.run(
            lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        )
        clock.record["largest worker: peak GB"] = max(peaks.values())
    print(clock.record, flush=True)
    return clock.record


_BAMBI = """
import json, resource, sys, time
import bambi, pandas as pd
data = pd.read_parquet(sys.argv[1] + "/part000.parquet", columns=["y", "x", "g"])
data["g"] = data["g"].astype("category")
model = bambi.Model("y ~ x + (x | g)", data)
model.build()
start, cpu = time.perf_counter(), time.process_time()
tree = model.fit(draws=1000, tune=1000, chains=4, cores=2, random_seed=1, progressbar=False,
                 inference_method="nutpie")
import arviz as az
found = az.summary(tree, var_names=["Intercept", "x", "sigma", "1|g_sigma", "x|g_sigma"])
print(json.dumps({
    "bambi": time.perf_counter() - start, "bambi: cpu": time.process_time() - cpu,
    "bambi: smallest ess_bulk": float(found["ess_bulk"].astype(float).min()),
    "bambi: largest r_hat": float(found["r_hat"].astype(float).max()),
    "bambi: peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
}))
"""


def measure_bambi(folder: str) -> dict[str, float]:
    """Bambi's posterior, in an environment of its own: it needs another formulae.

    Bambi has no correlation between the effects of a group, so its model is (x || g).
    """
    script = Path(folder) / "bambi_fit.py"
    script.write_text(_BAMBI)
    command = [
        "uv", "run", "--no-project", "--with", "bambi", "--with", "nutpie", "--with", "pyarrow",
        "python", str(script), folder,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        return {"bambi failed": 1.0, "message": done.stderr[-300:]}
    record = json.loads(done.stdout.splitlines()[-1])
    print(record, flush=True)
    return record


_LME4 = """
suppressMessages({library(lme4)})
data <- read.csv(commandArgs(TRUE)[1])
start <- proc.time()[3]
fit <- lmer(y ~ x + (x | g), data)
cat(sprintf('{"lme4": %f, "log-likelihood": %f}', proc.time()[3] - start, logLik(fit)))
"""


def measure_lme4(folder: str) -> dict[str, float]:
    """lme4's REML fit, its data in memory."""
    import pyarrow.parquet as pq

    path = Path(folder) / "data.csv"
    pq.read_table(folder, columns=["y", "x", "g"]).to_pandas().to_csv(path, index=False)
    script = Path(folder) / "fit.R"
    script.write_text(_LME4)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(
        ["Rscript", str(script), str(path)], capture_output=True, text=True, timeout=3600
    )
    if done.returncode:
        return {"lme4 failed": 1.0, "message": done.stderr[-300:]}
    peak = max(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, before) / 1e6
    record = {**json.loads(done.stdout), "lme4: peak GB": peak}
    print(record, flush=True)
    return record


def in_own_process(task: dict) -> dict[str, float]:
    """Run a measurement in a new process and read its record."""
    command = [sys.executable, __file__, "worker", json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    print("\n".join(line for line in lines if not line.startswith("RECORD ")), flush=True)
    found = [line for line in lines if line.startswith("RECORD ")]
    return json.loads(found[-1][7:]) if found else {"failed": 1.0}


def worker(task: dict) -> None:
    """Entry point of :func:`in_own_process`."""
    kind = task.pop("kind")
    measures = {
        "local": measure, "dask": measure_dask, "lme4": measure_lme4, "bambi": measure_bambi,
    }  # fmt: skip
    print("RECORD " + json.dumps(measures[kind](**task)))


_KINDS = ["run", "pass", "crossed", "dask", "lme4", "bambi", "worker"]


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=_KINDS)
    parser.add_argument("task", nargs="?")
    parser.add_argument("--rows", type=float, nargs="+", default=[1e5])
    parser.add_argument("--groups", type=float, nargs="+", default=[1e3])
    parser.add_argument("--levels", type=int, nargs=2, default=[20_000, 2_000])
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--method", default="nuts", choices=["nuts", "importance"])
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.what == "worker":
        return worker(json.loads(options.task))
    records = []
    for rows, groups in zip(options.rows, options.groups, strict=True):
        folder = Path(tempfile.mkdtemp(prefix="bayeslmm-scale-"))
        print(f"{options.what}: {rows:g} rows, load {os.getloadavg()[0]:.1f}", flush=True)
        try:
            if options.what == "crossed":
                made = write_crossed(folder, int(rows), tuple(options.levels))
            else:
                made = write_data(folder, int(rows), int(groups), options.files)
            size = sum(f.stat().st_size for f in folder.iterdir()) / 1e9
            record = {"seconds to write": made, "GB on disk": size}
            records.append(record)
            if options.what == "dask":
                for workers in (1, 2):
                    task = {"kind": "dask", "formula": FORMULA, "workers": workers}
                    record |= in_own_process({**task, "folder": str(folder)})
            elif options.what == "bambi":  # and ours, of the same model
                record |= in_own_process({"kind": "bambi", "folder": str(folder)})
                task = {"kind": "local", "formula": "y ~ x + (x || g)", "what": "run"}
                record |= in_own_process({**task, "folder": str(folder), "method": "nuts"})
            elif options.what == "lme4":
                record |= in_own_process({"kind": "lme4", "folder": str(folder)})
            else:
                formula = FORMULA + " + (1 | h)" if options.what == "crossed" else FORMULA
                task = {"kind": "local", "formula": formula, "what": options.what}
                record |= in_own_process({**task, "folder": str(folder), "method": options.method})
            record |= {"load": os.getloadavg()[0], "asked": options.what}
        finally:
            shutil.rmtree(folder)
        print(json.dumps(record), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
