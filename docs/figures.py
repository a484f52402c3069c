"""Draw the pictures of the README and the documentation.

uv run python docs/figures.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import bayeslmm as blm

HERE = Path(__file__).parent / "images"


def sleepstudy(post: blm.PosteriorFit) -> None:
    """The README's: the fan beside the shrinkage."""
    fan, shrinkage = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")[1]
    post.plot_trajectories(ax=fan)
    post.plot_shrinkage(ax=shrinkage)
    fan.set(xlabel="Days of restricted sleep", ylabel="Reaction time (ms)")
    shrinkage.set(xlabel="Intercept (ms)", ylabel="Slope (ms per day)")
    save("sleepstudy", fan, dpi=130)


def save(name: str, axes, dpi: int = 80) -> None:
    """Write the figure of some axes as docs/images/NAME.png."""
    HERE.mkdir(exist_ok=True)
    figure = np.ravel(axes)[0].get_figure()
    figure.savefig(HERE / f"{name}.png", dpi=dpi)
    plt.close(figure)


def main() -> None:
    """All pictures."""
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
