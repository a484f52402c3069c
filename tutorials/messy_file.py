"""A study as people send it: the file of tutorial 17.

uv run python tutorials/messy_file.py FOLDER   # writes studie.csv, studie.xlsx and clean.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

#: The row whose pain score is 999.
WRONG = 17


def clean() -> pd.DataFrame:
    """Pain of 40 patients at irregular visits; under body therapy it falls by 0.05 a day."""
    rng = np.random.default_rng(40)
    rows = []
    for i in range(40):
        arm, own = ("Placebo", "Körpertherapie")[i % 2], rng.normal(0, 1)
        for day in np.cumsum([0, *rng.integers(5, 20, rng.integers(2, 5))]):
            pain = 6 + own - 0.05 * day * (i % 2) + rng.normal(0, 0.7)
            rows.append((f"P{i:02d}", int(day), arm, round(pain, 1), 30 + i))
    frame = pd.DataFrame(rows, columns=["Patient", "Tag", "Gruppe", "Schmerz NRS", "Alter"])
    frame["Datum"] = (pd.Timestamp("2021-03-01") + pd.to_timedelta(frame["Tag"], "D")).dt.strftime(
        "%d.%m.%Y"
    )
    return frame


def messy() -> pd.DataFrame:
    """The same, with blanks behind labels, signs for missing ages and one pain score of 999."""
    frame = clean().astype({"Alter": object})
    frame.loc[::7, "Patient"] += " "
    frame.loc[::11, "Alter"] = "-"
    frame.loc[WRONG, "Schmerz NRS"] = 999.0
    return frame


def write(folder: str | Path) -> None:
    """The messy rows as Windows writes CSV in German, their copy in Excel, and the clean ones."""
    folder = Path(folder)
    messy().to_csv(folder / "studie.csv", sep=";", decimal=",", index=False, encoding="cp1252")
    messy().drop(WRONG).to_excel(folder / "studie.xlsx", index=False)
    clean().to_csv(folder / "clean.csv", index=False)


if __name__ == "__main__":
    write(sys.argv[1])
