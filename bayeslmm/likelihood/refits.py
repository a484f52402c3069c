"""Many responses of the same rows: what depends on the design alone is made once.

Everything that a response y adds to the cross-products is linear or quadratic in y, so that a few
matrix products serve all responses; the search itself is compiled (``_settling``), and threads
share the responses out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.assembly import factor_rows
from bayeslmm.gaussian import Problem, Solution, single_threaded_blas
from bayeslmm.gaussian.coordinates import ones_in_span, working_products
from bayeslmm.gaussian.problem import Values
from bayeslmm.gaussian.threads import shared_out
from bayeslmm.likelihood.components import effect_component_values
from bayeslmm.likelihood.engine import Estimates
from bayeslmm.likelihood.optimize import ProfiledSearch, decorrelating, mapped_factors
from bayeslmm.parts.patterns import pack_theta, unpack_theta

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from bayeslmm.formula import Design

__all__ = ["ManyResponses", "can_search"]

#: Fewer responses than this are not worth compiling the search, which takes 18 s once.
_MANY = 100


def can_search(problem: Problem) -> bool:
    """Whether the compiled search is for such a problem."""
    return (
        isinstance(problem.values, Values)
        and problem.head_only
        and problem.known_sigma is None
        and problem.n_parameters > 0
    )


@dataclass(frozen=True)
class ManyResponses:
    """The estimator of a design, see :meth:`LikelihoodEngine.estimator`.

    Attributes
    ----------
    design : Design
    problem : Problem
        With effects that are uncorrelated a priori.
    Ks : list of (q_k, q_k) array or None, or None
        What made its effects, see ``optimize.decorrelating``.
    search : ProfiledSearch
    starts : (k, r) array
    n_others : int
        As :func:`_settling.search` takes it.
    R : (n, p + 1) array
        W [X 1] in the coordinates computed with.
    Zt : list of (J_k q_k, n) sparse arrays
        Z'W of each factor, effects of a level together.
    ones : (p,) array or None
        Coefficients that give a column of ones.
    alone : callable
        Fits responses one by one.
    threads : int, optional
        How many share the work; by default as many as the calling thread may use.
    """

    design: Design
    problem: Problem
    Ks: list[np.ndarray | None] | None
    search: ProfiledSearch
    starts: np.ndarray
    n_others: int
    R: np.ndarray
    Zt: list[csr_array]
    ones: np.ndarray | None
    alone: Callable[[np.ndarray], Iterable[Estimates]]
    threads: int | None = None

    @classmethod
    def of(
        cls, design: Design, problem: Problem, kept: np.ndarray, reml: bool,
        start: np.ndarray | None, alone: Callable[[np.ndarray], Iterable[Estimates]],
    ) -> ManyResponses:  # fmt: skip
        """That of a problem and its rows."""
        with single_threaded_blas():
            Ks = decorrelating(problem)
            if Ks is not None:
                problem = problem.with_effects(Ks)
            search = ProfiledSearch(problem, reml)
            if start is None:
                first, others = search.starts()
                starts = np.stack([first, *others])
                n_others = search.n_others_at_most
            else:
                starts, n_others = start[None], 0
                if Ks is not None:
                    Ls = unpack_theta(problem.patterns, start)
                    Ls = mapped_factors(Ls, Ks, np.linalg.solve)
                    starts = pack_theta(problem.patterns, Ls)[None]
            shift = working_products(problem.products)[0].shift
            columns = shift.applied(design.y, design.X[:, kept])
            weights = np.ones(len(design.y)) if design.weights is None else design.weights
            R = weights[:, None] * np.delete(columns, -2, axis=1)
        return cls(
            design, problem, Ks, search, np.ascontiguousarray(starts, dtype=float), n_others, R,
            [_transposed(rows, weights) for rows in factor_rows(design)],
            ones_in_span(problem.products), alone,
        )  # fmt: skip

    def __call__(self, Y: np.ndarray) -> Iterator[Estimates]:
        """Estimates for responses (m, n), in their order."""
        if len(Y) < _MANY:
            yield from self.alone(Y)
            return
        with single_threaded_blas():
            found = _Searched.of(self, Y)
            solutions = found.solutions(self)
        for solution, components, y, sure, singular in zip(
            solutions, found.components(self), Y, found.sure, found.singular(self), strict=True
        ):
            if sure:
                deviance = -2 * solution.loglik
                yield Estimates(solution, components, deviance, True, bool(singular))
            else:
                yield from self.alone(y[None])

    def products(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What responses (m, n) add to cross-products: Z'W y (m, N), [X y]'W y (m, p + 1), and
        what was subtracted from each before it was squared, (m,).
        """
        Y = Y - self.design.offset
        shift = np.zeros(len(Y))
        weights = self.R[:, -1]
        if self.ones is not None:
            shift = Y[:, weights > 0].mean(axis=1)
            Y -= shift[:, None]
        gram = np.empty((len(Y), self.R.shape[1]))
        gram[:, :-1] = Y @ self.R[:, :-1]
        gram[:, -1] = (Y * Y) @ weights
        columns = np.ascontiguousarray(Y.T)
        Ks = [None] * len(self.Zt) if self.Ks is None else self.Ks
        parts = []
        for Zt, K, pattern in zip(self.Zt, Ks, self.problem.patterns, strict=True):
            own = (Zt @ columns).reshape(-1, pattern.q, len(Y))
            parts.append(own if K is None else np.einsum("ba,jbm->jam", K, own))
        right = self.problem.right_sides(parts)
        return np.ascontiguousarray(right.T), gram, shift


def _transposed(rows, weights: np.ndarray) -> csr_array:
    """Z'W of a factor's rows, (J q, n)."""
    from scipy.sparse import csr_array

    n, q = rows.Z.shape
    at = (rows.codes[:, None] * q + np.arange(q)).ravel()
    values = (rows.Z * weights[:, None]).ravel()
    return csr_array((values, (at, np.repeat(np.arange(n), q))), shape=(rows.n_levels * q, n))


@dataclass(frozen=True)
class _Searched:
    """Where the searches ended, one row per response; see :func:`_settling.search_many`."""

    theta: np.ndarray
    value: np.ndarray
    sure: np.ndarray
    ranks: np.ndarray
    beta: np.ndarray
    inverse: np.ndarray
    pwrss: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, many: ManyResponses, Y: np.ndarray) -> _Searched:
        from bayeslmm.likelihood._evaluation import compiled, evaluate
        from bayeslmm.likelihood._settling import search_many

        right, gram, shift = many.products(Y)
        m, p = len(Y), many.problem.p
        blocks = len(many.search.block_sizes)
        out = (
            np.empty((m, many.problem.n_parameters)), np.empty(m), np.zeros(m, dtype=bool),
            np.zeros((m, blocks), dtype=np.int64), np.empty((m, p)), np.empty((m, p, p)),
            np.empty(m),
        )  # fmt: skip

        def work(first: int, stop: int) -> None:
            criterion, own = compiled(many.search)
            search_many(
                criterion, evaluate, own, right, gram, many.starts, many.n_others, first, stop, *out
            )

        shared_out(work, m, many.threads)
        return cls(*out, shift)

    def factors(self, many: ManyResponses) -> list[np.ndarray]:
        """Relative factors of the model's effects, (m, q_k, q_k)."""
        patterns = many.problem.patterns
        ends = np.cumsum([p.n_parameters for p in patterns])[:-1]
        Ls = []
        for pattern, part in zip(patterns, np.split(self.theta, ends, axis=1), strict=True):
            L = np.zeros((len(part), pattern.q, pattern.q))
            L[:, *pattern.entries] = part
            Ls.append(L)
        return Ls if many.Ks is None else mapped_factors(Ls, many.Ks, np.matmul)

    def sigma(self, many: ManyResponses) -> np.ndarray:
        """Residual standard deviations, (m,)."""
        problem = many.problem
        return np.sqrt(self.pwrss / (problem.n - problem.p if many.search.reml else problem.n))

    def solutions(self, many: ManyResponses) -> Iterator[Solution]:
        """One per response."""
        problem, sigma, Ls = many.problem, self.sigma(many), self.factors(many)
        G_inverse = problem.coordinates.G_inverse
        beta = self.beta @ G_inverse.T
        if many.ones is not None:
            beta += self.shift[:, None] * many.ones
        vcov = (sigma**2)[:, None, None] * (G_inverse @ self.inverse @ G_inverse.T)
        theta = np.concatenate(
            [L[:, *p.entries] for L, p in zip(Ls, problem.patterns, strict=True)], axis=1
        )
        loglik, scale = -0.5 * self.value, sigma.tolist()
        for i in range(len(theta)):
            yield Solution(
                theta[i], beta[i], scale[i], vcov[i], [], float(loglik[i]), many.search.reml,
                [L[i] for L in Ls],
            )  # fmt: skip

    def components(self, many: ManyResponses) -> np.ndarray:
        """Values of the variance components, (m, components)."""
        sigma = self.sigma(many)[:, None]
        Sigmas = [sigma[..., None] ** 2 * (L @ np.swapaxes(L, -1, -2)) for L in self.factors(many)]
        return np.concatenate([effect_component_values(many.design, Sigmas), sigma], axis=1)

    def singular(self, many: ManyResponses) -> np.ndarray:
        """Whether a covariance matrix is singular, (m,)."""
        return np.any(self.ranks < many.search.block_sizes, axis=1)
