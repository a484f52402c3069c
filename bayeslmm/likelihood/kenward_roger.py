"""Kenward-Roger: adjusted covariance of the coefficients and degrees of freedom.

Kenward and Roger (1997), Biometrics 53(3), with the expected information and no second
derivatives of V, which is linear in its parameters; formulas as in Halekoh and Hojsgaard
(2014), J. Stat. Softw. 59(9), section 4, whose guards against small divisors are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bayeslmm.gaussian import (
    Problem,
    VarianceDerivatives,
    single_threaded_blas,
    variance_derivative_terms,
)
from bayeslmm.gaussian.coordinates import Coordinates

__all__ = ["KenwardRoger", "adjustment", "kenward_roger", "unit_rows"]


@dataclass(frozen=True)
class KenwardRoger:
    """The adjustment at a REML optimum.

    Attributes
    ----------
    Phi, Phi_A : (p, p) arrays
        Unadjusted and adjusted covariance, of the coefficients computed with.
    P : (r, p, p) array
        X'V^-1 V_i V^-1 X for the free entries of the Sigma_k and sigma^2, X as computed with.
    W : (r, r) array
        Inverse expected information of these parameters.
    coordinates : Coordinates
        Between the user's coefficients and those computed with.
    """

    Phi: np.ndarray
    Phi_A: np.ndarray
    P: np.ndarray
    W: np.ndarray
    coordinates: Coordinates

    @property
    def vcov(self) -> np.ndarray:
        """Unadjusted covariance, (p, p)."""
        return self.coordinates.covariance_to_user(self.Phi)

    @property
    def adjusted(self) -> np.ndarray:
        """Adjusted covariance, (p, p)."""
        return self.coordinates.covariance_to_user(self.Phi_A)

    def f_test(self, L: np.ndarray, beta: np.ndarray) -> tuple[float, float, float]:
        """Scaled F statistic of L beta = 0, with its degrees of freedom.

        Parameters
        ----------
        L : (k, p) array
        beta : (p,) array

        Returns
        -------
        F, numerator, denominator : float
            Kenward and Roger (1997), section 3.
        """
        L = np.atleast_2d(L)
        rows = L @ self.coordinates.G_inverse
        kept = _independent(rows @ self.Phi @ rows.T)
        if len(kept) == 0:
            return np.nan, 0.0, np.nan
        L, rows = kept @ L, kept @ rows
        denominator, scale = self._scaling(rows)
        difference = L @ beta
        statistic = difference @ np.linalg.solve(rows @ self.Phi_A @ rows.T, difference) / len(L)
        return float(scale * statistic), float(len(L)), denominator

    def df(self, L: np.ndarray) -> np.ndarray:
        """Denominator degrees of freedom of each row of `L` by itself, shape (k,).

        NaN for a row without variance, such as one of an aliased coefficient.
        """
        rows = np.atleast_2d(L) @ self.coordinates.G_inverse
        variance = np.einsum("ka,ab,kb->k", rows, self.Phi, rows)
        return np.array(
            [
                self._scaling(row[None, :])[0] if size > 0 else np.nan
                for row, size in zip(rows, variance, strict=True)
            ]
        )

    def _scaling(self, L: np.ndarray) -> tuple[float, float]:
        """Denominator degrees of freedom and the factor lambda."""
        q = len(L)
        Theta = L.T @ np.linalg.solve(L @ self.Phi @ L.T, L)
        TP = np.einsum("ab,bc,icd,de->iae", Theta, self.Phi, self.P, self.Phi, optimize=True)
        traces = np.einsum("iaa->i", TP)
        A1 = float(traces @ self.W @ traces)
        A2 = float(np.einsum("ij,iab,jba->", self.W, TP, TP, optimize=True))
        B = (A1 + 6 * A2) / (2 * q)
        g = _divide((q + 1) * A1 - (q + 4) * A2, (q + 2) * A2)
        c = 3 * q + 2 * (1 - g)
        V0, V1, V2 = 1 + g / c * B, 1 - (q - g) / c * B, 1 - (q + 2 - g) / c * B
        V0 = 0.0 if abs(V0) < 1e-10 else V0
        rho = (_divide(1 - A2 / q, V1) ** 2) * _divide(V0, V2) / q
        df = 4 + _divide(q + 2, q * rho - 1)
        plain = abs(df - 2) < 1e-2 or not np.isfinite(df)  # infinite where nothing is estimated
        scale = 1.0 if plain else df * (1 - A2 / q) / (df - 2)
        return float(df), float(scale)


def kenward_roger(problem: Problem, Ls: list[np.ndarray], sigma: float) -> KenwardRoger:
    """The Kenward-Roger adjustment, without any n x n matrix.

    Parameters
    ----------
    problem : Problem
    Ls : list of (q_k, q_k) arrays
        Absolute factors at the REML optimum, Sigma_k = L_k L_k'.
    sigma : float

    Returns
    -------
    KenwardRoger

    Notes
    -----
    Phi_A = Phi + 2 Phi [sum_ij W_ij (Q_ij - P_i Phi P_j)] Phi (Kenward and Roger 1997, eq. 4).
    A known sigma is none of the parameters i, j.
    """
    computed = replace(problem, coordinates=Coordinates.identity(problem.p))
    with single_threaded_blas():
        terms = variance_derivative_terms(computed, Ls, sigma)
    if problem.known_sigma is not None:
        terms = terms.without_sigma()
    return adjustment(terms, problem.coordinates)


def adjustment(
    terms: VarianceDerivatives, coordinates: Coordinates, second: np.ndarray | None = None
) -> KenwardRoger:
    """Adjusted covariance from the derivatives of V.

    Parameters
    ----------
    terms : VarianceDerivatives
        Of the columns computed with: those of the user may be nearly collinear.
    coordinates : Coordinates
    second : (r, r, p, p) array, optional
        R_ij = X'V^-1 V_ij V^-1 X with V_ij the second derivatives, where V is not linear in its
        parameters: Phi_A = Phi + 2 Phi [sum_ij W_ij (Q_ij - P_i Phi P_j - R_ij / 4)] Phi.
    """
    Phi = np.linalg.inv(terms.information)
    information = 0.5 * terms.projected_trace()
    W = _inverse_information(information)
    inner = np.einsum("ij,ijab->ab", W, terms.Q, optimize=True)
    inner -= np.einsum("ij,iab,bc,jcd->ad", W, terms.P, Phi, terms.P, optimize=True)
    if second is not None:
        inner -= 0.25 * np.einsum("ij,ijab->ab", W, second, optimize=True)
    adjusted = Phi + 2 * Phi @ inner @ Phi
    return KenwardRoger(Phi, 0.5 * (adjusted + adjusted.T), terms.P, W, coordinates)


def _inverse_information(information: np.ndarray) -> np.ndarray:
    """Inverse on the scale of its diagonal; directions without information are left out."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
    return np.linalg.pinv(
        information / np.outer(scale, scale), rcond=1e-10, hermitian=True
    ) / np.outer(scale, scale)


def _divide(a: float, b: float) -> float:
    """a / b, and 1 where both vanish."""
    if abs(a) < 1e-14 and abs(b) < 1e-14:
        return 1.0
    return a / b if b != 0 else np.inf


def _independent(covariance: np.ndarray) -> np.ndarray:
    """Combinations of rows that span the same hypothesis, linearly independent.

    Judged with each row in units of its standard error: a test of several combinations does not
    depend on their units, and so its rank must not.
    """
    units = unit_rows(covariance)
    values, vectors = np.linalg.eigh(units @ covariance @ units.T)
    kept = values > 1e-10 * max(values.max(initial=0.0), 0.0)
    return units if kept.all() else vectors[:, kept].T @ units


def unit_rows(covariance: np.ndarray) -> np.ndarray:
    """Diagonal scaling of rows to variance 1, without those that have none."""
    variance = np.diag(covariance)
    kept = np.flatnonzero(variance > 0)
    return np.eye(len(variance))[kept] / np.sqrt(variance[kept])[:, None]
