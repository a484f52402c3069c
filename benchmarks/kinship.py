"""Animal models: bayeslmm alone at 5,000 animals, against lme4 with pedigreemm's device at fewer.

    uv run python benchmarks/kinship.py [--animals 1000] [--skip-lme4] [--write]

Simulated pedigrees of ten generations, 2.5 records per animal, additive and permanent-environment
effects and 100 herds; and a genomic relationship matrix of 2,000 individuals, one record each.
pedigreemm (Vazquez et al. 2010, Journal of Animal Science 88, 497-504) is not packaged for Debian:
the script does what it does, multiplying the transposed random-effects matrix by a root of A before
lme4's optimization, so lme4 has to be there (Debian: r-cran-lme4). CPU seconds of one thread,
medians of --repeats fits in a warm process, data frame to fitted model; the pedigree's inverse is
made before.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

import bayeslmm as blm
from bayeslmm.gaussian import single_threaded_blas

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks-kinship.md"
FORMULAS = {
    "animal": "y ~ x + (1 | id)",
    "animal, permanent environment, herd": "y ~ x + (1 | id) + (1 | own) + (1 | herd)",
    "animal slopes, herd": "y ~ x + (x | id) + (1 | herd)",
}
R = """
suppressMessages(library(lme4)); library(Matrix)
args <- commandArgs(TRUE)
d <- read.csv(file.path(args[1], "data.csv"))
d$id <- factor(d$id, levels = 1:as.integer(args[2]))
d$own <- factor(d$own)
d$herd <- factor(d$herd)
root <- readMM(file.path(args[1], "root.mtx"))
times <- numeric(0)
for (i in seq_len(as.integer(args[3]))) {
  start <- sum(proc.time()[1:2])
  lf <- lFormula(y ~ x + (1 | id) + (1 | own) + (1 | herd), d, REML = TRUE,
                 control = lmerControl(check.nobs.vs.nlev = "ignore",
                                       check.nobs.vs.nRE = "ignore"))
  k <- which(names(lf$reTrms$flist) == "id")
  rows <- (lf$reTrms$Gp[k] + 1):lf$reTrms$Gp[k + 1]
  Zt <- lf$reTrms$Zt
  seen <- as.integer(rownames(Zt)[rows])
  if (length(rows) != nrow(root)) stop("every animal needs a record here")
  Zt[rows, ] <- t(root) %*% Zt[rows, ]
  lf$reTrms$Zt <- as(Zt, "CsparseMatrix")
  dev <- do.call(mkLmerDevfun, lf)
  opt <- optimizeLmer(dev)
  fit <- mkMerMod(environment(dev), opt, lf$reTrms, fr = lf$fr)
  times <- c(times, sum(proc.time()[1:2]) - start)
}
cat(sprintf("%.6f %.3f", as.numeric(logLik(fit)), median(times)))
"""


def pedigree(n: int, seed: int = 0) -> pd.DataFrame:
    """Ten generations; one tenth as many sires as animals of a generation, four tenths dams."""
    rng = np.random.default_rng(seed)
    size = n // 10
    sire, dam = np.zeros(n, int), np.zeros(n, int)
    for g in range(1, 10):
        before = np.arange((g - 1) * size, g * size) + 1
        now = slice(g * size, (g + 1) * size)
        sires = rng.choice(before[::2], max(2, size // 10), replace=False)
        dams = rng.choice(before[1::2], max(2, 4 * size // 10), replace=False)
        sire[now], dam[now] = rng.choice(sires, size), rng.choice(dams, size)
    return pd.DataFrame({"id": np.arange(n) + 1, "sire": sire, "dam": dam})


def records(A: blm.RelationshipMatrix, seed: int = 1) -> pd.DataFrame:
    """Every animal once, and one and a half records per animal more, at random."""
    rng = np.random.default_rng(seed)
    n = len(A)
    at = np.concatenate([np.arange(n), rng.integers(0, n, 3 * n // 2)])
    value = A._numeric().times_root(rng.normal(size=(n, 2)))
    x, herd = rng.normal(size=len(at)), rng.integers(0, 100, len(at))
    y = 10 + (1 + 0.5 * value[at, 1]) * x + value[at, 0] + 0.7 * rng.normal(size=n)[at]
    y += 0.5 * rng.normal(size=100)[herd] + rng.normal(size=len(at))
    label = np.array(A.labels)[at]
    return pd.DataFrame({"y": y, "x": x, "id": label, "own": label, "herd": herd})


def timed(formula: str, data, matrix, repeats: int):
    """Median seconds and the last fit."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = blm.LMM(formula, data, relationship={"id": matrix}).reml()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds), fit


def evaluation(fit) -> float:
    """Milliseconds of one criterion with its gradient."""
    from bayeslmm.gaussian import profiled_criterion_and_gradient

    with single_threaded_blas():
        seconds = []
        for _ in range(7):
            start = time.process_time()
            profiled_criterion_and_gradient(fit._problem, fit.theta)
            seconds.append(time.process_time() - start)
    return 1e3 * statistics.median(seconds)


def dense(fit) -> float:
    """Seconds of one n x n likelihood, without gradient."""
    design = fit.design
    start = time.process_time()
    V = fit.sigma**2 * np.eye(design.n_rows)
    for block, Sigma in zip(design.blocks, fit._solution.Sigmas, strict=True):
        K = block.codes[:, None] == block.codes
        if block.relationship is not None:
            K = block.relationship.between(block.codes)
        V += K * (block.Z @ Sigma @ block.Z.T)
    np.linalg.slogdet(V)
    np.linalg.solve(V, design.X)
    return time.process_time() - start


def lme4(A: blm.RelationshipMatrix, data: pd.DataFrame, repeats: int) -> tuple[float, float]:
    """Log-likelihood and median seconds of lme4 with the root of A multiplied in."""
    from scipy import io, sparse

    with tempfile.TemporaryDirectory() as folder:
        place = {label: i for i, label in enumerate(A.labels)}
        coded = data.assign(id=[place[v] + 1 for v in data["id"]])
        coded.to_csv(Path(folder) / "data.csv", index=False)
        root = np.linalg.cholesky(A.to_frame().to_numpy())
        root[np.abs(root) < 1e-14] = 0.0
        io.mmwrite(Path(folder) / "root.mtx", sparse.coo_array(root), precision=17)
        script = Path(folder) / "fit.R"
        script.write_text(R)
        out = subprocess.run(
            ["Rscript", str(script), folder, str(len(A)), str(repeats)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    value, seconds = out.stdout.split()
    return float(value), float(seconds)


def genomic(n: int = 2000, markers: int = 4000, seed: int = 2):
    """A genomic relationship matrix (VanRaden 2008, first method) and one record each."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.1, 0.5, markers)
    M = rng.binomial(2, p, size=(n, markers)) - 2 * p
    K = M @ M.T / (2 * np.sum(p * (1 - p)))
    u = M @ rng.normal(size=markers) / np.sqrt(2 * np.sum(p * (1 - p)))
    label = [f"i{k}" for k in range(n)]
    data = pd.DataFrame({"y": u + rng.normal(size=n), "x": rng.normal(size=n), "id": label})
    data["batch"] = rng.integers(0, 20, n)
    return data, pd.DataFrame(K, index=label, columns=label)


def repeated(data: pd.DataFrame, batches: int = 200, seed: int = 5) -> pd.DataFrame:
    """As many records again, of individuals at random, in more batches."""
    rng = np.random.default_rng(seed)
    n = len(data)
    at = np.concatenate([np.arange(n), rng.integers(0, n, n)])
    out = data.iloc[at].reset_index(drop=True)
    return out.assign(y=out["y"] + rng.normal(size=2 * n), batch=rng.integers(0, batches, 2 * n))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--animals", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-lme4", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = ["| model | levels, rows | fit | evaluations | value and gradient | other |"]
    lines.append("|---|---:|---:|---:|---:|---|")

    def row(name, fit, seconds, other=""):
        size = f"{sum(b.n_levels for b in fit.design.blocks):,}, {fit.design.n_rows:,}"
        lines.append(
            f"| {name} | {size} | {seconds:.2f} s | {fit.n_evaluations} | "
            f"{evaluation(fit):.1f} ms | {other} |"
        )
        print(lines[-1], flush=True)

    small = blm.pedigree_relationship(pedigree(options.animals))
    data = records(small)
    name = "animal, permanent environment, herd"
    timed(FORMULAS[name], data, small, 1)
    seconds, fit = timed(FORMULAS[name], data, small, options.repeats)
    other = f"one dense likelihood {dense(fit):.1f} s"
    if shutil.which("Rscript") and not options.skip_lme4:
        value, theirs = lme4(small, data, 1)
        other += f"; lme4 {theirs:.1f} s, log-likelihood ours - lme4 {fit.loglik - value:+.1e}"
    row(name, fit, seconds, other)
    start = time.process_time()
    large = blm.pedigree_relationship(pedigree(5000))
    print(f"pedigree of 5,000: {time.process_time() - start:.2f} s")
    data = records(large)
    for name, formula in FORMULAS.items():
        seconds, fit = timed(formula, data, large, options.repeats)
        row(name, fit, seconds)
    data, K = genomic()
    again = repeated(data)
    for name, formula, rows in (
        ("genomic", "y ~ x + (1 | id)", data),
        ("genomic, batches", "y ~ x + (1 | id) + (1 | batch)", data),
        ("genomic, unequal records, batches", "y ~ x + (1 | id) + (1 | batch)", again),
    ):
        seconds, fit = timed(formula, rows, K, 1)
        row(name, fit, seconds)
    if options.write:
        packages = ", ".join(f"{p} {version(p)}" for p in ("bayeslmm", "numpy", "scipy", "numba"))
        head = PAGE.read_text().split("<!-- table -->")[0] if PAGE.exists() else ""
        system = f"{platform.machine()}, Python {platform.python_version()}, {packages}."
        PAGE.write_text(f"{head}<!-- table -->\n\n{system}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
