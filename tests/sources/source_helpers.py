"""Data, and the forms they come in, for the tests of data read in batches."""

from __future__ import annotations

import numpy as np
import pandas as pd


def crossed_data(n: int = 1500) -> pd.DataFrame:
    """Two crossed grouping columns, numbers, factors, weights and missing values."""
    rng = np.random.default_rng(11)
    g, s = rng.integers(0, 24, n), rng.integers(0, 15, n)
    data = pd.DataFrame(
        {
            "unused": rng.normal(size=n),
            "x": rng.normal(100, 2, n),
            "z": rng.uniform(1, 3, n),
            "f": rng.choice(["b", "a", "c"], n),
            "h": rng.choice(["u", "v"], n),
            "k": rng.integers(1, 5, n),
            "g": g * 3 + 7,
            "s": np.array([f"item {i}" for i in s]),
            "w": rng.uniform(0.5, 2.0, n),
        }
    )
    b, slopes, c = rng.normal(0, 1.5, 24), rng.normal(0, 0.8, 24), rng.normal(0, 1.0, 15)
    data["y"] = (
        1e4
        + 0.7 * (data["x"] - 100)
        + 1.3 * (data["f"] == "b")
        + 0.4 * data["k"]
        + b[g]
        + slopes[g] * data["z"]
        + c[s]
        + rng.normal(0, 1, n)
    )
    data.loc[::71, "x"] = np.nan
    data.loc[5::133, "s"] = None
    return data
