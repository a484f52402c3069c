"""Where unknown values of covariates and their regressions are near the mode of the posterior.

Near the mode an unknown is what its regression says, as good as observed with an error: rows it is
in have the expected value for it and weigh less, 1 / K of
:func:`bayeslmm.bayes.kernels._covariates._place` (regression calibration: Carroll, Ruppert,
Stefanski & Crainiceanu 2006, Measurement Error in Nonlinear Models, 2nd ed., chapter 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bayeslmm.bayes.kernels._covariates import Sums, Unknowns
from bayeslmm.bayes.kernels._regressions import Regressions, readings_back
from bayeslmm.bayes.mode import Mode, climb
from bayeslmm.bayes.unknowns import UnknownValues
from bayeslmm.laplace.system import ResponseSystem
from bayeslmm.parts.scales import unconstrain

__all__ = ["Near"]

#: Newton steps of the unknown values at the mode, and halvings of one.
_STEPS, _HALVINGS = 50, 40


@dataclass(frozen=True)
class Near:
    """Where unknown values and their regressions are near the mode of the posterior.

    Attributes
    ----------
    unknown : UnknownValues
    mode : Mode
        Of the regressions given the readings.
    mean, sd : (m,) arrays
        Expected values there, and standard deviations.
    K : (m,) array
        What the variance of the rows of each is multiplied by.
    """

    unknown: UnknownValues
    mode: Mode
    mean: np.ndarray
    sd: np.ndarray
    K: np.ndarray

    @classmethod
    def first(cls, unknown: UnknownValues) -> Near:
        """Before the response is seen."""
        mode = _regressions_mode(unknown)
        mean, sd = unknown.read(mode.x)[1:]
        n, mean = unknown.n_normal, unknown.expected(mean)
        sd[n:] = np.sqrt(mean[n:] * (1.0 - mean[n:]))
        return cls(unknown, mode, mean, sd, np.ones(unknown.m))

    def system(self, system: ResponseSystem) -> ResponseSystem:
        """With the expected values in place of the unknown ones."""
        return self.unknown.placed(system, self.mean, self.K)

    def at(self, system: ResponseSystem, found: Any, phi: np.ndarray, beta: np.ndarray) -> Near:
        """With the K of a mode of :meth:`system`."""
        gamma = self.unknown.slopes(system, beta, found.b)
        w = np.maximum(-system.slopes(found.eta, phi)[2], 0.0)
        return replace(self, K=self._information(w, gamma))

    def _information(self, w: np.ndarray, gamma: np.ndarray) -> np.ndarray:
        own = self.unknown
        return 1.0 + self.sd**2 * np.bincount(own.number, w[own.row] * gamma**2, own.m)

    def laid_out(
        self, system: ResponseSystem, order: np.ndarray, factors: Sequence[int],
        found: Any, phi: np.ndarray, beta: np.ndarray,
    ) -> tuple[Regressions, Unknowns, Sums]:  # fmt: skip
        """For the kernels."""
        own = self.unknown
        eta = self._climbed(system, own.slopes(system, beta, found.b), found.eta, phi)
        slopes = system.slopes(eta, phi)
        w = np.maximum(-slopes[2], 0.0)
        push = w * eta + slopes[1]
        return own.regressions, *own.laid_out(system, order, factors, w, push, phi)

    def _climbed(
        self, system: ResponseSystem, gamma: np.ndarray, eta: np.ndarray, phi: np.ndarray
    ) -> np.ndarray:
        """The linear predictor (n,) with normal unknowns at their most probable values.

        Newton's steps, halved where an unknown and its rows would lose by one: with a log link a
        full step may lead to means that are larger by any factor.
        """
        own = self.unknown
        number, row, sd = own.number, own.row, np.maximum(self.sd, 1e-300)

        def reached(x: np.ndarray, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            slopes = system.slopes(eta, phi)
            value = np.bincount(number, slopes[0][row], own.m) - 0.5 * ((x - self.mean) / sd) ** 2
            return slopes, np.where(np.isfinite(value), value, -np.inf)

        x = self.mean.copy()
        slopes, value = reached(x, eta)
        for _ in range(_STEPS):
            w = np.maximum(-slopes[2], 0.0)
            score = np.bincount(number, gamma * slopes[1][row], own.m) * sd**2 - (x - self.mean)
            step = score / self._information(w, gamma)
            step[own.n_normal :] = 0.0
            for _ in range(_HALVINGS):
                trial = eta.copy()
                np.add.at(trial, row, step[number] * gamma)
                found, risen = reached(x + step, trial)
                worse = (risen < value - 1e-12 * (1.0 + np.abs(value))) & (step != 0.0)
                if not worse.any():
                    break
                step[worse] *= 0.5
            else:
                break
            x, eta, slopes, value = x + step, trial, found, risen
            if np.all(np.abs(step) < 1e-3 * sd):
                break
        return eta

    def joined(self, mode: Mode, p: int) -> Mode:
        """The mode with the coordinates of the regressions before the p coefficients."""
        d, n = len(mode.x) - p, len(self.mode.x)
        scale = np.zeros((len(mode.x) + n, len(mode.x) + n))
        at = np.concatenate([np.arange(d), np.arange(d + n, len(scale))])
        scale[np.ix_(at, at)] = mode.scale
        scale[d : d + n, d : d + n] = self.mode.scale
        x = np.concatenate([mode.x[:d], self.mode.x, mode.x[d:]])
        return Mode(x, mode.log_density + self.mode.log_density, scale)


@dataclass(frozen=True)
class _Readings:
    """Density of the regressions' coordinates."""

    unknown: UnknownValues

    def __call__(self, low: np.ndarray) -> tuple[float, np.ndarray]:
        unknown, gradient = self.unknown, np.zeros(len(low))
        L, m = int(unknown.regressions.levels[-1]), unknown.m
        moments = np.zeros(m), np.zeros(m)
        readings_back(low, np.zeros(L), unknown.regressions, *moments, gradient, np.zeros(L))
        return self.value(low), gradient

    def value(self, low: np.ndarray) -> float:
        return self.unknown.read(low)[0]


def _regressions_mode(unknown: UnknownValues) -> Mode:
    """Of the regressions given the readings, from least squares."""
    own = unknown.regressions
    start, spread, sds = [], [], np.empty(len(own.sds.code))
    for c, (first, last) in enumerate(zip(own.units[:-1], own.units[1:], strict=True)):
        k = own.columns[c + 1] - own.columns[c]
        W = own.W[own.flat[c] : own.flat[c + 1]].reshape(-1, k)
        r, error = own.reading[first:last], own.error[first:last]
        seen = ~np.isnan(r)
        W, r = W[seen], r[seen]
        squares = (W**2).sum(axis=0)
        if own.sd[c] < 0:
            start.append(np.append(_logit(np.mean(r)), np.zeros(k - 1)))
            spread.append(4.0 / (1e-6 + squares))
            continue
        alpha = np.linalg.lstsq(W, r, rcond=None)[0]
        size = np.var(r - W @ alpha)
        start.append(alpha)
        spread.append(size / (1e-300 + squares))
        sds[own.sd[c]] = np.sqrt(max(size - np.mean(error[seen]), 0.1 * size))
        if own.effect_sd[c] >= 0:
            sds[own.effect_sd[c]] = 0.5 * np.sqrt(size)
    low = np.concatenate([*start, unconstrain(own.sds, sds)])
    guess = np.concatenate([*spread, np.full(len(sds), 1.0 / (1.0 + len(own.reading)))])
    density: Any = _Readings(unknown)
    return climb(density, low, np.diag(guess))


def _logit(p: float) -> float:
    p = min(max(p, 0.01), 0.99)
    return float(np.log(p / (1.0 - p)))
