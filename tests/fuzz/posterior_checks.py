"""Default posteriors of one model said in two ways: densities at the same parameters, and draws."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import optimize

import bayeslmm as blm
from bayeslmm.bayes.conditional import posterior_values
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.parts.patterns import correlation_matrices
from tests.conftest import correlation_matrix
from tests.fuzz.cases import Case
from tests.fuzz.dense import DenseModel, State
from tests.fuzz.transforms import Said

__all__ = ["check_densities", "check_draws"]

#: Log densities at the same parameters. A prior whose scale is off by a part in a thousand shows
#: about as much; rounding shows 1e-8.
SAME_DENSITY = 1e-5
#: Means of importance samples in Monte Carlo standard errors. 200 designs compare about 10,000
#: pairs of means, of which the largest stays below 5 of 1,000,000 times.
SAME_MEAN = 7.0


def prior_model(case: Case) -> blm.LMM:
    """The model under default priors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return blm.LMM(case.formula, case.data, **case.options)


@dataclass(frozen=True)
class _Density:
    """The marginal density as a function of what a user sees."""

    model: blm.LMM
    dense: DenseModel

    def __post_init__(self):
        density = marginal_density(self.model.design, self.model.priors, self.model.problem)
        object.__setattr__(self, "density", density)

    def states(self, X: np.ndarray) -> list[State]:
        """Parameters at rows of X, from the variables of the posterior."""
        values = posterior_values(
            self.density.given(X),
            self.model.design,
            self.model.names,
            chains=1,
            random_seed=1,
            cores=1,
        )
        values = {key: value[0] for key, value in values.items() if not key.startswith("b_")}
        return [self._state({key: v[i] for key, v in values.items()}) for i in range(len(X))]

    def _state(self, values: dict) -> State:
        Sigmas = []
        for part in self.dense.parts:
            block = self.model.design.block(part.group)
            at = [block.effects.index(effect) for effect in part.effects]
            sd = values[f"sd_{part.group}"][at]
            pairs = block.correlated_pairs()
            corr = values.get(f"corr_{part.group}", np.empty(0))
            R = correlation_matrices(corr, pairs, block.n_effects)[np.ix_(at, at)]
            Sigmas.append(R * np.outer(sd, sd))
        sds = np.atleast_1d(values.get("sigma_by", values["sigma"]))
        corr = np.atleast_1d(values.get("rho", []))
        if "corr_residual" in values:
            corr = correlation_matrix(values["corr_residual"])
        return State(tuple(Sigmas), sds, corr)

    def vectors(self, X: np.ndarray) -> np.ndarray:
        """:meth:`vector` at rows of X."""
        return np.array([self.vector(state) for state in self.states(X)])

    def vector(self, state: State) -> np.ndarray:
        """Its free numbers, on scales on which they are of order one."""
        parts = []
        for part, Sigma in zip(self.dense.parts, state.Sigmas, strict=True):
            scaled = Sigma * np.outer(part.size, part.size) / self.unit**2
            parts.append(scaled[np.tril_indices(len(scaled))])
        parts.append(np.log(state.sds / self.unit))
        corr = state.corr
        parts.append(corr[np.tril_indices(len(corr), -1)] if corr.ndim == 2 else corr)
        return np.concatenate(parts)

    @property
    def unit(self) -> float:
        return float(np.std(self.dense.y))

    def find(self, state: State, start: np.ndarray) -> np.ndarray | None:
        """x of given parameters."""
        target = self.vector(state)
        scale = np.maximum(np.abs(target), 1e-3)

        def gap(x):
            return (self.vectors(x[None])[0] - target) / scale

        def slope(x):
            return derivatives(self.vectors, x) / scale[:, None]

        for first in (start, np.zeros_like(start), start + 0.5):
            found = optimize.least_squares(
                gap, first, jac=slope, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=100
            )
            if np.abs(found.fun).max() < 1e-8:
                return found.x
        return None


def derivatives(function, x: np.ndarray) -> np.ndarray:
    """Jacobian of a function of rows, by differences of fourth order."""
    step, d = 2e-3, len(x)
    X = np.concatenate([x + k * step * np.eye(d) for k in (-2, -1, 1, 2)])
    f = function(X).reshape(4, d, -1)
    return ((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)).T


def check_densities(case: Case, said: Said, rng) -> list[str]:
    """Marginal posterior densities at the same covariance parameters."""
    one = _Density(prior_model(case), case.dense)
    two = _Density(prior_model(said.case), said.case.dense)
    found = []
    centers = [density.density.starting_points((0.3,))[0] for density in (one, two)]

    def carried(X):
        return np.array([two.vector(said.state(state)) for state in one.states(X)])

    for _ in range(2):
        step = rng.uniform(-0.5, 0.5, len(centers[0]))
        x = centers[0] + step
        at = two.find(said.state(one.states(x[None])[0]), centers[1] + step)
        if at is None:
            found.append(f"{said.kind}: parameters that have no counterpart")
            continue
        # both by the volume of what a user sees of the second
        values = [
            density.density.value(point) - np.linalg.slogdet(derivatives(function, point))[1]
            for density, function, point in ((one, carried, x), (two, two.vectors, at))
        ]
        gap = values[1] - values[0] + len(one.dense.y) * np.log(abs(said.scale))
        if not abs(gap) <= SAME_DENSITY * max(1.0, abs(values[0]) / 100):
            found.append(f"{said.kind}: log posterior density differs by {gap:.3g}")
    return found


def check_draws(case: Case, said: Said, seed: int) -> list[str] | None:
    """Moments and evidence of importance samples; None where weights are refused."""
    try:
        one, two = _draws(case, seed), _draws(said.case, seed)
    except blm.SamplingError:
        return None
    found = []
    y, new = case.dense.y, said.case.dense.y
    # rows in the first's order and units; the response may have been shifted, too
    moved = np.empty_like(one.fixed)
    moved[:, said.order] = (two.fixed - new) / said.scale
    pairs = {
        "coefficients": (one.fixed - y, moved),
        "log sigma": (one.log_sigma, two.log_sigma - np.log(abs(said.scale))),
    }
    for name, (a, b) in pairs.items():
        noise = a.std(axis=0) * np.sqrt(1 / one.effective + 1 / two.effective)
        z = np.abs(a.mean(axis=0) - b.mean(axis=0)) / (noise + 1e-9 * np.abs(a).max())
        if not z.max(initial=0.0) <= SAME_MEAN:
            found.append(f"{said.kind}: means of {name} differ by {z.max():.1f} errors")
    gap = two.evidence - one.evidence + len(y) * np.log(abs(said.scale))
    if not abs(gap) <= SAME_MEAN * np.hypot(one.error, two.error) + SAME_DENSITY:
        found.append(f"{said.kind}: log evidence differs by {gap:.3g} +- {one.error:.3g}")
    return found


@dataclass(frozen=True)
class _Draws:
    """Fixed parts of the rows (draws, n), log sigma (draws, 1), effective number, evidence."""

    fixed: np.ndarray
    log_sigma: np.ndarray
    effective: float
    evidence: float
    error: float


def _draws(case: Case, seed: int) -> _Draws:
    model = prior_model(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.fit(
            method="importance", draws=500, chains=2, random_seed=seed, cores=1, progressbar=False
        )
    posterior, X = fit.idata["posterior"], model.design.X
    log_sigma = np.log(posterior["sigma"].to_numpy().reshape(-1, 1))
    beta = posterior["beta"].to_numpy().reshape(len(log_sigma), -1) if X.shape[1] else X[:0].T
    return _Draws(
        beta @ X.T,
        log_sigma,
        # resampled draws, of which the coefficients have noise of their own
        1 / (1 / fit.info.effective_draws + 1 / len(log_sigma)),
        fit.info.log_marginal_likelihood,
        fit.info.log_marginal_likelihood_error,
    )
