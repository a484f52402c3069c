"""Directions of the variance parameters in which the covariance of the data does not change.

V = sum_k Z_k (I (x) Sigma_k) Z_k' + sigma^2 W^-1 is linear in the entries of the Sigma_k and in
sigma^2, so that they are determined by V exactly where the matrices they multiply are linearly
independent: where the Gram matrix tr(D_a D_b) of those matrices has full rank. It is a function
of the cross-products of Z.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayeslmm.parts.patterns import CovariancePattern

from .crossproducts import CrossProducts

__all__ = ["unidentified_directions"]

#: Eigenvalues of the Gram matrix of matrices of length one below this are zeros.
_ZERO = 1e-9
#: The Gram matrix is dense over the parameters of all covariance matrices.
_MOST_PARAMETERS = 1000


def unidentified_directions(
    cp: CrossProducts,
    patterns: Sequence[CovariancePattern],
    factors: Sequence[int],
    *,
    sigma: bool,
) -> list[tuple[list[np.ndarray], float]]:
    """A basis of the changes of (Sigma_k, sigma^2) that leave V as it is.

    Parameters
    ----------
    cp : CrossProducts
    patterns : sequence of CovariancePattern
        One per grouping factor.
    factors : sequence of int
        Which grouping factors to look at, none of them with related levels.
    sigma : bool
        Whether sigma^2 is a parameter.

    Returns
    -------
    list of (list of (q_k, q_k) arrays, float)
        Changes of the covariance matrices of all factors, in units of the columns' sizes, and
        of sigma^2; the largest entry is one. None are looked for among very many parameters.
    """
    if sum(patterns[k].q ** 2 for k in factors) > _MOST_PARAMETERS:
        return []
    bases = {k: _basis(cp.factors[k].zz.sum(axis=0), patterns[k]) for k in factors}
    sizes = [bases[k].shape[1] for k in factors] + [int(sigma)]
    at = np.concatenate([[0], np.cumsum(sizes)])
    gram = np.zeros((at[-1], at[-1]))
    for i, k in enumerate(factors):
        for j, m in enumerate(factors[: i + 1]):
            block = bases[k].T @ _products(cp, k, m) @ bases[m]
            gram[at[i] : at[i + 1], at[j] : at[j + 1]] = block
            gram[at[j] : at[j + 1], at[i] : at[i + 1]] = block.T
        if sigma:
            trace = bases[k].T @ cp.factors[k].zz.sum(axis=0).ravel()
            gram[at[i] : at[i + 1], -1] = gram[-1, at[i] : at[i + 1]] = trace
    if sigma:
        gram[-1, -1] = cp.n
    length = np.sqrt(np.diag(gram))
    length = np.where(length > 1e-7 * length.max(), length, 1.0)  # effects that never meet
    values, vectors = np.linalg.eigh(gram / np.outer(length, length))
    found = []
    for v in vectors[:, values < _ZERO * len(values)].T / length[:, None].T:
        changes = [np.zeros((p.q, p.q)) for p in patterns]
        for i, k in enumerate(factors):
            scale = cp.factors[k].column_scales
            part = bases[k] @ v[at[i] : at[i + 1]]
            changes[k] = part.reshape(len(scale), -1) * np.outer(scale, scale)
        residual = float(v[-1]) if sigma else 0.0
        largest = max([abs(residual), *(np.abs(C).max(initial=0.0) for C in changes)])
        found.append(([C / largest for C in changes], residual / largest))
    return found


def _basis(gram: np.ndarray, pattern: CovariancePattern) -> np.ndarray:
    """Symmetric matrices that span those of a pattern, (q^2, r).

    The columns of a correlated block are made orthonormal first: all of its covariance matrices
    are its parameters, whatever the coordinates, and a covariate far from zero is not mistaken
    for the intercept.
    """
    matrices = []
    for block in pattern.blocks:
        at = np.array(block)
        part = gram[at[:, None], at]
        size = np.sqrt(np.diag(part))
        values, vectors = np.linalg.eigh(part / np.outer(size, size))
        kept = values > 1e-10 * values[-1]
        T = vectors[:, kept] / np.sqrt(values[kept]) / size[:, None]
        for i in range(T.shape[1]):
            for j in range(i + 1):
                E = T[:, i, None] * T[:, j]
                full = np.zeros((pattern.q, pattern.q))
                full[at[:, None], at] = 0.5 * (E + E.T)
                matrices.append(full.ravel())
    return np.column_stack(matrices)


def _products(cp: CrossProducts, k: int, m: int) -> np.ndarray:
    """K with tr(Z_k (I (x) E) Z_k' Z_m (I (x) F) Z_m') = vec(E)' K vec(F), (q_k^2, q_m^2)."""
    if k == m:
        values = cp.factors[k].zz
    else:
        values = cp.pairs[min(k, m), max(k, m)].values
        values = values if k < m else np.swapaxes(values, 1, 2)
    n, a, b = values.shape
    flat = np.ascontiguousarray(values).reshape(n, a * b)
    products = (flat.T @ flat).reshape(a, b, a, b)
    return products.transpose(0, 2, 1, 3).reshape(a * a, b * b)
