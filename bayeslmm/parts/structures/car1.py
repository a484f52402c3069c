"""First-order autoregression in continuous time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.structures.base import Structure, Symbols, gaps


@dataclass(frozen=True)
class ContinuousAR1(Structure):
    """corr = exp(-|t - s| / range), the continuous-time AR(1) (Jones 1993); range > 0."""

    name, code, parameter, uses_time, times = "car1", 2, "range", True, "numbers"

    @classmethod
    def interval(cls, largest: int) -> tuple[float, float]:
        return 0.0, np.inf

    @classmethod
    def of_rows(cls, group, time, n_times: int, largest: int) -> ContinuousAR1:
        order = np.lexsort((time, group))
        steps = np.diff(time[order])[np.diff(group[order]) == 0]
        return cls(lower=0.0, upper=np.inf, time_unit=float(np.median(steps)))

    @classmethod
    def default_priors(cls, group, time, largest: int) -> dict[str, Prior]:
        low = np.full(group.max() + 1, np.inf)
        high = np.full(group.max() + 1, -np.inf)
        np.minimum.at(low, group, time)
        np.maximum.at(high, group, time)
        return {"range": Prior("HalfNormal", sigma=0.5 * float(np.max(high - low)))}

    @classmethod
    def formula(cls, write: Symbols, one: str, two: str) -> str:
        return write.exponential(f"-|{one} - {two}| / {write.name('range')}")

    @staticmethod
    def entries(c: np.ndarray, n_times: int) -> np.ndarray:
        return c[..., :1, None]

    @staticmethod
    def correlations(xp, c, time: np.ndarray):
        return xp.exp(-gaps(time) / c)

    def natural(self, w: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(w, -300.0, 300.0))

    def pullback(self, w: np.ndarray, d_c: np.ndarray) -> np.ndarray:
        return d_c * self.natural(w)

    def starts(self) -> list[np.ndarray]:
        return [np.log([self.time_unit * factor]) for factor in (0.7, 5.0)]

    def boundary(self, c: np.ndarray) -> str | None:
        if c[0] < 0.02 * self.time_unit:
            return "range tends to 0: residuals are uncorrelated"
        if c[0] > 1e6 * self.time_unit:
            return "range tends to infinity: residuals of a group do not differ in time"
        return None


@kernel
def car1(c, s, t):
    """Correlation of two rows at times s and t."""
    return np.exp(-abs(s - t) / c[0])


@kernel
def add_car1_gradient(c, s, t, d, out):
    """Add d times the derivative in c."""
    gap = abs(s - t)
    out[0] += d * np.exp(-gap / c[0]) * gap / (c[0] * c[0])
