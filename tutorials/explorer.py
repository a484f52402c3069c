"""Pooling and shrinkage, to play with: uv run marimo run tutorials/explorer.py"""

import marimo

app = marimo.App(width="medium", app_title="Pooling and shrinkage")


@app.cell
def _():
    import warnings

    import marimo as mo
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd

    import bayeslmm as blm
    from bayeslmm.plots.shrinkage import shrinkage

    return blm, mo, np, pd, plt, shrinkage, warnings


@app.cell
def _(mo):
    mo.md(
        """
        # Pooling and shrinkage

        Groups with a line each, simulated, and fitted by REML and by the posterior. Move a slider:
        when do the groups' lines (mixed model) stay near the lines fitted to each group alone, and
        when do they collapse on the line of the population?
        """
    )
    return


@app.cell
def _(mo):
    groups = mo.ui.slider(3, 60, value=20, label="groups", show_value=True)
    visits = mo.ui.slider(3, 20, value=8, label="rows per group", show_value=True)
    level = mo.ui.slider(0.0, 4.0, 0.1, value=1.5, label="sd of intercepts", show_value=True)
    slope = mo.ui.slider(0.0, 1.0, 0.05, value=0.4, label="sd of slopes", show_value=True)
    sigma = mo.ui.slider(0.2, 6.0, 0.1, value=1.5, label="sigma", show_value=True)
    imbalance = mo.ui.slider(0.0, 1.0, 0.1, value=0.5, label="imbalance", show_value=True)
    seed = mo.ui.slider(1, 50, value=1, label="seed", show_value=True)
    mo.vstack([mo.hstack([groups, visits, imbalance]), mo.hstack([level, slope, sigma]), seed])
    return groups, imbalance, level, seed, sigma, slope, visits


@app.cell
def _(blm, groups, imbalance, level, mo, seed, sigma, slope, visits, warnings):
    sim = blm.simulate_lmm(
        groups.value,
        visits.value,
        beta=(10.0, 0.5),
        sd=(level.value, slope.value),
        sigma=sigma.value,
        imbalance=imbalance.value,
        seed=seed.value,
    )
    with warnings.catch_warnings():
        # singular fits are part of the lesson: the table shows their zeros
        warnings.simplefilter("ignore")
        try:
            model = blm.LMM(sim.formula, sim.data)
            reml = model.reml()
        except blm.DataError as refusal:  # too few rows: the sentence says why
            mo.stop(True, mo.md(str(refusal)))
        try:
            post = model.fit(method="importance", random_seed=1)
        except blm.SamplingError:  # its proposal misses a part of the posterior
            post = model.fit(draws=500, random_seed=1, progressbar=False)
    fits = {"REML": reml, "posterior": post}
    return fits, sim


@app.cell
def _(fits, np, pd, shrinkage, sim, warnings):
    block = fits["REML"].model.design.blocks[0]
    sizes = np.bincount(block.codes)
    at = np.array([1.0, sim.data["time"].mean()])[: len(block.effects)]

    def distances(fit):
        """How far each group is from the population at the mean time: alone, and in the model."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # groups of one row have no line of their own
            lines = shrinkage(fit)
        return (lines.alone - lines.population) @ at, (lines.partial - lines.population) @ at

    def expected(components):
        """The share kept that the variances imply, group by group.

        Var(height of the group's line) / (that + sampling variance of the height of its own line),
        the regression of partially pooled on own heights.
        """
        sd, sigma = components[: len(at)], components[-1]
        D = np.outer(sd, sd)
        if len(at) == 2:
            D[0, 1] = D[1, 0] = sd[0] * sd[1] * np.nan_to_num(components[2])
        rows = [block.Z[block.codes == j] for j in range(len(sizes))]
        noise = np.array([sigma**2 * at @ np.linalg.pinv(Z.T @ Z) @ at for Z in rows])
        return at @ D @ at / (at @ D @ at + noise)

    away, shares = {}, {}
    for _name, _fit in fits.items():
        _alone, _partial = distances(_fit)
        _own = np.isfinite(_alone)
        away[_name] = _alone[_own], _partial[_own]
        _implied = expected(_fit.varcomp().iloc[:, 0].to_numpy(float))
        _few, _many = sizes[_own].min(), sizes[_own].max()
        shares[_name] = {
            "in this fit, all groups": np.sum(_alone[_own] * _partial[_own])
            / np.sum(_alone[_own] ** 2),
            f"expected, groups of {_few} rows": _implied[_own & (sizes == _few)].mean(),
            f"expected, groups of {_many} rows": _implied[_own & (sizes == _many)].mean(),
        }
    shares = pd.DataFrame(shares).rename_axis("share of the distance kept")
    return away, shares


@app.cell
def _(away, fits, plt, warnings):
    figure, (fan, arrows, share) = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits["REML"].plot_trajectories(ax=fan)
        fits["REML"].plot_shrinkage(ax=arrows)
    share.axline((0, 0), slope=1, color="0.6", linewidth=0.8)
    share.axhline(0, color="0.6", linewidth=0.8)
    for (_name, (_alone, _partial)), _mark in zip(away.items(), "ox", strict=True):
        share.plot(_alone, _partial, _mark, label=_name)
    share.set(
        title="Distance from the population at the mean time",
        xlabel="line of the group alone",
        ylabel="line of the group in the mixed model",
    )
    share.legend(frameon=False)
    figure
    return


@app.cell
def _(fits, mo, pd, shares, sim):
    table = pd.DataFrame(
        {
            "truth": sim.varcomp,
            "REML": fits["REML"].varcomp()["estimate"].reindex(sim.varcomp.index),
            "posterior mean": fits["posterior"].varcomp()["mean"].reindex(sim.varcomp.index),
        }
    ).astype(float)
    mo.hstack(
        [
            mo.ui.table(table.round(2).rename_axis("component").reset_index(), selection=None),
            mo.ui.table(shares.round(2).reset_index(), selection=None),
            mo.md(
                """
                In the picture on the right a point on the diagonal is a group whose line the model
                keeps, a point on the horizontal line one that collapses on the population. The
                *share kept* is the slope of these points through zero: 1 is no pooling, 0 complete
                pooling. *Expected* is what the estimated variances imply at the mean time:
                var(groups' heights) / (var(groups' heights) + var(own line's height)). Without
                random slopes this is var(intercepts) / (var(intercepts) + sigma^2 / n).

                Where REML estimates the variances of groups as zero it keeps nothing; the
                posterior keeps a little, for it does not take zero for certain.
                """
            ),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
