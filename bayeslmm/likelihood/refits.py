"""Many responses of the same rows: what depends on the design alone is made once.

Everything that a response y adds to the cross-products is linear or quadratic in y, so that a few
matrix products serve all responses; the search itself is compiled (``_settling``), and threads
share the responses out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import thread_time
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.compiling import expect, interpreting, use_compiled
from bayeslmm.gaussian import FactorRows, Problem, Solution, single_threaded_blas
from bayeslmm.gaussian.coordinates import ones_in_span, working_products
from bayeslmm.gaussian.threads import shared_out
from bayeslmm.likelihood.components import effect_component_values
from bayeslmm.likelihood.engine import Estimates
from bayeslmm.likelihood.optimize import ProfiledSearch, decorrelated_search, mapped_factors

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from bayeslmm.formula import Design

__all__ = ["MANY", "ManyEstimates", "ManyFits", "ManyResponses"]

#: Fewer responses than this are not worth compiling the search, which takes 18 s once.
MANY = 100


@dataclass(frozen=True)
class ManyResponses:
    """Rows whose responses are to be fitted.

    Attributes
    ----------
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
    """

    problem: Problem
    Ks: list[np.ndarray | None] | None
    search: ProfiledSearch
    starts: np.ndarray
    n_others: int
    R: np.ndarray
    Zt: list[csr_array]
    ones: np.ndarray | None

    @classmethod
    def of(
        cls, problem: Problem, X: np.ndarray, factors: Sequence[FactorRows],
        weights: np.ndarray | None, reml: bool, start: np.ndarray | None = None,
    ) -> ManyResponses:  # fmt: skip
        """That of a problem, for which :func:`optimize.can_search` holds, and its rows.

        Parameters
        ----------
        X : (n, p) array
        start : (r,) array, optional
            Where to start; by default from several points.
        """
        with single_threaded_blas():
            search, start, Ks = decorrelated_search(problem, reml, start)
            problem, (starts, n_others) = search.problem, search.all_starts(start)
            w = np.ones(len(X)) if weights is None else weights
            shift = working_products(problem.products)[0].shift
            R = w[:, None] * np.delete(shift.applied(np.zeros(len(X)), X), -2, axis=1)
        return cls(
            problem, Ks, search, starts, n_others, R,
            [_transposed(rows, w) for rows in factors], ones_in_span(problem.products),
        )  # fmt: skip

    def fits(self, Y: np.ndarray, threads: int | None = None) -> ManyFits:
        """The optimum of each response (m, n), less its offset.

        Parameters
        ----------
        threads : int, optional
            By default as many as the calling thread may use.
        """
        use_compiled()  # before what is compiled as it is imported
        from bayeslmm.likelihood._evaluation import compiled, evaluate
        from bayeslmm.likelihood._settling import search_many

        with single_threaded_blas():
            right, gram, shift = self.products(Y)
            m, p, blocks = len(Y), self.problem.p, len(self.search.block_sizes)
            out = (
                np.empty((m, self.problem.n_parameters)), np.empty(m), np.zeros(m, dtype=bool),
                np.zeros((m, blocks), dtype=np.int64), np.empty((m, p)), np.empty((m, p, p)),
                np.empty(m),
            )  # fmt: skip

            def work(first: int, stop: int) -> None:
                criterion, own = compiled(self.search)
                search_many(
                    criterion, evaluate, own, right, gram, self.starts, self.n_others,
                    first, stop, *out,
                )  # fmt: skip

            shared_out(work, m, threads)
            return ManyFits(self, *out, shift)

    def products(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What responses (m, n) add to cross-products: Z'W y (m, N), [X y]'W y (m, p + 1), and
        what was subtracted from each before it was squared, (m,).
        """
        shift, weights = np.zeros(len(Y)), self.R[:, -1]
        if self.ones is not None:
            shift = Y[:, weights > 0].mean(axis=1)
            Y = Y - shift[:, None]
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
class ManyFits:
    """Where the searches ended, one row per response; see :func:`_settling.search_many`.

    Attributes
    ----------
    many : ManyResponses
    sure : (m,) bool array
        Where it is False the search has to be made again by ``optimize``.
    """

    many: ManyResponses
    theta: np.ndarray
    value: np.ndarray
    sure: np.ndarray
    ranks: np.ndarray
    beta: np.ndarray
    inverse: np.ndarray
    pwrss: np.ndarray
    shift: np.ndarray

    @cached_property
    def factors(self) -> list[np.ndarray]:
        """Relative factors of the model's effects, (m, q_k, q_k)."""
        patterns, Ks = self.many.problem.patterns, self.many.Ks
        ends = np.cumsum([p.n_parameters for p in patterns])[:-1]
        Ls = []
        for pattern, part in zip(patterns, np.split(self.theta, ends, axis=1), strict=True):
            L = np.zeros((len(part), pattern.q, pattern.q))
            L[:, *pattern.entries] = part
            Ls.append(L)
        return Ls if Ks is None else mapped_factors(Ls, Ks, np.matmul)

    @cached_property
    def sigma(self) -> np.ndarray:
        """Residual standard deviations, (m,)."""
        problem = self.many.problem
        return np.sqrt(self.pwrss / (problem.n - problem.p * self.many.search.reml))

    @property
    def Sigmas(self) -> list[np.ndarray]:
        """Covariance matrices of the effects, (m, q_k, q_k)."""
        scale = (self.sigma**2)[:, None, None]
        return [scale * (L @ np.swapaxes(L, -1, -2)) for L in self.factors]

    @property
    def singular(self) -> np.ndarray:
        """Whether a covariance matrix is singular, (m,)."""
        return np.any(self.ranks < self.many.search.block_sizes, axis=1)

    def solutions(self) -> Iterator[Solution]:
        """One per response, without effects."""
        problem, sigma = self.many.problem, self.sigma
        G_inverse = problem.coordinates.G_inverse
        beta = self.beta @ G_inverse.T
        if self.many.ones is not None:
            beta += self.shift[:, None] * self.many.ones
        vcov = (sigma**2)[:, None, None] * (G_inverse @ self.inverse @ G_inverse.T)
        parts = zip(self.factors, problem.patterns, strict=True)
        theta = np.concatenate([L[:, *p.entries] for L, p in parts], axis=1)
        loglik, reml = (-0.5 * self.value).tolist(), self.many.search.reml
        for i, s in enumerate(sigma.tolist()):
            Ls = [L[i] for L in self.factors]
            yield Solution(theta[i], beta[i], s, vcov[i], [], loglik[i], reml, Ls)


@dataclass(frozen=True)
class ManyEstimates:
    """The estimator of a design, see :meth:`LikelihoodEngine.estimator`.

    Attributes
    ----------
    design : Design
    many : ManyResponses
    alone : callable
        Fits responses one by one.
    """

    design: Design
    many: ManyResponses
    alone: Callable[[np.ndarray], Iterable[Estimates]]

    def __call__(self, Y: np.ndarray) -> Iterator[Estimates]:
        """Estimates for responses (m, n), in their order."""
        if len(Y) >= MANY and interpreting():
            start = thread_time()
            yield from self.alone(Y[:1])
            Y = Y[1:]
            expect((thread_time() - start) * len(Y))
        if len(Y) < MANY - 1 or interpreting():
            yield from self.alone(Y)
            return
        found = self.many.fits(Y - self.design.offset)
        effects = effect_component_values(self.design, found.Sigmas)
        components = np.column_stack([effects, found.sigma])
        for solution, values, y, sure, singular in zip(
            found.solutions(), components, Y, found.sure, found.singular, strict=True
        ):
            if sure:
                yield Estimates(solution, values, -2 * solution.loglik, True, bool(singular))
            else:
                yield from self.alone(y[None])
