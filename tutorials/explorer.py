"""Pooling and shrinkage, to play with: uv run --group docs marimo run tutorials/explorer.py"""

import marimo

app = marimo.App(width="medium", app_title="Pooling and shrinkage")


@app.cell
def _():
    import warnings

    import marimo as mo
    import matplotlib.pyplot as plt
    import numpy as np

    import bayeslmm as blm

    return blm, mo, np, plt, warnings


@app.cell
def _(mo):
    mo.md(
        """
        # Pooling and shrinkage

        Groups with a line each, simulated. Move a slider: when do the groups' lines (mixed model)
        stay near the lines fitted to each group alone, and when do they collapse on the line of
        the population?
        """
    )
    return


@app.cell
def _(mo):
    groups = mo.ui.slider(3, 60, value=15, label="groups", show_value=True)
    visits = mo.ui.slider(2, 20, value=6, label="rows per group", show_value=True)
    level = mo.ui.slider(0.0, 4.0, 0.1, value=1.5, label="sd of intercepts", show_value=True)
    slope = mo.ui.slider(0.0, 1.0, 0.05, value=0.3, label="sd of slopes", show_value=True)
    sigma = mo.ui.slider(0.2, 6.0, 0.1, value=2.0, label="sigma", show_value=True)
    imbalance = mo.ui.slider(0.0, 1.0, 0.1, value=0.5, label="imbalance", show_value=True)
    seed = mo.ui.slider(1, 50, value=1, label="seed", show_value=True)
    mo.vstack([mo.hstack([groups, visits, imbalance]), mo.hstack([level, slope, sigma]), seed])
    return groups, imbalance, level, seed, sigma, slope, visits


@app.cell
def _(blm, groups, imbalance, level, seed, sigma, slope, visits, warnings):
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
        fit = blm.LMM(sim.formula, sim.data).reml()
    return fit, sim


@app.cell
def _(fit, plt, warnings):
    figure, (fan, arrows) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # groups of one row have no line of their own
        fit.plot_trajectories(ax=fan)
        fit.plot_shrinkage(ax=arrows)
    figure
    return


@app.cell
def _(fit, mo, np, sim):
    estimates = fit.varcomp()["estimate"].reindex(sim.varcomp.index)
    table = sim.varcomp.to_frame("truth").assign(REML=estimates).round(2)
    variance, noise = sim.varcomp.iloc[0] ** 2, sim.varcomp["sigma"] ** 2
    sizes = sim.data["group"].value_counts()
    kept = variance / (variance + noise / sizes) if variance else sizes * 0.0
    mo.hstack(
        [
            mo.ui.table(table.reset_index(), selection=None),
            mo.md(
                f"""
                With these variances the mean of a group of n rows keeps the share
                var(intercepts) / (var(intercepts) + var(sigma) / n) of its distance from the
                population: **{np.min(kept):.2f}** in the smallest group, **{np.max(kept):.2f}**
                in the largest.
                """
            ),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
