"""A free correlation for every lag, at whole-numbered times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.errors import DataError
from bayeslmm.parts.parameters import lag_key
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.structures.base import Structure, Symbols, gaps

#: Most lags; each is a parameter.
_MOST_LAGS = 49
#: Key of the prior of every partial autocorrelation.
PARTIAL_KEY = "partial"


@dataclass(frozen=True)
class Toeplitz(Structure):
    """corr = c[|t - s| - 1], t and s whole numbers: a free correlation for every lag.

    The matrix over all lags is positive definite for partial autocorrelations in (-1, 1)
    (Barndorff-Nielsen and Schou 1973, J. Multivariate Anal. 3, 408-419), which the recursion of
    Levinson (1947) and Durbin (1960) turns into correlations. By default each partial
    autocorrelation is uniform on (-1, 1); w are their inverse hyperbolic tangents.

    Attributes
    ----------
    n_lags : int
        The longest distance of two rows of a group.
    """

    n_lags: int = 0

    name, code, uses_time, times = "toeplitz", 5, True, "whole"
    vector = ("corr_lag", "residual_lag")

    @classmethod
    def of_rows(cls, group, time, n_times: int, largest: int) -> Toeplitz:
        return cls(n_lags=int(_lags(group, time).max()))

    @classmethod
    def default_priors(cls, group, time, largest: int) -> dict[str, Prior]:
        return {PARTIAL_KEY: Prior("Uniform", lower=-1.0, upper=1.0)}

    @classmethod
    def obstacle(cls, group, time) -> str | None:
        seen = _lags(group, time)
        missing = np.setdiff1d(np.arange(1, seen.max() + 1), seen)
        if seen.max() > _MOST_LAGS:
            return (
                f"rows of a group are up to {seen.max()} apart, each lag a correlation of its own "
                f"(at most {_MOST_LAGS}). Use ar1 or car1 for long series."
            )
        if len(missing):
            return (
                f"no two rows of a group are {missing[0]} apart, so the correlation at that lag is "
                "not identified. Use ar1 or car1, or divide times by their spacing."
            )
        return None

    @classmethod
    def component_names(cls, labels: tuple[str, ...], group, time) -> list[str]:
        return [lag_key(k) for k in range(1, int(_lags(group, time).max()) + 1)]

    @classmethod
    def formula(cls, write: Symbols, one: str, two: str) -> str:
        return write.indexed("rho", [f"|{one} - {two}|"])

    @staticmethod
    def entries(c: np.ndarray, n_times: int) -> np.ndarray:
        return c

    @staticmethod
    def correlations(xp, c, time: np.ndarray):
        lag = np.round(gaps(time)).astype(int)
        if xp is np and lag.max(initial=0) > c.shape[-1]:
            raise DataError(
                f"These rows are {lag.max()} apart; the fit has correlations up to lag "
                f"{c.shape[-1]}."
            )
        return xp.where(lag == 0, 1.0, c[(..., np.maximum(lag - 1, 0))])

    @classmethod
    def random_variables(cls, pm, pt, priors, rows):
        """Partial autocorrelations ``partial``, and the correlations ``corr_lag``."""
        prior, n_lags = priors[PARTIAL_KEY], int(_lags(rows.group, rows.time).max())
        partial = getattr(pm, prior.name)(PARTIAL_KEY, **prior.parameters, shape=n_lags)
        c = pt.stack(_durbin_levinson([partial[k] for k in range(n_lags)]))
        return pm.Deterministic("corr_lag", c, dims="residual_lag")

    @property
    def n_free(self) -> int:
        return self.n_lags

    @property
    def scalar_keys(self) -> list[str]:
        return [PARTIAL_KEY] * self.n_lags

    def scalars(self, c: np.ndarray) -> np.ndarray:
        """Partial autocorrelations of correlations."""
        phi, v, out = np.zeros(0), 1.0, np.empty(len(c))
        for k, r in enumerate(c):
            out[k] = p = (r - phi @ c[:k][::-1]) / v
            phi, v = np.append(phi - p * phi[::-1], p), v * (1.0 - p * p)
        return out

    def natural(self, w: np.ndarray) -> np.ndarray:
        return lag_correlations(np.tanh(w))

    def pullback(self, w: np.ndarray, d_c: np.ndarray) -> np.ndarray:
        partial = np.tanh(w)
        return pullback_lag_correlations(partial, d_c) * (1.0 - partial**2)

    def starts(self) -> list[np.ndarray]:
        """Autoregressions of first order, weak and strong."""
        return [np.arctanh(np.append(r, np.zeros(self.n_lags - 1))) for r in (0.2, 0.8)]

    def boundary(self, c: np.ndarray) -> str | None:
        lag = np.abs(np.subtract.outer(np.arange(len(c) + 1), np.arange(len(c) + 1)))
        if np.linalg.eigvalsh(np.append(1.0, c)[lag])[0] < 1e-6:
            return "the residual correlation matrix is singular"
        return None


@kernel
def toeplitz(c, s, t):
    """Correlation of two rows at times s and t."""
    return c[int(round(abs(s - t))) - 1]


@kernel
def add_toeplitz_gradient(c, s, t, d, out):
    """Add d times the derivative in c."""
    out[int(round(abs(s - t))) - 1] += d


@kernel
def lag_correlations(partial):
    """Correlations by lag from partial autocorrelations (K,), as :func:`_durbin_levinson`."""
    K = partial.shape[0]
    r, phi, new, v = np.empty(K), np.empty(K), np.empty(K), 1.0
    for k in range(K):
        p = partial[k]
        r[k] = v * p
        for j in range(k):
            r[k] += phi[j] * r[k - 1 - j]
            new[j] = phi[j] - p * phi[k - 1 - j]
        phi[:k] = new[:k]
        phi[k] = p
        v *= 1.0 - p * p
    return r


@kernel
def pullback_lag_correlations(partial, d_r):
    """Derivatives in the partial autocorrelations, by the recursion's derivative in each."""
    K = partial.shape[0]
    out = np.zeros(K)
    r, d_r_i = np.empty(K), np.empty(K)
    phi, new, d_phi, d_new = np.empty(K), np.empty(K), np.empty(K), np.empty(K)
    for i in range(K):
        v, d_v = 1.0, 0.0
        for k in range(K):
            p, d_p = partial[k], 1.0 if k == i else 0.0
            r[k], d_r_i[k] = v * p, d_v * p + v * d_p
            for j in range(k):
                back = k - 1 - j
                r[k] += phi[j] * r[back]
                d_r_i[k] += d_phi[j] * r[back] + phi[j] * d_r_i[back]
                new[j] = phi[j] - p * phi[back]
                d_new[j] = d_phi[j] - d_p * phi[back] - p * d_phi[back]
            phi[:k], d_phi[:k] = new[:k], d_new[:k]
            phi[k], d_phi[k] = p, d_p
            d_v = d_v * (1.0 - p * p) - 2.0 * v * p * d_p
            v *= 1.0 - p * p
            out[i] += d_r[k] * d_r_i[k]
    return out


def _lags(group: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Distances that two rows of a group have, in order."""
    order = np.lexsort((time, group))
    group, time, found = group[order], np.round(time[order]).astype(int), [np.zeros(0, int)]
    for k in range(1, int(np.bincount(group).max())):
        found.append((time[k:] - time[:-k])[group[k:] == group[:-k]])
    return np.unique(np.concatenate(found))


def _durbin_levinson(partial: list) -> list:
    """Autocorrelations from partial ones, tensors: with phi the coefficients of the
    best prediction from k - 1 values and v its relative variance,
    r_k = phi'(r_{k-1}, ..., r_1) + v partial_k.
    """
    r: list = []
    phi: list = []
    v = 1.0
    for p in partial:
        r.append(sum(a * b for a, b in zip(phi, r[::-1], strict=True)) + v * p)
        phi = [a - p * b for a, b in zip(phi, phi[::-1], strict=True)] + [p]
        v = v * (1.0 - p * p)
    return r
