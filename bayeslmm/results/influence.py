"""How far the coefficients move when a group is left out.

At given covariance parameters the coefficients solve M b = X'V^-1 y + (what a prior adds), with
M = X'V^-1 X + S0^-1. Where no rows of different levels are correlated, V^-1 has a block per level
j, and without level j

    b_(-j) = b - (M - A_j)^-1 s_j,    A_j = X_j' V_j^-1 X_j,    s_j = X_j' V_j^-1 (y_j - X_j b),

which are sums over the level's rows of x_i [V^-1 X]_i' and x_i [V^-1 (y - X b)]_i. Where effects of
another factor correlate levels, the model is solved anew without each of them. Cook's distance is
(b - b_(-j))' M (b - b_(-j)) / p (Cook 1977, Technometrics 19(1); of groups of a mixed model at
given covariance parameters Demidenko and Stukel 2005, Statistics in Medicine 24(6)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from bayeslmm.assembly import system_of
from bayeslmm.bayes.coefficients import normal_guess
from bayeslmm.errors import DataError, listed
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.gaussian.marginal import FixedPrior
from bayeslmm.gaussian.system import System, Theta
from bayeslmm.protocols import is_posterior
from bayeslmm.results.estimates import Estimates, estimates_of
from bayeslmm.results.findings import Finding
from bayeslmm.results.support import refuse_unless_derived

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.formula.random import RandomBlock
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["correlates_levels", "influence_findings", "influence_table"]

#: Relative size of an eigenvalue of M - A_j below which the rest does not determine a coefficient.
_NOTHING_LEFT = 1e-9
#: Cook's distance from which a group is named: coefficients move to the edge of a region of about
#: 50 % confidence (Cook 1977); and its chance under the model, over all groups.
_COOK, _CHANCE = 1.0, 0.01
#: Factor of a standard error without the group from which a coefficient rests on that group.
_RESTS = 3.0
_FEWEST_LEVELS, _MOST_NAMED = 4, 3
#: Rows times squared coefficients up to which checks look at influence unasked.
_QUICK = 4e6


def influence_table(
    fit: PosteriorResult | LikelihoodResult, factor: str | None = None
) -> pd.DataFrame:
    """See ``influence`` of both fits."""
    design = fit.model.design
    refuse_unless_derived(fit.model, "The influence of groups", related=True, residuals=True)
    if not design.rows_in_memory:
        raise DataError(
            "The influence of groups needs the rows in memory, and these data are read in batches: "
            "make the model from a data frame (a sample of the groups)."
        )
    if not design.blocks and factor is None:
        raise DataError("The model has no grouping factor, so there is no group to leave out.")
    block = design.blocks[0] if factor is None else design.block(factor)
    kept = np.asarray(getattr(fit, "kept", np.arange(len(design.coef_names))), dtype=int)
    if not len(kept):
        raise DataError("The model has no coefficients that a group could move.")
    with single_threaded_blas():
        cov, moved, without = _left_out(fit, block, kept)
    counts = np.bincount(block.codes, minlength=block.n_levels)
    values = {"rows": counts, **_statistics(cov, moved, without)}
    spread = np.sqrt(np.diag(cov))
    values |= {
        f"dfbetas {design.coef_names[j]}": moved[:, i] / spread[i] for i, j in enumerate(kept)
    }
    return pd.DataFrame(values, index=pd.Index(block.levels, name=block.name))


def _left_out(fit, block: RandomBlock, kept) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance of the coefficients (p, p); what they move by (J, p) and their covariances
    without each level (J, p, p), NaN where the other levels do not determine them.
    """
    design = fit.model.design
    theta = next(_point(estimates_of(fit)).theta().rows())
    prior = normal_guess(design, fit.priors) if is_posterior(fit) else None
    system = system_of(design, columns=kept)
    if not correlates_levels(design, block):
        return _by_blocks(system, design.X[:, kept], theta, prior, block)
    y, X = design.y - design.offset, design.X[:, kept]
    whole = system.solve(theta, prior)
    shape = block.n_levels, len(kept)
    moved, without = np.full(shape, np.nan), np.full((*shape, len(kept)), np.nan)
    for j in range(block.n_levels):
        try:
            left = system.with_rows(np.flatnonzero(block.codes != j), y, X).solve(theta, prior)
        except np.linalg.LinAlgError:
            continue
        more = np.diag(left.vcov) / np.diag(whole.vcov)
        if np.all(np.isfinite(left.beta)) and np.all((more > 0) & (more < 1 / _NOTHING_LEFT)):
            moved[j], without[j] = whole.beta - left.beta, left.vcov
    return whole.vcov, moved, without


def _point(found: Estimates) -> Estimates:
    """Of a posterior means of the covariances, and of what is unbounded or a number."""
    if not found.shape:
        return found
    flat = found.flat()
    Sigmas = [Sigma.mean(axis=0) for Sigma in flat.Sigmas]
    return Estimates(flat.beta.mean(axis=0), Sigmas, flat.eta.mean(axis=0), flat.c.mean(axis=0))


def _by_blocks(
    system: System, X: np.ndarray, theta: Theta, prior: FixedPrior | None, block: RandomBlock
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The closed form, in the coordinates that the system computes with."""
    found, back = system.row_information(theta, prior), system.coordinates.G_inverse
    sd = np.sqrt(np.diag(found.covariance))
    root = sd[:, None] * np.linalg.cholesky(found.covariance / np.outer(sd, sd))
    scaled, solved = X @ back @ root, found.columns @ root
    J, p = block.n_levels, X.shape[1]
    B, s = np.empty((J, p, p)), np.empty((J, p))
    for a in range(p):
        s[:, a] = np.bincount(block.codes, scaled[:, a] * found.residual, minlength=J)
        for b in range(p):
            B[:, a, b] = np.bincount(block.codes, scaled[:, a] * solved[:, b], minlength=J)
    values, vectors = np.linalg.eigh(np.eye(p) - (B + np.swapaxes(B, 1, 2)) / 2)
    values[values[:, 0] < _NOTHING_LEFT] = np.nan
    inverse = np.einsum("jak,jk,jbk->jab", vectors, 1.0 / values, vectors)
    to_user = back @ root
    moved = np.einsum("jab,jb->ja", inverse, s) @ to_user.T
    return to_user @ to_user.T, moved, to_user @ inverse @ to_user.T


def _statistics(cov, moved, without) -> dict[str, np.ndarray]:
    """Cook's distance, its chance, and the largest factor of a standard error."""
    p, J = len(cov), len(moved)
    cook, chance, ratio = np.full(J, np.inf), np.zeros(J), np.full(J, np.inf)
    known = np.all(np.isfinite(moved), axis=1)
    to_unit = np.linalg.inv(np.linalg.cholesky(cov))
    unit = moved[known] @ to_unit.T
    cook[known] = np.sum(unit**2, axis=1) / p
    ratio[known] = np.sqrt(
        np.max(np.einsum("jaa->ja", without[known]) / np.diag(cov), axis=1, initial=1.0)
    )
    more = to_unit @ without[known] @ to_unit.T - np.eye(p)
    values, vectors = np.linalg.eigh((more + np.swapaxes(more, 1, 2)) / 2)
    moves = values > 1e-8 * np.maximum(values[:, -1:], 1e-8)
    parts = np.einsum("jab,ja->jb", vectors, unit)
    squares = np.sum(np.divide(parts**2, values, out=np.zeros_like(parts), where=moves), axis=1)
    chance[known] = chdtrc(np.maximum(moves.sum(axis=1), 1), squares)
    chance[~known] = np.nan
    return {"cooks_distance": cook, "p": chance, "se_ratio": ratio}


def correlates_levels(design: Design, block: RandomBlock) -> bool:
    """Whether rows of different levels of a factor are correlated."""
    if any(b.relationship is not None for b in design.blocks):
        return True
    codes = [b.codes for b in design.blocks if b is not block]
    if design.residual is not None and design.residual.factor is not None:
        codes.append(design.residual.rows.group)
    return any(_crosses(block.codes, other) for other in codes)


def _crosses(codes: np.ndarray, other: np.ndarray) -> bool:
    """Whether a level of the other factor has rows of several levels."""
    first = np.empty(int(other.max()) + 1, dtype=codes.dtype)
    first[other] = codes
    return bool(np.any(first[other] != codes))


def influence_findings(fit: PosteriorResult | LikelihoodResult) -> list[Finding]:
    """Groups that carry the fit: unlike the others and influential, or the only ones of a kind.

    Of every factor with 4 levels and more whose levels are not correlated, where it is quick.
    """
    design = fit.model.design
    found: list[Finding] = []
    if not design.rows_in_memory:
        return found
    for block in design.blocks:
        size = design.n_rows * design.X.shape[1] ** 2
        if block.n_levels < _FEWEST_LEVELS or size > _QUICK:
            continue
        if correlates_levels(design, block) and block.n_levels * size > _QUICK:
            continue
        try:
            table = influence_table(fit, block.name)
        except (DataError, np.linalg.LinAlgError):
            continue
        found += _named(block.name, table)
    return found


def _named(name: str, table: pd.DataFrame) -> list[Finding]:
    found = []
    alone = table.index[table["se_ratio"] > _RESTS].tolist()
    if alone:
        found.append(
            Finding(
                "influence",
                f"A coefficient rests on {_levels(name, alone)}: without it a standard error is "
                f"more than {_RESTS:g} times as large.",
                "Say so beside the estimate, and see influence() for the coefficient: other groups "
                "say little about it.",
            )
        )
    chance = table["p"] * len(table)
    far = table[(table["cooks_distance"] > _COOK) & (chance < _CHANCE)]
    for level, row in far.nlargest(_MOST_NAMED, "cooks_distance").iterrows():
        shifts = row[[c for c in table.columns if c.startswith("dfbetas ")]].astype(float)
        most = shifts.abs().idxmax()
        found.append(
            Finding(
                "influence",
                f"{name} {level} is unlike the other groups and carries the fit: without it the "
                f"coefficient {most.removeprefix('dfbetas ')!r} moves by {abs(shifts[most]):.1f} "
                f"standard errors (Cook's distance {row['cooks_distance']:.1f}).",
                "Check the rows of this group; report the fit without it too, see influence() and "
                "plot_influence().",
            )
        )
    return found


def _levels(name: str, levels: list) -> str:
    if len(levels) == 1:
        return f"{name} {levels[0]}"
    return f"single levels of {name} ({listed(levels, 5)})"
