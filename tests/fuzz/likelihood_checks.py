"""What a likelihood fit says, against the dense matrices."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass

import numpy as np

import bayeslmm as blm
from tests.fuzz.cases import Case
from tests.fuzz.dense import DenseModel, State
from tests.fuzz.transforms import Said

__all__ = ["Checked", "check_fit", "check_said", "fit_case", "has_maximum"]

#: The reported log-likelihood is that of the reported parameters.
SAME_VALUE = 1e-8
#: What a dense search, or the same model said otherwise, may find above the reported optimum: a
#: hundredth of what a printed log-likelihood shows.
SAME_OPTIMUM = 1e-5
#: Coefficients, effects and standard errors at the reported parameters, in standard errors.
SAME_NUMBER = 1e-5


@dataclass(frozen=True)
class Checked:
    """A fit with its dense counterpart, and what did not agree."""

    fit: blm.LikelihoodFit
    dense: DenseModel
    state: State
    loglik: float  # with orthonormal columns
    violations: list[str]


def fit_case(case: Case, reml: bool) -> blm.LikelihoodFit:
    """The package's fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = blm.LMM(case.formula, case.data, **case.options)
        return model.reml() if reml else model.ml()


def check_fit(case: Case, reml: bool, *, starts: int, rng) -> Checked:
    """Fit a case and compare all it says."""
    fit, dense = fit_case(case, reml), case.dense
    found: list[str] = []

    def same(name: str, ours, theirs, unit, bound: float = SAME_NUMBER) -> None:
        ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
        gap = np.abs(ours - theirs) / unit if ours.shape == theirs.shape else np.array([np.inf])
        if not np.all(gap <= bound):
            found.append(f"{name}: off by {np.nanmax(gap):.2g} (bound {bound:g})")

    kept = [j for j, name in enumerate(fit.design.coef_names) if name not in fit.model.aliased]
    X = fit.design.X[:, kept]
    T = dense.X.T @ X
    if X.shape != dense.X.shape:
        names = ", ".join(fit.design.coef_names[j] for j in kept)
        found.append(f"columns: {X.shape[1]} coefficients ({names}), rank {dense.X.shape[1]}")
        return Checked(fit, dense, None, np.nan, found)
    same("column space", dense.X @ T, X, np.abs(X).max(axis=0), 1e-9)
    components = fit.varcomp()["estimate"]
    if sorted(components.index) != sorted(dense.component_names()):
        found.append(f"components: {sorted(components.index)}, {sorted(dense.component_names())}")
        return Checked(fit, dense, None, np.nan, found)
    state = dense.state(components)
    loglik = fit.loglik + (np.linalg.slogdet(T)[1] if reml and len(T) else 0.0)
    exact = dense.loglik(state, reml)
    # a residual variance that vanishes beside others takes digits with it
    unit = max(1.0, abs(exact), len(dense.y)) * max(1.0, 1e-3 * state.sds.max() / state.sds.min())
    same("log-likelihood", loglik, exact, unit, SAME_VALUE)
    if not fit.converged:
        found.append("not converged")
    if starts:
        best, _ = dense.maximize(reml, starts, rng, near=state)
        if best - loglik > SAME_OPTIMUM * max(1.0, abs(best) / 100):
            found.append(f"optimum: {best - loglik:.3g} below that of a dense search")
    _check_numbers(fit, dense, state, X, T, kept, same)
    return Checked(fit, dense, state, loglik, found)


def _check_numbers(fit, dense: DenseModel, state: State, X, T, kept, same) -> None:
    """Coefficients, effects, predictions, with their standard errors."""
    beta, Phi, *_ = dense.moments(state)
    table = fit.fixef(ddf="normal").iloc[kept]
    if len(kept):
        inverse = np.linalg.inv(T)
        se = np.sqrt(np.diag(inverse @ Phi @ inverse.T))
        same("coefficients", table["estimate"], inverse @ beta, se)
        same("standard errors", table["se"], se, se)
        same("vcov", fit.vcov, inverse @ Phi @ inverse.T, np.outer(se, se))
    spread = np.sqrt(np.mean(dense.covariance(state).diagonal()))
    if dense.parts:
        modes = dense.modes(state)
        modes = {(g, str(level), e): value for (g, level, e), value in modes.items()}
        ranef = fit.ranef()
        keys = list(zip(ranef["group"], ranef["level"].astype(str), ranef["effect"], strict=True))
        if sorted(keys) != sorted(modes):
            same("levels", [0.0], [1.0], 1.0)
            return
        units = {
            (part.group, effect): np.hypot(np.sqrt(variance), 0.01 * spread / size)
            for part, Sigma in zip(dense.parts, state.Sigmas, strict=True)
            for effect, variance, size in zip(part.effects, np.diag(Sigma), part.size, strict=True)
        }
        unit = np.array([units[g, e] for g, _, e in keys])
        same("modes", ranef["estimate"], [modes[key][0] for key in keys], unit)
        # a variance near 0 is a difference of large numbers: compared as variances
        given = ranef["sd"].to_numpy() ** 2
        same("their sds", given, [modes[key][1] ** 2 for key in keys], unit**2)
    offset = fit.design.offset
    mean, se, fixed_se = dense.predictions(state)
    same("fitted", fit.fitted() - offset, mean, spread)
    rows = fit.predict()
    same("predict", rows["estimate"] - offset, mean, spread)
    same("predict se", rows["se"] ** 2, se**2, spread**2)
    population = fit.predict(random="population")
    same("population", population["estimate"] - offset, dense.X @ beta, spread)
    same("population se", population["se"] ** 2, fixed_se**2, spread**2)


def has_maximum(case: Case, reml: bool, rng) -> bool:
    """Whether no residual variance vanishes and no correlation is 1, as far as a search tells.

    A likelihood without a maximum may still have a local one, so ranks are looked at first:
    coefficients and effects that fit a cell whatever the response is, and effects alone do not.
    """
    dense = case.dense
    p = dense.X.shape[1]
    if not reml and dense.kind != "independent":
        sizes = np.bincount(dense.group)
        if np.sum(sizes == sizes.max()) <= p:
            return False
    for cell in range(len(dense.names)) if not reml and len(dense.names) > 1 else ():
        rows = dense.cell == cell
        for chosen in itertools.product([False, True], repeat=len(dense.parts)):
            columns = [c.columns[rows] for c, yes in zip(dense.parts, chosen, strict=True) if yes]
            Z = np.column_stack([np.zeros((rows.sum(), 1)), *columns])
            joint = np.linalg.matrix_rank(np.column_stack([dense.X[rows], Z]))
            if joint == rows.sum() > np.linalg.matrix_rank(Z):
                return False
    _, state = dense.maximize(reml, 4, rng)
    smallest = np.linalg.eigvalsh(dense.correlation(state.corr))[0]
    return bool(state.sds.min() > 1e-3 * state.sds.max() and smallest > 1e-6)


def check_said(first: Checked, said: Said, reml: bool) -> list[str]:
    """The fit of a case said otherwise, against the first."""
    found = []
    second = check_fit(said.case, reml, starts=0, rng=None)
    found += [f"{said.kind}: {text}" for text in second.violations]
    if second.state is None or first.state is None:
        return found
    expected = first.loglik + said.loglik_change(first.dense, reml)
    gap = abs(second.loglik - expected)
    if gap > SAME_OPTIMUM * max(1.0, abs(expected) / 100):
        found.append(f"{said.kind}: log-likelihood differs by {second.loglik - expected:.3g}")
    mean, _, _ = first.dense.predictions(first.state)
    moved, _, _ = second.dense.predictions(second.state)
    # the response may have been shifted as well as scaled
    gap = (moved - second.dense.y) / said.scale - (mean - first.dense.y)[said.order]
    spread = np.sqrt(np.mean(first.dense.covariance(first.state).diagonal()))
    # log-likelihoods alike to 1e-5 leave the parameters free by the root of that
    if not np.all(np.abs(gap) <= 0.02 * spread):
        found.append(f"{said.kind}: residuals differ by {np.abs(gap).max() / spread:.2g}")
    return found
