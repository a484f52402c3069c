"""Draw the pictures of the README and the documentation.

uv run python docs/figures.py
"""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import bayeslmm as blm

HERE = Path(__file__).parent / "images"


def sleepstudy(post: blm.PosteriorFit) -> None:
    """The README's: the fan beside the shrinkage."""
    fan, shrinkage = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")[1]
    post.plot_trajectories(ax=fan)
    post.plot_shrinkage(ax=shrinkage)
    fan.set(xlabel="Day of the study", ylabel="Reaction time (ms)")
    shrinkage.set(xlabel="Intercept (ms)", ylabel="Slope (ms per day)")
    save("sleepstudy", fan, dpi=130)


def prior_origin() -> None:
    """The same interaction with years from 2015 and years from 0: default, and independent priors.

    Independent priors are normal ones of 2.5 sd(y) / sd(x), column by column.
    """
    rng = np.random.default_rng(12)
    g, year = np.tile(np.arange(12), 10), np.repeat(np.arange(2010, 2020), 12)
    arm, t = np.where(g % 2 == 0, "a", "b"), year - 2015
    y = 20 + 0.8 * t + (arm == "b") * (1.5 - 0.6 * t) + rng.normal(size=12)[g]
    data = pd.DataFrame({"y": y + rng.normal(size=120), "arm": arm, "year": year, "t": t, "g": g})
    axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharex=True)[1]
    for ax, kind in zip(axes, ("default priors", "independent priors"), strict=True):
        for x, label in (("t", "years since 2015"), ("year", "calendar years")):
            model = blm.LMM(f"y ~ arm * {x} + (1 | g)", data)
            if kind == "independent priors":
                names = model.design.coef_names[1:]
                scales = 2.5 * data["y"].std() / model.design.X[:, 1:].std(axis=0, ddof=1)
                for name, scale in zip(names, scales, strict=True):
                    model.priors[name] = blm.Prior("Normal", mu=0, sigma=float(scale))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                post = model.fit(random_seed=1, progressbar=False)
            draws = post.posterior["beta"].sel(coef=f"arm[b]:{x}").to_numpy().ravel()
            ax.hist(draws, bins=60, density=True, alpha=0.6, label=label)
        ax.set(title=kind, xlabel="interaction (per year)", yticks=[], ylim=(0, 12))
    axes[0].legend(frameon=False)
    save("prior_origin", axes[0], dpi=100)


def save(name: str, axes, dpi: int = 80) -> None:
    """Write the figure of some axes as docs/images/NAME.png."""
    HERE.mkdir(exist_ok=True)
    figure = np.ravel(axes)[0].get_figure()
    figure.savefig(HERE / f"{name}.png", dpi=dpi)
    plt.close(figure)


def main() -> None:
    """All pictures."""
    prior_origin()
    data = blm.load_dataset("sleepstudy")
    model = blm.LMM("Reaction ~ Days + (Days | Subject)", data)
    post, reml = model.fit(random_seed=1), model.reml()
    sleepstudy(post)
    save("panels", post.plot_trajectories(panels=True))
    save("ranef", post.plot_ranef())
    save("implied", post.plot_implied_covariance())
    save("compare", post.plot_compare(reml))
    save("ppc-by-group", post.plot_ppc("stat", by="Subject", groups=8, random_seed=1))


if __name__ == "__main__":
    main()
