"""Makes the simulated data sets ``flock`` and ``flock_pedigree``; run once, by hand.

Six lamb crops of 90 from 8 rams and 45 ewes chosen among the crops before; ewe lambs and ram lambs
weighed up to three times.  Variances: additive 9, permanent environment 5, year 4, residual 11:
heritability 9/29 of the variance with years, 9/25 without.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import bayeslmm as blm

FOLDER = Path(blm.__file__).parent / "datasets"


def main() -> None:
    rng = np.random.default_rng(20261122)
    names, sires, dams, sexes, born = [], [], [], [], []
    for i in range(40):
        names.append(f"f{i + 1:03d}")
        sires.append("0")
        dams.append("0")
        sexes.append("ram" if i < 8 else "ewe")
        born.append(0)
    for year in range(1, 7):
        pool = [i for i in range(len(names)) if year - 3 <= born[i] < year]
        rams = rng.permutation([i for i in pool if sexes[i] == "ram"])[:8]
        ewes = rng.permutation([i for i in pool if sexes[i] == "ewe"])[:45]
        for lamb in range(90):
            names.append(f"l{year}{lamb + 1:03d}")
            sires.append(names[rng.choice(rams)])
            dams.append(names[rng.choice(ewes)])
            sexes.append("ram" if rng.random() < 0.5 else "ewe")
            born.append(year)
    pedigree = pd.DataFrame({"id": names, "sire": sires, "dam": dams})
    A = blm.pedigree_relationship(pedigree)
    value = pd.Series(3.0 * A._numeric().times_root(rng.normal(size=len(A))), index=A.labels)
    permanent = pd.Series(np.sqrt(5.0) * rng.normal(size=len(A)), index=A.labels)
    season = 2.0 * rng.normal(size=9)
    rows = []
    for name, sex, year in zip(names, sexes, born, strict=True):
        if year == 0:
            continue
        for age in range(1, 1 + rng.integers(1, 4)):
            weight = (
                38.0 + 12.0 * age - 1.5 * age**2 + (4.0 if sex == "ram" else 0.0)
                + value[name] + permanent[name] + season[year + age - 1]
                + np.sqrt(11.0) * rng.normal()
            )  # fmt: skip
            rows.append((name, sex, age, str(2010 + year + age), round(weight, 1)))
    flock = pd.DataFrame(rows, columns=["id", "sex", "age", "year", "weight"])
    flock.to_csv(FOLDER / "flock.csv", index=False)
    pedigree.to_csv(FOLDER / "flock_pedigree.csv", index=False)
    print(flock.shape, pedigree.shape, A.inbreeding.max())


if __name__ == "__main__":
    main()
