"""The effect under study: a coefficient or a contrast, and its place in the prior.

An effect is e = c'beta. The model's normal prior on beta is split into a prior on e and a prior on
the rest given e, so that the first can be exchanged and the second kept:

    p_new(beta) = p(beta) N(e; m, s^2) / N(e; m_0, s_0^2),

which for a single coefficient with a prior of its own just replaces that prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bayeslmm.bayes.coefficients import coefficient_priors
from bayeslmm.bayes.laplace_posterior import whitened_obstacle
from bayeslmm.errors import PriorError, listed
from bayeslmm.formula import Design
from bayeslmm.gaussian import FixedPrior
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.prior import Prior
from bayeslmm.priors.table import Priors

__all__ = ["Effect", "effect_row", "reflection", "split_effect"]


@dataclass(frozen=True)
class Effect:
    """e = row'beta, and the model's prior on beta with that on e taken out.

    Attributes
    ----------
    label : str
    row : (p,) array
        c.
    mean, sd : float
        m_0 and s_0: the prior the model has for e; ``sd`` is infinite where it is flat.
    direction : (p,) array
        Change of beta that moves e by one and leaves the prior on the rest alone.
    rest : FixedPrior
        The prior with e flat.
    """

    label: str
    row: np.ndarray
    mean: float
    sd: float
    direction: np.ndarray
    rest: FixedPrior

    def with_normal(self, mean: float, sd: float) -> FixedPrior:
        """The prior on beta with e ~ N(mean, sd^2); flat where ``sd`` is infinite."""
        if not np.isfinite(sd):
            return self.rest
        return FixedPrior(
            np.ascontiguousarray(np.vstack([self.row / sd, self.rest.root])),
            np.concatenate([[mean / sd], self.rest.target]),
            self.rest.log_det - 2.0 * float(np.log(sd)),
        )

    def basis_without(self) -> np.ndarray:
        """B (p, p - 1): beta = value * direction + B gamma has e = value, whatever gamma."""
        p = len(self.row)
        pivot = int(np.argmax(np.abs(self.row * self.direction)))
        others = np.delete(np.arange(p), pivot)
        B = np.zeros((p, p - 1))
        B[others, np.arange(p - 1)] = 1.0
        B[pivot] = -self.row[others] / self.row[pivot]
        return B

    def pinned(self, B: np.ndarray) -> FixedPrior:
        """Prior of gamma given e, in the coordinates of :meth:`basis_without`."""
        jacobian = np.linalg.slogdet(np.column_stack([self.direction, B]))[1]
        root = np.ascontiguousarray(self.rest.root @ B)
        return FixedPrior(root, self.rest.target, self.rest.log_det + 2.0 * float(jacobian))


def effect_row(design: Design, effect) -> tuple[str, np.ndarray]:
    """Label and weights of an effect.

    Parameters
    ----------
    effect : str, dict or array
        A coefficient's name, weights by coefficient (``{"b": 1, "a": -1}``), or one weight per
        coefficient.

    Raises
    ------
    ValueError
        If there is no such coefficient, the shape does not fit, or all weights are zero.
    """
    from bayeslmm.results.contrasts import contrast_matrix

    names = design.coef_names
    if isinstance(effect, str):
        if effect not in names:
            raise ValueError(
                f"There is no coefficient {effect!r}. Coefficients: {listed(names)}. An effect "
                'is one of them, or a contrast such as {"a": 1, "b": -1}.'
            )
        return effect, np.eye(len(names))[list(names).index(effect)]
    rows, _ = contrast_matrix(effect, names)
    if len(rows) != 1:
        raise ValueError(f"One effect at a time, please: {len(rows)} contrasts were given.")
    row = rows[0]
    if not np.any(row):
        raise ValueError("All weights of the contrast are zero.")
    if isinstance(effect, Mapping) and len(effect) == 1:
        inner = next(iter(effect.items()))
        if isinstance(inner[1], Mapping):
            return str(inner[0]), row
    return _describe(row, names), row


def _describe(row: np.ndarray, names) -> str:
    """A contrast in words, such as ``b - 2 a``."""
    parts: list[str] = []
    for weight, name in zip(row, names, strict=True):
        if weight == 0:
            continue
        size = "" if abs(weight) == 1 else f"{abs(weight):.4g} "
        sign = ("-" if weight < 0 else "") if not parts else (" - " if weight < 0 else " + ")
        parts.append(f"{sign}{size}{name}")
    return "".join(parts)


def split_effect(design: Design, priors: Priors, effect) -> Effect:
    """Take the effect's own prior out of the model's prior on beta.

    Parameters
    ----------
    design : Design
    priors : Priors
    effect : str, dict or array
        See :func:`effect_row`.

    Raises
    ------
    PriorError
        If another coefficient's prior is neither normal nor flat.
    """
    label, row = effect_row(design, effect)
    A, mean, sd = _normal_priors(design, priors, row)
    weights = np.linalg.solve(A.T, row)  # c'beta = weights'(A beta)
    weights[np.abs(weights) <= 1e-12 * np.abs(weights).max()] = 0.0
    flat = ~np.isfinite(sd)
    if np.any(weights[flat] != 0):
        alpha = np.where(flat, weights, 0.0) / (weights[flat] @ weights[flat])
        rest = FixedPrior.on_combinations(A, mean, sd)
        return Effect(label, row, 0.0, np.inf, np.linalg.solve(A, alpha), rest)
    w = np.where(flat, 0.0, weights * np.where(flat, 0.0, sd))
    own_sd = float(np.linalg.norm(w))
    alpha = w * np.where(flat, 0.0, sd) / own_sd**2
    return Effect(
        label,
        row,
        float(weights[~flat] @ mean[~flat]),
        own_sd,
        np.linalg.solve(A, alpha),
        _without(FixedPrior.on_combinations(A, mean, sd), w[~flat], own_sd),
    )


def _without(prior: FixedPrior, w: np.ndarray, own_sd: float) -> FixedPrior:
    """The prior less its component along w (in its own standardized rows)."""
    log_det = prior.log_det + 2.0 * float(np.log(own_sd))
    used = np.flatnonzero(w)
    if len(used) == 1:
        return FixedPrior(
            np.delete(prior.root, used[0], axis=0), np.delete(prior.target, used[0]), log_det
        )
    H = reflection(w / own_sd)
    root = np.ascontiguousarray((H @ prior.root)[1:])
    return FixedPrior(root, (H @ prior.target)[1:], log_det)


def reflection(unit: np.ndarray) -> np.ndarray:
    """An orthogonal matrix whose first row is the unit vector or its negative."""
    u = unit.copy()
    u[0] += 1.0 if unit[0] >= 0 else -1.0
    return np.eye(len(u)) - 2.0 * np.outer(u, u) / (u @ u)


def _normal_priors(design: Design, priors: Priors, row: np.ndarray):
    """Combinations with their means and sds; a lone coefficient under study may have any prior."""
    single = int(np.flatnonzero(row)[0]) if np.count_nonzero(row) == 1 else None
    trial = priors.copy()
    for j, name in enumerate(design.coef_names):
        key = coef_key(name)
        if priors[key].name in ("Normal", "Flat"):
            continue
        if j == single:
            trial[key] = Prior("Flat")
            continue
        why = whitened_obstacle(design, priors)
        raise PriorError(
            f"The prior of {key} is {priors[key]!r}; next to the effect under study, coefficients "
            "need normal or flat priors, which are integrated out exactly"
            + (f" (others take the compiled joint density, but {why})." if why else ".")
        )
    return trial.combinations(), *coefficient_priors(design, trial)
