"""Tests of linear combinations of the coefficients under each choice of degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import chdtrc, fdtrc, ndtri, stdtr, stdtrit

from bayeslmm.likelihood.kenward_roger import KenwardRoger, unit_rows
from bayeslmm.likelihood.satterthwaite import (
    VarianceCurvature,
    satterthwaite_df,
    satterthwaite_f_df,
)

__all__ = [
    "Inference",
    "KenwardRogerInference",
    "KnappHartungInference",
    "NormalInference",
    "SatterthwaiteInference",
    "knapp_hartung",
    "t_quantile",
    "t_table",
]


class Inference(Protocol):
    """How the uncertainty of estimated variances enters tests of the coefficients."""

    @property
    def vcov(self) -> np.ndarray:
        """Covariance of the coefficients, shape (p, p)."""

    def df(self, L: np.ndarray) -> np.ndarray:
        """Degrees of freedom of the t statistic of each row of L, shape (k,)."""

    def f_test(self, L: np.ndarray, beta: np.ndarray) -> tuple[float, float, float]:
        """F statistic of L beta = 0, numerator and denominator degrees of freedom."""


@dataclass(frozen=True)
class NormalInference:
    """Variances taken as known: z statistics and chi-squared tests."""

    vcov: np.ndarray

    def df(self, L: np.ndarray) -> np.ndarray:
        """Infinite for every row."""
        return np.full(len(np.atleast_2d(L)), np.inf)

    def f_test(self, L: np.ndarray, beta: np.ndarray) -> tuple[float, float, float]:
        """Wald chi-squared over its degrees of freedom."""
        L = np.atleast_2d(L)
        L = unit_rows(L @ self.vcov @ L.T) @ L
        if len(L) == 0:
            return np.nan, 0.0, np.inf
        middle = np.linalg.pinv(L @ self.vcov @ L.T, rcond=1e-10, hermitian=True)
        rank = int(np.linalg.matrix_rank(L @ self.vcov @ L.T, rtol=1e-10, hermitian=True))
        difference = L @ beta
        return float(difference @ middle @ difference / rank), float(rank), np.inf


@dataclass(frozen=True)
class KnappHartungInference(NormalInference):
    """The covariance scaled by the residuals of the studies, t and F with k - p df."""

    residual_df: int

    def df(self, L: np.ndarray) -> np.ndarray:
        """k - p for every row."""
        return np.full(len(np.atleast_2d(L)), float(self.residual_df))

    def f_test(self, L: np.ndarray, beta: np.ndarray) -> tuple[float, float, float]:
        """Wald statistic over its degrees of freedom, F with k - p df below."""
        statistic, numerator, _ = super().f_test(L, beta)
        return statistic, numerator, float(self.residual_df)


def knapp_hartung(
    vcov: np.ndarray, residuals: np.ndarray, variance: np.ndarray
) -> KnappHartungInference:
    """Tests of a meta-analysis whose covariance (X'V^-1X)^-1 is scaled by the studies' residuals.

    By q = r'V^-1 r / (k - p), V diagonal, which is not kept from falling below 1: Hartung and
    Knapp (2001), Statistics in Medicine 20(12), with moderators Knapp and Hartung (2003),
    Statistics in Medicine 22(17).

    Parameters
    ----------
    vcov : (p, p) array
        (X'V^-1X)^-1.
    residuals, variance : (k,) arrays
        Of the studies: y - X beta, and the diagonal of V.
    """
    df = len(residuals) - len(vcov)
    q = float(np.sum(residuals**2 / variance)) / df
    return KnappHartungInference(q * vcov, df)


@dataclass(frozen=True)
class SatterthwaiteInference:
    """Satterthwaite's degrees of freedom."""

    vcov: np.ndarray
    curvature: VarianceCurvature

    def df(self, L: np.ndarray) -> np.ndarray:
        """One per row."""
        return satterthwaite_df(L, self.vcov, self.curvature)

    def f_test(self, L: np.ndarray, beta: np.ndarray) -> tuple[float, float, float]:
        """F with matched denominator degrees of freedom."""
        return satterthwaite_f_df(L, beta, self.vcov, self.curvature)


@dataclass(frozen=True)
class KenwardRogerInference:
    """Kenward and Roger's adjusted covariance and degrees of freedom."""

    adjustment: KenwardRoger

    @property
    def vcov(self) -> np.ndarray:
        """The adjusted covariance matrix."""
        return self.adjustment.adjusted

    def df(self, L: np.ndarray) -> np.ndarray:
        """One per row."""
        return self.adjustment.df(L)

    def f_test(self, L: np.ndarray, beta: np.ndarray) -> tuple[float, float, float]:
        """Scaled F."""
        return self.adjustment.f_test(L, beta)


def t_table(
    L: np.ndarray,
    beta: np.ndarray,
    inference: Inference,
    level: float,
    offset: np.ndarray | float = 0.0,
) -> dict[str, np.ndarray]:
    """Estimate, standard error, df, t, two-sided p and interval of each row of L.

    Parameters
    ----------
    L : (k, p) array
    beta : (p,) array
    offset : (k,) array or float
        Known part of each combination.

    Returns
    -------
    dict of (k,) arrays
        ``estimate se df t p lower upper``.
    """
    L = np.atleast_2d(np.asarray(L, dtype=float))
    estimate = L @ beta + offset
    se = np.sqrt(np.maximum(np.einsum("ka,ab,kb->k", L, inference.vcov, L), 0.0))
    df = inference.df(L)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = estimate / se
    half = t_quantile(0.5 + level / 2, df) * se
    return {
        "estimate": estimate,
        "se": se,
        "df": df,
        "t": t,
        "p": 2 * stdtr(np.where(np.isfinite(df), df, 1e12), -np.abs(t)),
        "lower": estimate - half,
        "upper": estimate + half,
    }


def f_probability(statistic: float, numerator: float, denominator: float) -> float:
    """Upper tail of the F distribution (chi-squared where the denominator is infinite)."""
    if not np.isfinite(denominator):
        return float(chdtrc(numerator, statistic * numerator))
    return float(fdtrc(numerator, denominator, statistic))


def t_quantile(probability: float, df: np.ndarray) -> np.ndarray:
    """Quantile of Student's t; the normal's where the degrees of freedom are infinite."""
    finite = np.isfinite(df)
    return np.where(finite, stdtrit(np.where(finite, df, 1.0), probability), ndtri(probability))
