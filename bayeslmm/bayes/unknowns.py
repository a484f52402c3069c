"""Unknown values of covariates, laid out for the joint density.

See :mod:`bayeslmm.bayes.kernels._covariates` for the mathematics, and
:mod:`bayeslmm.bayes.unknown_mode` for where they are near its mode.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bayeslmm.bayes.covariates import covariate_names
from bayeslmm.bayes.kernels._covariates import Sums, Unknowns
from bayeslmm.bayes.kernels._regressions import Regressions, readings
from bayeslmm.bayes.kernels.joint import Rows, UnknownDraws
from bayeslmm.formula import Design
from bayeslmm.formula.covariates import ModeledCovariate
from bayeslmm.laplace.system import ResponseSystem
from bayeslmm.parts.parameters import Parameter
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.scales import LINE_FAMILIES, scales, supported_scale
from bayeslmm.priors.table import Priors

__all__ = [
    "UnknownValues",
    "covariate_values",
    "no_unknowns",
    "unknown_obstacle",
    "unknown_values",
]

#: Values of two that may be unknown together: 2^10 states are summed over.
_MOST_TOGETHER = 10
#: Kinds of the parameters of regressions.
_COEFFICIENTS = "covariate_mean", "covariate_slope"
_SDS = "covariate_sd", "covariate_effect_sd"


@dataclass(frozen=True)
class UnknownValues:
    """Unknown values of all covariates, normal ones first.

    Attributes
    ----------
    regressions : Regressions
    of : (m,) int array
        Covariate of each unknown.
    ptr : (m + 1,) int array
        Where the rows of each begin.
    row : (R,) int array
        In the order of the design.
    fill : (R,) array
    X : (R, p) array
        Slopes of the columns that the priors are about.
    Z : tuple of (R, q_k) arrays
        Those of the factors' columns.
    n_normal : int
    together : tuple of int arrays
        Unknowns of two values that share rows, numbered from the first of them.
    """

    regressions: Regressions
    of: np.ndarray
    ptr: np.ndarray
    row: np.ndarray
    fill: np.ndarray
    X: np.ndarray
    Z: tuple[np.ndarray, ...]
    n_normal: int
    together: tuple[np.ndarray, ...]

    @property
    def m(self) -> int:
        """Unknown values."""
        return len(self.ptr) - 1

    @property
    def n_high(self) -> int:
        """Coordinates of their effects and of the normal unknowns."""
        return int(self.regressions.levels[-1]) + self.n_normal

    @property
    def number(self) -> np.ndarray:
        """(R,) the unknown each entry is of."""
        return np.repeat(np.arange(self.m), np.diff(self.ptr))

    def read(self, low: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Log density of the readings, and moments of the unknowns, effects in the middle."""
        own, n = self.regressions, len(self.regressions.coefficients.code)
        mean, sd, L = np.empty(self.m), np.empty(self.m), int(own.levels[-1])
        work = np.empty(n), np.empty(len(own.sds.code)), np.empty(L)
        return readings(low, np.zeros(L), own, mean, sd, *work), mean, sd

    def expected(self, mean: np.ndarray) -> np.ndarray:
        """(m,) expected values, of two values their probability."""
        x = mean.copy()
        x[self.n_normal :] = 1.0 / (1.0 + np.exp(-mean[self.n_normal :]))
        return x

    def slopes(self, system: ResponseSystem, beta: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(R,) of the linear predictor in each unknown, b in elimination order."""
        gamma = self.X @ beta
        parts = zip(system.factors, system.template.effects(b), self.Z, strict=True)
        for f, own, Z in parts:
            gamma = gamma + (Z * own[f.codes[self.row]]).sum(axis=1)
        return gamma

    def placed(self, system: ResponseSystem, x: np.ndarray, K: np.ndarray) -> ResponseSystem:
        """The system with the unknowns at x, and rows that weigh 1 / K of their unknowns."""
        moved = (x[self.number] - self.fill)[:, None]
        X = system.X.copy()
        np.add.at(X, self.row, moved * self.X)
        factors = []
        for f, Z_slope in zip(system.factors, self.Z, strict=True):
            Z = f.Z.copy()
            np.add.at(Z, self.row, moved * Z_slope)
            factors.append(replace(f, Z=Z))
        share = np.ones(system.n)
        np.multiply.at(share, self.row, 1.0 / K[self.number])
        name = "trials" if system.family.gaussian else "weights"
        own: Any = {name: getattr(system, name) * share}
        return replace(system, X=X, factors=tuple(factors), **own)

    def laid_out(
        self,
        system: ResponseSystem,
        order: np.ndarray,
        factors: Sequence[int],
        weight: np.ndarray,
        push: np.ndarray,
        phi: np.ndarray,
    ) -> tuple[Unknowns, Sums]:
        """For the kernels, which have rows in ``order`` and the columns of ``factors``.

        Parameters
        ----------
        system : ResponseSystem
            Rows in the order of the design.
        weight, push : (n,) arrays
            -l'' and -l'' eta + l' of its rows at the mode.
        phi : (n_phi,) array
            The family's parameters there.
        """
        position = np.empty(system.n, dtype=np.int64)
        position[order] = np.arange(system.n)
        Z = np.hstack([np.zeros((len(self.row), 0)), *(self.Z[k] for k in factors)])
        unknowns = Unknowns(
            self.ptr,
            position[self.row],
            self.fill,
            self.X,
            np.ascontiguousarray(Z),
            np.ascontiguousarray(weight[self.row]),
            np.ascontiguousarray(push[self.row]),
            self.n_normal,
            float(phi[0]) if system.family.gaussian else 0.0,
        )
        return unknowns, self._sums(system, order, position)

    def _sums(self, system: ResponseSystem, order: np.ndarray, position: np.ndarray) -> Sums:
        members, rows, at = [], [], []
        for part in self.together:
            entries = [
                np.arange(*self.ptr[self.n_normal + j : self.n_normal + j + 2]) for j in part
            ]
            own = np.unique(self.row[np.concatenate(entries)])
            place = np.full((len(part), len(own)), -1)
            for t, found in enumerate(entries):
                place[t, np.searchsorted(own, self.row[found])] = found
            members.append(part)
            rows.append(own)
            at.append(place.ravel())
        inside = [
            own for part, own in zip(members, rows, strict=True) for _ in range(2 ** len(part))
        ]
        blocks = [order, *inside]
        used = _joined(blocks)
        weights = system.weights[used]
        weights[: system.n][np.isin(order, _joined(rows))] = 0.0
        return Sums(
            _joined(members),
            position[_joined(rows)],
            _starts(members),
            _starts(rows),
            _joined(at),
            _starts(at),
            _starts(blocks),
            system.y[used],
            system.trials[used],
            weights,
        )

    def drawn(self, x: np.ndarray, chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(n, m) values of all unknowns, those of two values drawn given everything else.

        Parameters
        ----------
        x : (n, m) array
            Values of the normal ones.
        chances : (n, n_states) array
            Probabilities of the states of the components.
        """
        out, first = x.copy(), 0
        for part in self.together:
            total = np.cumsum(chances[:, first : first + 2 ** len(part)], axis=1)
            state = (rng.random((len(x), 1)) * total[:, -1:] > total).sum(axis=1)
            out[:, self.n_normal + part] = (state[:, None] >> np.arange(len(part))) & 1
            first += 2 ** len(part)
        return out


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)


def _starts(parts: Sequence[Sized]) -> np.ndarray:
    return np.cumsum([0, *(len(part) for part in parts)])


def unknown_obstacle(design: Design, priors: Priors) -> str | None:
    """Why unknown values of covariates have no place in the joint density; None where they have."""
    if not design.modeled:
        return None
    if np.isfinite(design.family.predictor_range).any():
        return f"link={design.family.link!r} ends the range of the linear predictor"
    for covariate in design.modeled:
        for parameter in _parameters_of(covariate, priors):
            prior, sd = priors[parameter.key], parameter.kind in _SDS
            if not (prior.name in LINE_FAMILIES or (sd and supported_scale(prior))):
                return (
                    f"the prior of {parameter.key} is {prior!r}, which the compiled density does "
                    "not know"
                )
    for part in _together(*_entries_of_two(design)):
        if len(part) > _MOST_TOGETHER:
            return (
                f"{len(part)} missing values of two-valued covariates share rows, and at most "
                f"{_MOST_TOGETHER} can be summed over together"
            )
    return None


def _parameters_of(covariate: ModeledCovariate, priors: Priors) -> list[Parameter]:
    """Parameters of the regression of a covariate."""
    kinds = (*_COEFFICIENTS, *_SDS)
    return [p for p in priors.parameters if p.kind in kinds and p.factor == covariate.name]


def _entries_of_two(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Unknowns of two values, numbered from 0, and the rows they are in."""
    numbers, rows, first = [], [], 0
    for covariate in design.modeled:
        if covariate.values is not None:
            numbers.append(first + covariate.unit)
            rows.append(covariate.rows)
            first += covariate.n_unknown
    return _joined(numbers), _joined(rows)


def _together(number: np.ndarray, row: np.ndarray) -> list[np.ndarray]:
    """Numbers of unknowns that share rows."""
    if not len(number):
        return []
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    m, n = number.max() + 1, row.max() + 1
    joins = coo_matrix((np.ones(len(number)), (number, m + row)), (m + n, m + n))
    label = connected_components(joins, directed=False)[1][:m]
    return [np.flatnonzero(label == part) for part in np.unique(label)]


def unknown_values(
    design: Design,
    priors: Priors,
    back: np.ndarray,
    maps: Sequence[np.ndarray | None],
) -> UnknownValues | None:
    """Unknown values of a design; None where it has none.

    Parameters
    ----------
    back : (p, p) array
        From the coefficients computed with to those of the formula.
    maps : sequence of (q_k, q_k) array or None
        The same of effects.
    """
    if not design.modeled:
        return None
    normal = [c for c in design.modeled if c.values is None]
    first, numbers, at = {}, [], 0
    for covariate in [*normal, *(c for c in design.modeled if c.values is not None)]:
        first[covariate.name] = at
        at += covariate.n_unknown
    of = np.empty(at, dtype=np.int64)
    for c, covariate in enumerate(design.modeled):
        of[first[covariate.name] : first[covariate.name] + covariate.n_unknown] = c
        numbers.append(first[covariate.name] + covariate.unit)
    number = np.concatenate(numbers)
    order = np.argsort(number, kind="stable")
    ptr = np.append(0, np.cumsum(np.bincount(number, minlength=at))).astype(np.int64)
    X = np.vstack([c.X_slope for c in design.modeled])[order] @ back
    Z = []
    for k, K in enumerate(maps):
        slopes = np.vstack([c.Z_slopes[k] for c in design.modeled])[order]
        Z.append(slopes if K is None else slopes @ K)
    return UnknownValues(
        _regressions(design, priors, first),
        of,
        ptr,
        np.concatenate([c.rows for c in design.modeled])[order].astype(np.int64),
        np.concatenate([c.fill for c in design.modeled])[order].astype(float),
        np.ascontiguousarray(X),
        tuple(Z),
        sum(c.n_unknown for c in normal),
        tuple(_together(*_entries_of_two(design))),
    )


def _regressions(design: Design, priors: Priors, first: dict[str, int]) -> Regressions:
    models = [c.model for c in design.modeled]
    unknown: list[np.ndarray] = []
    error: list[np.ndarray] = []
    level: list[np.ndarray] = []
    sd: list[int] = []
    effect_sd: list[int] = []
    sds: list[Prior] = []
    coefficients: list[Prior] = []
    n_levels, at = [0], 0
    for covariate, model in zip(design.modeled, models, strict=True):
        unknown.append(np.where(model.unknown < 0, -1, first[covariate.name] + model.unknown))
        error.append(np.where(np.isnan(model.reading), np.inf, model.error**2))
        codes = model.codes if model.factor else np.full(len(model.reading), -1)
        level.append(np.where(codes < 0, -1, n_levels[-1] + codes))
        n_levels.append(n_levels[-1] + (len(model.levels) if model.factor else 0))
        name = covariate.name
        for kind in _COEFFICIENTS:
            coefficients += priors.of(kind, name)
        for kind, positions in zip(_SDS, (sd, effect_sd), strict=True):
            own = priors.of(kind, name)
            positions.append(at if own else -1)
            at += len(own)
            sds += own
    return Regressions(
        np.concatenate([m.reading for m in models]).astype(float),
        np.concatenate(error),
        _joined(unknown),
        np.concatenate([m.W.ravel() for m in models]),
        _starts([m.reading for m in models]),
        _starts([m.names for m in models]),
        _starts([m.W.ravel() for m in models]),
        _joined(level),
        np.array(n_levels, dtype=np.int64),
        np.array(sd, dtype=np.int64),
        np.array(effect_sd, dtype=np.int64),
        scales(coefficients),
        scales(sds),
    )


def no_unknowns(rows: Rows, p: int) -> tuple[Regressions, Unknowns, Sums]:
    """What the kernels get where everything is known, of p coefficients."""
    none, nothing, zero = np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    empty, width = scales([]), len(rows.Z)
    return (
        Regressions(
            none, none, nothing, none, zero, zero, zero, nothing, zero, nothing, nothing, empty,
            empty,
        ),
        Unknowns(zero, nothing, none, np.zeros((0, p)), np.zeros((0, width)), none, none, 0, 0.0),
        Sums(
            nothing, nothing, zero, zero, nothing, zero, np.array([0, len(rows.y)]), rows.y,
            rows.trials, rows.weights,
        ),
    )  # fmt: skip


def covariate_values(
    design: Design,
    unknown: UnknownValues,
    draws: UnknownDraws,
    x: np.ndarray,
    shape: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """Variables of the covariates, (chains, draws, ...), from n draws of the kernels.

    Parameters
    ----------
    x : (n, m) array
        Values, those of two values drawn.
    shape : tuple of int
        Chains and draws.
    """
    own, values = unknown.regressions, {}
    for c, covariate in enumerate(design.modeled):
        names, first = covariate_names(covariate), own.columns[c]
        alpha = draws.alpha[:, first : own.columns[c + 1]].reshape(*shape, -1)
        values[names.missing] = x[:, unknown.of == c].reshape(*shape, -1)
        values[names.mean] = alpha[..., 0]
        if own.sd[c] >= 0:
            values[names.sd] = draws.scales[:, own.sd[c]].reshape(shape)
        if alpha.shape[-1] > 1:
            values[names.slope] = alpha[..., 1:]
        if own.effect_sd[c] >= 0:
            values[names.effect_sd] = draws.scales[:, own.effect_sd[c]].reshape(shape)
            part = draws.effects[:, own.levels[c] : own.levels[c + 1]]
            values[names.effect] = part.reshape(*shape, -1)
    return values
