"""The likelihood of a mixed model from its n x n covariance matrix, and everything that follows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import optimize

__all__ = ["DenseModel", "Part", "State", "basis", "value_in_long_doubles"]


def basis(columns: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """Orthonormal columns that span ``columns``, the constant (where it is in the span) first.

    Columns far from zero are centered before their rank is judged.
    """
    n = len(columns)
    if columns.shape[1] == 0:
        return np.zeros((n, 0))
    size = np.sqrt(np.mean(columns**2, axis=0))
    scaled = columns[:, size > 0] / size[size > 0]
    one = np.full((n, 1), n**-0.5)
    found = np.linalg.lstsq(scaled, one, rcond=1e-13)[0]
    first = one if np.abs(scaled @ found - one).max() < 1e-9 else np.zeros((n, 0))
    rest = scaled - first @ (first.T @ scaled)
    rest = rest - first @ (first.T @ rest)
    spread = np.sqrt(np.mean(rest**2, axis=0))
    rest = rest[:, spread > tolerance] / spread[spread > tolerance]
    if rest.shape[1] == 0:
        return first
    U, values, _ = np.linalg.svd(rest, full_matrices=False)
    return np.column_stack([first, U[:, values > 1e-8 * values[0]]])


@dataclass(frozen=True)
class Part:
    """Effects of one grouping factor that share a covariance matrix."""

    group: str
    effects: tuple[str, ...]
    Z: np.ndarray
    codes: np.ndarray
    levels: tuple
    A: np.ndarray

    @cached_property
    def K(self) -> np.ndarray:
        """Covariance between the levels of any two rows, (n, n)."""
        return self.A[np.ix_(self.codes, self.codes)]

    @property
    def columns(self) -> np.ndarray:
        """The columns of Z, level by level."""
        same = np.eye(len(self.levels))[self.codes]
        return (same[:, :, None] * self.Z[:, None, :]).reshape(len(self.Z), -1)

    @cached_property
    def size(self) -> np.ndarray:
        """Root mean square of each effect's column."""
        return np.sqrt(np.mean(self.Z**2, axis=0))

    def names(self) -> list[str]:
        """Names of the variance components."""
        sds = [f"sd({effect} | {self.group})" for effect in self.effects]
        corrs = [f"corr({a}, {b} | {self.group})" for a, b in self.pairs()]
        return sds + corrs

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of effects that are correlated."""
        return [(a, b) for i, a in enumerate(self.effects) for b in self.effects[i + 1 :]]


@dataclass(frozen=True)
class State:
    """Covariance parameters: a matrix per part, residual standard deviations, correlations."""

    Sigmas: tuple[np.ndarray, ...]
    sds: np.ndarray
    corr: np.ndarray  # rho, or the correlation matrix of the times

    def scaled(self, c: float) -> State:
        """Of a response c times as large."""
        return State(tuple(c * c * S for S in self.Sigmas), abs(c) * self.sds, self.corr)


@dataclass(frozen=True)
class DenseModel:
    """y (less its offset), a basis of the fixed part, weights, random parts, residuals."""

    y: np.ndarray
    X: np.ndarray
    w: np.ndarray
    parts: tuple[Part, ...]
    kind: str
    group: np.ndarray
    time: np.ndarray
    cell: np.ndarray
    names: tuple[str, ...]

    @property
    def same(self) -> np.ndarray:
        """Whether two rows are in one group of residuals."""
        return self.group[:, None] == self.group

    @property
    def n_times(self) -> int:
        return len(self.names) if self.kind == "unstructured" else 0

    def component_names(self) -> list[str]:
        """Of the parts, then of the residuals."""
        names = [name for part in self.parts for name in part.names()]
        names += self.names
        if self.kind in ("ar1", "cs"):
            names.append("rho")
        labels = np.unique(self.time)
        T = self.n_times
        return names + [
            f"corr({labels[i]}, {labels[j]})" for i in range(T) for j in range(i + 1, T)
        ]

    def state(self, components) -> State:
        """From a table of components by name; correlations beside an sd of 0 count as 0."""
        Sigmas = []
        for part in self.parts:
            sd = np.array([components[f"sd({e} | {part.group})"] for e in part.effects])
            R = np.eye(len(sd))
            for a, b in part.pairs():
                i, j = part.effects.index(a), part.effects.index(b)
                R[i, j] = R[j, i] = np.nan_to_num(components[f"corr({a}, {b} | {part.group})"])
            Sigmas.append(R * np.outer(sd, sd))
        sds = np.array([components[name] for name in self.names])
        T = self.n_times
        corr = np.array([components["rho"]]) if self.kind in ("ar1", "cs") else np.eye(T)
        labels = np.unique(self.time)
        for i in range(T):
            for j in range(i + 1, T):
                corr[i, j] = corr[j, i] = components[f"corr({labels[i]}, {labels[j]})"]
        return State(tuple(Sigmas), sds, corr)

    def correlation(self, corr: np.ndarray) -> np.ndarray:
        """Correlation of the residuals, (n, n)."""
        n = len(self.y)
        if self.kind == "ar1":
            gap = np.abs(self.time[:, None] - self.time)
            C = np.where(self.same, float(corr[0]) ** gap, 0.0)
        elif self.kind == "cs":
            C = np.where(self.same, corr[0], 0.0)
        elif self.kind == "unstructured":
            C = np.where(self.same, corr[np.ix_(self.cell, self.cell)], 0.0)
        else:
            return np.eye(n)
        np.fill_diagonal(C, 1.0)
        return C

    def covariance(self, state: State) -> np.ndarray:
        """V, (n, n)."""
        sd = state.sds[self.cell] / np.sqrt(self.w)
        V = self.correlation(state.corr) * np.outer(sd, sd)
        for part, Sigma in zip(self.parts, state.Sigmas, strict=True):
            V = V + part.K * (part.Z @ Sigma @ part.Z.T)
        return V

    def moments(self, state: State):
        """beta of the basis, its covariance, V^-1 r, V^-1 and log|V|."""
        V = self.covariance(state)
        Vi = np.linalg.inv(V)
        Vi = 0.5 * (Vi + Vi.T)
        Phi = np.linalg.inv(self.X.T @ Vi @ self.X)
        beta = Phi @ (self.X.T @ (Vi @ self.y))
        return beta, Phi, Vi @ (self.y - self.X @ beta), Vi, np.linalg.slogdet(V)[1]

    def loglik(self, state: State, reml: bool) -> float:
        """Log-likelihood, restricted for REML, with the basis as columns."""
        return value_in_long_doubles(self.covariance(state), self.X, self.y, reml)

    def modes(self, state: State) -> dict:
        """Conditional mode and standard deviation (given beta) of every effect of every level."""
        _, _, v, Vi, _ = self.moments(state)
        found = {}
        for part, Sigma in zip(self.parts, state.Sigmas, strict=True):
            ZS = part.Z @ Sigma
            for j, level in enumerate(part.levels):
                C = part.A[j, part.codes][:, None] * ZS  # Cov(y, b_j)
                var = np.diag(part.A[j, j] * Sigma - C.T @ Vi @ C)
                for a, effect in enumerate(part.effects):
                    found[part.group, level, effect] = (C[:, a] @ v, np.sqrt(max(var[a], 0.0)))
        return found

    def predictions(self, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Conditional means of the rows, their standard errors, and those of the fixed part."""
        beta, Phi, v, Vi, _ = self.moments(state)
        C = np.zeros_like(Vi)
        for part, Sigma in zip(self.parts, state.Sigmas, strict=True):
            C = C + part.K * (part.Z @ Sigma @ part.Z.T)
        gap = self.X - C @ Vi @ self.X
        var = np.diag(C) - np.einsum("ij,jk,ik->i", C, Vi, C)
        var = var + np.einsum("ij,jk,ik->i", gap, Phi, gap)
        fixed = np.sqrt(np.einsum("ij,jk,ik->i", self.X, Phi, self.X))
        return self.X @ beta + C @ v, np.sqrt(np.maximum(var, 0.0)), fixed

    # -- maximum likelihood by brute force --------------------------------------------------------

    def maximize(self, reml: bool, starts: int, rng, near: State | None = None):
        """Highest log-likelihood that quasi-Newton descents from several starts reach."""
        search = _Search(self, reml)
        points = [search.start(share) for share in (0.5, 0.03)[: max(starts, 1)]]
        points += [search.start(rng.uniform(), rng) for _ in range(starts - 2)]
        if near is not None:
            points.append(search.from_state(near) + 0.05 * rng.normal(size=search.size))
        best, best_state = -np.inf, None
        for x in points:
            with np.errstate(all="ignore"):
                found = optimize.minimize(
                    search, x, jac=True, method="L-BFGS-B",
                    options={"maxiter": 500, "ftol": 1e-14, "gtol": 1e-7},
                )  # fmt: skip
            state = search.state(found.x)
            value = self.loglik(state, reml)
            if np.isfinite(value) and value > best:
                best, best_state = value, state
        return best, best_state


class _Search:
    """-2 log-likelihood in factors on the scale of their columns, log sds and correlations."""

    def __init__(self, model: DenseModel, reml: bool):
        self.model, self.reml = model, reml
        r = model.y - model.X @ (model.X.T @ model.y)
        self.unit = float(np.sqrt(r @ r / max(len(r) - model.X.shape[1], 1)))
        self.sizes = [len(part.effects) for part in model.parts]
        self.tril = [np.tril_indices(q) for q in self.sizes]
        T = model.n_times
        self.n_corr = T * (T - 1) // 2 if T else int(model.kind in ("ar1", "cs"))
        self.size = sum(len(t[0]) for t in self.tril) + len(model.names) + self.n_corr
        largest = np.bincount(model.group).max()
        self.low = -1.0 / (largest - 1) if model.kind == "cs" else -1.0

    def start(self, share: float, rng=None) -> np.ndarray:
        parts = []
        for q in self.sizes:
            L = np.eye(q) * np.sqrt(share / max(sum(self.sizes), 1))
            if rng is not None:
                L = L + np.tril(0.5 * rng.normal(size=(q, q)))
            parts.append(L[np.tril_indices(q)])
        sds = np.full(len(self.model.names), 0.5 * np.log(1.05 - share))
        corr = np.full(self.n_corr, 0.3) if rng is None else rng.normal(size=self.n_corr)
        return np.concatenate([*parts, sds, corr])

    def from_state(self, state: State) -> np.ndarray:
        parts = []
        for part, Sigma, tril in zip(self.model.parts, state.Sigmas, self.tril, strict=True):
            scaled = Sigma * np.outer(part.size, part.size) / self.unit**2
            values, vectors = np.linalg.eigh(scaled)
            root = vectors * np.sqrt(np.maximum(values, 1e-8))
            parts.append(np.linalg.qr(root.T)[1].T[tril])
        corr = np.zeros(self.n_corr)
        if self.model.kind in ("ar1", "cs"):
            share = (state.corr - self.low) / (1.0 - self.low)
            corr = np.log(np.clip(share, 1e-6, 1 - 1e-6) / np.clip(1 - share, 1e-6, 1))
        elif self.n_corr:
            L = np.linalg.cholesky(state.corr + 1e-6 * np.eye(len(state.corr)))
            corr = (L / np.diag(L)[:, None])[np.tril_indices(len(L), -1)]
        return np.concatenate([*parts, np.log(state.sds / self.unit), corr])

    def _split(self, x):
        Ls, at = [], 0
        for part, q, tril in zip(self.model.parts, self.sizes, self.tril, strict=True):
            L = np.zeros((q, q))
            L[tril] = x[at : at + len(tril[0])]
            Ls.append(L / part.size[:, None] * self.unit)
            at += len(tril[0])
        s = len(self.model.names)
        return Ls, np.exp(np.clip(x[at : at + s], -40, 40)) * self.unit, x[at + s :]

    def _rho(self, w: float) -> float:
        return self.low + (1 - self.low) / (1 + np.exp(-np.clip(w, -30, 30)))

    def _times(self, w: np.ndarray) -> np.ndarray:
        """Correlation matrix from the rows of a unit lower triangle."""
        T = self.model.n_times
        L = np.eye(T)
        L[np.tril_indices(T, -1)] = w
        L = L / np.linalg.norm(L, axis=1)[:, None]
        return L @ L.T

    def _corr(self, w: np.ndarray) -> np.ndarray:
        if self.model.n_times:
            return self._times(w)
        return np.array([self._rho(v) for v in w])

    def state(self, x: np.ndarray) -> State:
        Ls, sds, w = self._split(x)
        return State(tuple(L @ L.T for L in Ls), sds, self._corr(w))

    def __call__(self, x: np.ndarray):
        model, (Ls, sds, w) = self.model, self._split(x)
        state = State(tuple(L @ L.T for L in Ls), sds, self._corr(w))
        try:
            _, Phi, v, Vi, log_det = model.moments(state)
        except np.linalg.LinAlgError:
            return 1e12, np.zeros_like(x)
        value = log_det + model.y @ v
        U = Vi @ model.X
        G = Vi - np.outer(v, v)  # d(-2 l)/dV
        if self.reml:
            value -= np.linalg.slogdet(Phi)[1]
            G = G - U @ Phi @ U.T
        if not np.isfinite(value):
            return 1e12, np.zeros_like(x)
        pieces = []
        for part, L, tril in zip(model.parts, Ls, self.tril, strict=True):
            D = part.Z.T @ (G * part.K) @ part.Z
            pieces.append((2 * D @ L * self.unit / part.size[:, None])[tril])
        sd = sds[model.cell] / np.sqrt(model.w)
        outer = np.outer(sd, sd)
        rows = 2 * (G * model.correlation(state.corr) * outer).sum(axis=1)
        pieces.append(np.bincount(model.cell, rows, minlength=len(sds)))
        slopes = np.zeros(len(w))
        for i in range(len(w)):
            step = np.zeros(len(w))
            step[i] = 1e-5
            change = model.correlation(self._corr(w + step)) - model.correlation(
                self._corr(w - step)
            )
            slopes[i] = np.sum(G * outer * change) / 2e-5
        return value, np.concatenate([*pieces, slopes])


def value_in_long_doubles(V: np.ndarray, X: np.ndarray, y: np.ndarray, reml: bool) -> float:
    """Log-likelihood by a Cholesky factor with extra digits; -inf where V has none."""
    A = np.array(V, dtype=np.longdouble)
    B = np.column_stack([X, y]).astype(np.longdouble)
    n, p = X.shape
    log_det = np.longdouble(0)
    for j in range(n):
        if not A[j, j] > 0:
            return -np.inf
        root = np.sqrt(A[j, j])
        log_det += 2 * np.log(root)
        column = A[j + 1 :, j] / root
        B[j] = B[j] / root
        B[j + 1 :] -= column[:, None] * B[j]
        A[j + 1 :, j + 1 :] -= column[:, None] * column
    gram, right = B[:, :p].T @ B[:, :p], B[:, :p].T @ B[:, p]
    total = np.sum(B[:, p] ** 2)
    log_gram = np.longdouble(0)
    for j in range(p):  # the same elimination, of the normal equations
        root = np.sqrt(gram[j, j])
        log_gram += 2 * np.log(root)
        column, share = gram[j + 1 :, j] / root, right[j] / root
        total -= share**2
        right[j + 1 :] -= column * share
        gram[j + 1 :, j + 1 :] -= column[:, None] * column
    df = n - p if reml else n
    value = df * np.log(2 * np.longdouble(np.pi)) + log_det + total + (log_gram if reml else 0)
    return float(-0.5 * value)
