"""Draw the pictures of the README and the documentation.

uv run python docs/figures.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import bayeslmm as blm

HERE = Path(__file__).parent / "images"


def sleepstudy() -> None:
    """Left: the fan of group lines around the population line. Right: shrinkage."""
    data = blm.load_dataset("sleepstudy")
    fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    lines = fit.coef().pivot(index="level", columns="effect", values="estimate")
    fixed = fit.fixef()["estimate"]
    days = np.linspace(0, 9, 2)
    fan, shrinkage = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")[1]
    fan.plot(data["Days"], data["Reaction"], ".", color="0.6", markersize=4)
    for line in lines.itertuples():
        fan.plot(days, line.Intercept + line.Days * days, color="C0", linewidth=0.8, alpha=0.7)
    fan.plot(days, fixed["Intercept"] + fixed["Days"] * days, color="k", linewidth=2.5)
    fan.set(xlabel="Days of restricted sleep", ylabel="Reaction time (ms)")
    fan.set_title("18 subjects and the population line")
    for subject, rows in data.groupby("Subject", observed=True):
        slope, intercept = np.polyfit(rows["Days"], rows["Reaction"], 1)
        end = lines.loc[subject]
        shrinkage.annotate(
            "",
            (end["Intercept"], end["Days"]),
            (intercept, slope),
            arrowprops={"arrowstyle": "->", "color": "0.5", "linewidth": 0.8},
        )
        shrinkage.plot(intercept, slope, "o", color="C1", markersize=4)
        shrinkage.plot(end["Intercept"], end["Days"], "o", color="C0", markersize=4)
    shrinkage.plot(fixed["Intercept"], fixed["Days"], "k*", markersize=14)
    for label, style in (("each subject alone", "C1o"), ("mixed model", "C0o")):
        shrinkage.plot([], [], style, markersize=4, label=label)
    shrinkage.plot([], [], "k*", markersize=10, label="population")
    shrinkage.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    shrinkage.set(xlabel="Intercept (ms)", ylabel="Slope (ms per day)")
    shrinkage.set_title("Shrinkage: every subject learns from the others")
    HERE.mkdir(exist_ok=True)
    plt.savefig(HERE / "sleepstudy.png", dpi=130)


if __name__ == "__main__":
    sleepstudy()
