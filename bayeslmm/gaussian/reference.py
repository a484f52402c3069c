"""The formulas, dense: an n x n matrix V, numpy alone, as slow as it is plain.

With G = blockdiag(A_k (x) Sigma_k) over all effects, V = Z G Z' + R, and a prior on beta given
as root beta - target ~ N(0, I) (``root`` may be empty: flat),

    P = X'V^-1 X + root'root,    beta^ = P^-1 (X'V^-1 y + root'target),    e = y - X beta^,
    log p(y) = -1/2 [ (n - p + r) log 2 pi + log|V| - log|root'root| + log|P|
                      + e'V^-1 e + |root beta^ - target|^2 ],
    dl/dV = 1/2 [ V^-1 e e'V^-1 - V^-1 + V^-1 X P^-1 X'V^-1 ],    dl = <dl/dV, dV>.

Maximum likelihood has neither P nor the prior in the value, and no last term in the derivative.
(beta, b) given y and theta is normal: beta ~ N(beta^, P^-1), E(b) = G Z'V^-1 e, and b moves by
-G Z'V^-1 X with beta. Every engine is tested against this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np

from bayeslmm.gaussian._coefficients import CoefficientPrior
from bayeslmm.gaussian.coordinates import Coordinates
from bayeslmm.gaussian.marginal import FixedPrior
from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.gaussian.system import Evaluation, Moments, RowInformation, System, Theta
from bayeslmm.parts.patterns import CovariancePattern
from bayeslmm.parts.structures import Structure, correlations

__all__ = ["DenseSystem"]

#: Imaginary step of derivatives in c: error of order step^2, no cancellation.
_STEP = 1e-30


@dataclass(frozen=True)
class DenseSystem(System):
    """A Gaussian mixed model by n x n matrices, in the user's own coordinates.

    Attributes
    ----------
    y, X : (n,) and (n, p) arrays
    factors, patterns
        Grouping factors and their covariance patterns.
    structure : Structure
    group, time : (n,) arrays
    scale : (n, s) array
        log sd_i = scale_i eta.
    weights : (n,) array or None
    relationships : tuple of (J_k, J_k) array or None
        A_k; None for unrelated levels.
    """

    y: np.ndarray
    X: np.ndarray
    factors: tuple[FactorRows, ...]
    patterns: tuple[CovariancePattern, ...]
    structure: Structure
    group: np.ndarray
    time: np.ndarray
    scale: np.ndarray
    weights: np.ndarray | None = None
    relationships: tuple[np.ndarray | None, ...] = ()

    n = property(lambda self: len(self.y))
    p = property(lambda self: self.X.shape[1])
    coordinates = property(lambda self: Coordinates.identity(self.p))
    n_normals = property(lambda self: self.p + sum(f.n_levels * f.q for f in self.factors))

    @property
    def rest(self) -> np.ndarray:
        """Least-squares residuals."""
        return self.y - self.X @ np.linalg.lstsq(self.X, self.y, rcond=None)[0]

    @property
    def layout(self) -> SimpleNamespace:
        """Starts of the flat factors."""
        return SimpleNamespace(f_ptr=np.cumsum([0, *(p.q**2 for p in self.patterns)]))

    def residual_covariance(self, eta: np.ndarray, c: np.ndarray) -> np.ndarray:
        """R, (n, n)."""
        sd = np.sqrt(self.row_variances(eta))
        C = correlations(self.structure.name, c, self.group, self.time, self.structure.n_times)
        return np.outer(sd, sd) * C

    def effect_covariance(self, F: np.ndarray) -> np.ndarray:
        """G, (N, N)."""
        G, at = np.zeros((self.n_normals - self.p,) * 2), 0
        related = self.relationships or (None,) * len(self.factors)
        for f, A, Sigma in zip(self.factors, related, self.covariances(F), strict=True):
            A, size = np.eye(f.n_levels) if A is None else A, f.n_levels * f.q
            G[at : at + size, at : at + size] = np.kron(A, Sigma)
            at += size
        return G

    def columns(self, Z: Sequence[np.ndarray], codes: Sequence[np.ndarray], m: int) -> np.ndarray:
        """Z of m rows, (m, N)."""
        wide = [np.zeros((m, 0))]
        for f, z, code in zip(self.factors, Z, codes, strict=True):
            part = np.zeros((m, f.n_levels, f.q))
            part[np.arange(m), code] = z
            wide.append(part.reshape(m, -1))
        return np.hstack(wide)

    def _solved(self, theta: Theta, prior: CoefficientPrior, ml: bool = False) -> SimpleNamespace:
        """V^-1, G, Z, P^-1 (``covariance``), beta^, V^-1 e (``u``) and the value."""
        X, y, root, target, log_det_prior = self.X, self.y, *prior[:3]
        if ml:
            root, target, log_det_prior = np.zeros((0, self.p)), target[:0], 0.0
        lifted = len(prior.known) > 0 and not ml
        if lifted:
            X, y = X @ prior.basis, y - X @ prior.known
        Z = self.columns([f.Z for f in self.factors], [f.codes for f in self.factors], self.n)
        G = self.effect_covariance(theta.F)
        V = Z @ G @ Z.T + self.residual_covariance(theta.eta, theta.c)
        W = np.linalg.inv(V)
        P = X.T @ W @ X + root.T @ root
        covariance = np.linalg.inv(P)
        beta = covariance @ (X.T @ W @ y + root.T @ target)
        e, gap = y - X @ beta, root @ beta - target
        value = self.n * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + e @ W @ e
        if not ml:
            value += (len(root) - X.shape[1]) * np.log(2 * np.pi) - log_det_prior
            value += np.linalg.slogdet(P)[1] + gap @ gap
        slopes = np.empty(0)
        if lifted:
            squares = beta**2 + np.diag(covariance) - 1.0
            slopes = np.concatenate([self.X.T @ W @ e, squares])
            beta = prior.known + prior.basis @ beta
            covariance = prior.basis @ covariance @ prior.basis.T
        return SimpleNamespace(
            W=W, G=G, Z=Z, covariance=covariance, beta=beta, u=W @ e, value=-0.5 * value,
            slopes=slopes,
        )  # fmt: skip

    def evaluate(
        self, theta: Theta, prior: CoefficientPrior, ml: bool = False, gradient: bool = True
    ) -> Evaluation:
        at = self._solved(theta, prior, ml)
        WX = at.W @ self.X
        D = 0.5 * (np.outer(at.u, at.u) - at.W + (0 if ml else WX @ at.covariance @ WX.T))
        d_Sigma, start = [np.zeros(0)], 0
        related = self.relationships or (None,) * len(self.factors)
        for f, A in zip(self.factors, related, strict=True):
            J, q = f.n_levels, f.q
            Zk = at.Z[:, start : start + J * q]
            inner = (Zk.T @ D @ Zk).reshape(J, q, J, q)
            d_Sigma.append(np.einsum("iajb,ij->ab", inner, np.eye(J) if A is None else A).ravel())
            start += J * q
        DR = (D * self.residual_covariance(theta.eta, theta.c)).sum(axis=1)
        d_c = np.zeros(len(theta.c))
        for i in range(len(theta.c)):
            step = theta.c + 1j * _STEP * (np.arange(len(theta.c)) == i)
            d_c[i] = np.sum(D * self.residual_covariance(theta.eta, step).imag) / _STEP
        d_eta = 2.0 * DR @ self.scale
        return Evaluation(at.value, np.concatenate(d_Sigma), d_eta, d_c, at.slopes)

    def joint(self, theta: Theta, prior: FixedPrior | CoefficientPrior | None = None):
        """Mean and covariance of (beta, b) given y and theta, b factor by factor."""
        at = self._solved(theta, self.prior(prior))
        GZ = at.G @ at.Z.T
        slopes = np.vstack([np.eye(self.p), -GZ @ at.W @ self.X])
        covariance = slopes @ at.covariance @ slopes.T
        covariance[self.p :, self.p :] += at.G - GZ @ at.W @ GZ.T
        return np.concatenate([at.beta, GZ @ at.u]), covariance

    def _effects(self, b: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([f.n_levels * f.q for f in self.factors])[:-1]
        parts = np.split(b, ends, axis=-1) if self.factors else []
        return [
            part.reshape(*b.shape[:-1], f.n_levels, f.q)
            for part, f in zip(parts, self.factors, strict=True)
        ]

    def solve(self, theta: Theta, prior: FixedPrior | None = None, ml: bool = False) -> Moments:
        at = self._solved(theta, self.prior(prior), ml)
        root = self.coordinates.root_to_user(at.covariance)
        b = self._effects(at.G @ at.Z.T @ at.u)
        return Moments(float(at.value), at.beta, at.covariance, b, root)

    def row_information(
        self, theta: Theta, prior: FixedPrior | None = None, rows=slice(None)
    ) -> RowInformation:
        at = self._solved(theta, self.prior(prior))
        return RowInformation(at.u[rows], (at.W @ self.X)[rows], np.diag(at.W)[rows], at.covariance)

    def left_out(self, theta: Theta, prior: FixedPrior | None = None):
        """Mean and variance of every row given all others, by leaving them out one by one."""
        Z = self.columns([f.Z for f in self.factors], [f.codes for f in self.factors], self.n)
        V = Z @ self.effect_covariance(theta.F) @ Z.T + self.residual_covariance(theta.eta, theta.c)
        mean, variance = np.empty(self.n), np.empty(self.n)
        for i in range(self.n):
            keep = np.arange(self.n) != i
            W = np.linalg.inv(V[np.ix_(keep, keep)])
            found = self.with_rows(keep, self.y, self.X).solve(theta, prior)
            h = W @ V[keep, i]
            x = self.X[i] - h @ self.X[keep]
            mean[i] = x @ found.beta + h @ self.y[keep]
            variance[i] = V[i, i] - h @ V[keep, i] + x @ found.vcov @ x
        return mean, variance

    def effect_covariances(self, theta: Theta) -> list[np.ndarray]:
        at = self._solved(theta, self.prior(None))
        C = at.G - at.G @ at.Z.T @ at.W @ at.Z @ at.G
        out, start = [], 0
        for f in self.factors:
            size = f.n_levels * f.q
            own = C[start : start + size, start : start + size].reshape((f.n_levels, f.q) * 2)
            out.append(np.einsum("jajb->jab", own))
            start += size
        return out

    def predictor_variance(self, theta: Theta, X, Z: Sequence, codes: Sequence) -> np.ndarray:
        rows = np.hstack([X, self.columns(Z, codes, len(X))])
        return np.einsum("ij,jk,ik->i", rows, self.joint(theta)[1], rows)

    def draw(self, F, eta, c, prior: FixedPrior | CoefficientPrior, normals: np.ndarray):
        out = np.empty_like(normals)
        for d in range(len(normals)):
            mean, covariance = self.joint(Theta(F[d], eta[d], c[d]), prior)
            values, vectors = np.linalg.eigh(covariance)
            out[d] = mean + vectors @ (np.sqrt(np.maximum(values, 0.0)) * normals[d])
        return out[:, : self.p], self._effects(out[:, self.p :])

    def residual_root(self, theta: Theta) -> Callable:
        C = np.linalg.cholesky(self.residual_covariance(theta.eta, theta.c))

        def apply(values: np.ndarray, *, inverse: bool) -> np.ndarray:
            flat = values.reshape(self.n, -1)
            return (np.linalg.solve(C, flat) if inverse else C @ flat).reshape(values.shape)

        return apply

    def with_response(self, y: np.ndarray, X: np.ndarray) -> DenseSystem:
        return replace(self, y=y, X=X)

    def with_effects(self, matrices: Sequence[np.ndarray | None]) -> DenseSystem:
        factors = tuple(f.mapped(K) for f, K in zip(self.factors, matrices, strict=True))
        return replace(self, factors=factors)

    def with_rows(self, keep: np.ndarray, y: np.ndarray, X: np.ndarray) -> DenseSystem:
        return replace(
            self, y=y[keep], X=X[keep], factors=tuple(f.take(keep) for f in self.factors),
            group=self.group[keep], time=self.time[keep], scale=self.scale[keep],
            weights=None if self.weights is None else self.weights[keep],
        )  # fmt: skip
