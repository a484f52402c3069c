"""Unequal residual variances beside crossed random effects: InstEval, one variance and several.

    uv run python benchmarks/cells.py

CPU seconds of the second fit in a process, whose kernels are compiled.
"""

from __future__ import annotations

import time

import bayeslmm as blm

FORMULA = "y ~ service + (1 | s) + (1 | d) + (1 | dept)"


def timed(run):
    """Result of the second call and its CPU seconds."""
    run()
    start = time.process_time()
    return run(), time.process_time() - start


def main() -> None:
    data = blm.load_dataset("insteval")
    for sigma in (None, "~ service", "~ dept"):
        model = blm.LMM(FORMULA, data, sigma=sigma)
        start = time.process_time()
        _ = model.problem
        prepared = time.process_time() - start
        fit, seconds = timed(model.reml)
        print(
            f"sigma={sigma}: {len(data)} rows laid out in {prepared:.1f} s, REML {seconds:.1f} s, "
            f"{fit.n_evaluations} evaluations, log-likelihood {fit.loglik:.2f}"
        )
        for ddf in ("satterthwaite", "kenward-roger"):
            start = time.process_time()
            df = fit.fixef(ddf)["df"].round(1).tolist()
            print(f"  {ddf}: df {df}, {time.process_time() - start:.1f} s")


if __name__ == "__main__":
    main()
