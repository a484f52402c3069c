"""Partial pooling as data arrive: docs/images/pooling.gif.

uv run python docs/pooling.py
"""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter

import bayeslmm as blm
from bayeslmm.plots.style import ALONE, DATA, GROUP, POPULATION

PATH = Path(__file__).parent / "images" / "pooling.gif"
SUBJECTS = ("308", "309", "330", "335", "337", "370")
DAYS = np.array([0.0, 9.0])


def lines(seen: int) -> dict[str, dict[str, np.ndarray]]:
    """Own, partially pooled and population lines from the first `seen` days.

    Returns
    -------
    dict
        Of each subject: ``alone``, ``pooled`` and ``population``, reaction times (ms) on the days
        0 and 9.
    """
    data = blm.load_dataset("sleepstudy")
    data = data[data["Days"] < seen]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with few days a correlation may be estimated as 1
        fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    found = {}
    for subject in SUBJECTS:
        own = data[data["Subject"] == subject]
        new = {"Days": DAYS, "Subject": [subject, subject]}
        found[subject] = {
            "alone": np.polyval(np.polyfit(own["Days"], own["Reaction"], 1), DAYS),
            "pooled": fit.predict(new)["estimate"].to_numpy(),
            "population": fit.predict(new, random="population")["estimate"].to_numpy(),
        }
    return found


def main() -> None:
    """Fit the first 3 to 10 days by REML and write one picture of each as an animation.

    Two days of each subject are as many rows as random effects, and their variances cannot be
    told from that of the residuals.
    """
    data = blm.load_dataset("sleepstudy")
    frames = {seen: lines(seen) for seen in range(3, 11)}
    figure, axes = plt.subplots(2, 3, figsize=(7.5, 4.8), sharex=True, sharey=True)
    figure.subplots_adjust(left=0.09, right=0.99, top=0.84, bottom=0.18, hspace=0.22, wspace=0.06)
    drawn = {}
    for ax, subject in zip(axes.flat, SUBJECTS, strict=True):
        drawn[subject] = {
            "population": ax.plot([], [], color=POPULATION, linewidth=1)[0],
            "alone": ax.plot([], [], "--", color=ALONE, linewidth=2)[0],
            "pooled": ax.plot([], [], color=GROUP, linewidth=2)[0],
            "later": ax.plot([], [], "o", color=DATA, markersize=3.5, markerfacecolor="none")[0],
            "rows": ax.plot([], [], "o", color="0.2", markersize=4)[0],
        }
        ax.set_title(f"subject {subject}", fontsize=10)
        ax.set(xlim=(-0.4, 9.4), ylim=(150, 500), xticks=[0, 3, 6, 9])
    figure.supxlabel("day of the study", fontsize=10, y=0.09)
    figure.supylabel("reaction time (ms)", fontsize=10)
    shown = drawn[SUBJECTS[0]]
    figure.legend(
        [shown[k] for k in ("alone", "pooled", "population", "rows", "later")],
        ["this subject alone", "partially pooled", "population", "measured", "not yet measured"],
        loc="lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
        columnspacing=1.2,
        handlelength=1.6,
    )
    title = figure.suptitle("", fontsize=12)

    def draw(seen: int) -> None:
        for subject, parts in drawn.items():
            for name, values in frames[seen][subject].items():
                parts[name].set_data(DAYS, values)
            own = data[data["Subject"] == subject]
            early = own["Days"] < seen
            parts["rows"].set_data(own["Days"][early], own["Reaction"][early])
            parts["later"].set_data(own["Days"][~early], own["Reaction"][~early])
        title.set_text(f"Lines from the first {seen} days of each of 18 subjects")

    order = [3, *range(3, 11), 10, 10]  # the first and the last stay longer
    FuncAnimation(figure, draw, order).save(PATH, PillowWriter(fps=0.8), dpi=90)
    plt.close(figure)
    print(f"{PATH}: {PATH.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
