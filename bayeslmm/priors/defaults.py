"""Default priors that do not depend on the origin, the unit or the coding of a covariate.

Coefficients. With S the covariance matrix of the columns of X, the default is

    beta ~ N(m, s^2 S^-1),   s = 2.5 sd(y),

but for the intercept, which is meant at the means of the predictors. Under a change of columns
X T the precision T'S T is that of the new coefficients, so that the same fitted values have the
same prior however the covariates are shifted, scaled or coded: Zellner's g prior (1986, in: Goel
and Zellner, eds, Bayesian Inference and Decision Techniques) with the weight of 0.16 rows.

It is kept as a root of S, and read one coefficient at a time. With S = R'R, R upper triangular,

    beta_j + sum_{k > j} (R_jk / R_jj) beta_k ~ N(0, s^2 / R_jj^2),   independent over j,

and R_jj is the standard deviation of column j that the columns before it leave: the left side is
the coefficient of column j in the model in which every later column is replaced by what the
earlier ones leave of it. This generalizes "the intercept at the means of the predictors".

A coefficient with a prior of the user's has just that prior, and the others keep the default
conditional on it; the conditional at zero is the default of the model without that column.

Random effects. Standard deviations and correlations have their defaults in the columns Z K of
:func:`bayeslmm.formula.marginality.effect_map`, the random intercept at the means of the
covariates, and the covariance in the formula's columns is K Sigma K'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bayeslmm.errors import listed
from bayeslmm.formula import Design
from bayeslmm.formula.marginality import categorical_ranges, effect_map, marginal_effects
from bayeslmm.formula.random import RandomBlock
from bayeslmm.formula.statistics import BlockStatistics, spread
from bayeslmm.parts.parameters import corr_key, sd_key
from bayeslmm.priors.responses import response_center, response_unit

__all__ = [
    "CoefficientDefaults",
    "Defaults",
    "EffectDefaults",
    "coefficient_defaults",
    "response_spread",
]

#: A column of which the columns before it leave this share or less is a combination of them.
_ALIASED = 1e-7
#: Prior means this small beside their standard deviation are rounding errors of zero.
_ROUNDING = 1e-12
#: Coefficients that a note names one by one.
_FEW = 4


@dataclass(frozen=True)
class CoefficientDefaults:
    """The joint default prior of the coefficients.

    Attributes
    ----------
    root : (r, p) array
        root (beta - mean) / scale ~ N(0, I); the intercept's column is zero.
    mean : (p,) array
    scale : float
        2.5 sd(y), or 2.5 units of the linear predictor (:mod:`bayeslmm.priors.responses`).
    spread : (p,) array
        Standard deviation of each column by itself: for a column that is a combination of others,
        about whose coefficient the joint prior says nothing.
    intercept : int or None
    means : (p,) array
        Where the intercept is meant: the means of the columns.
    mean_y : float
        What the intercept is expected to be there: the mean of the response, or the center of the
        linear predictor.
    """

    root: np.ndarray
    mean: np.ndarray
    scale: float
    spread: np.ndarray
    intercept: int | None
    means: np.ndarray
    mean_y: float

    @property
    def unit(self) -> float:
        """sd(y), or the unit of the linear predictor."""
        return self.scale / 2.5

    def given(self, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The prior as independent combinations, given the coefficients that have their own.

        Parameters
        ----------
        fixed : (p,) bool array
            Coefficients with a prior of the user's.

        Returns
        -------
        A : (p, p) array
            A beta are the combinations, one per coefficient: that of a fixed coefficient is
            itself, that of the intercept its value at the means.
        mean, sd : (p,) arrays
            Of the combinations; those of fixed coefficients are not meant to be used.
        """
        p = len(self.mean)
        A, mean, sd = np.eye(p), np.zeros(p), self.scale / self.spread
        columns = np.array([j for j in range(p) if j != self.intercept], dtype=int)
        order = np.concatenate([columns[~fixed[columns]], columns[fixed[columns]]])
        basis, Q, R = _triangular(self.root, order)
        along = Q.T @ self.root
        # a column with a prior of its own that is a combination of these adds nothing to them
        along[:, np.setdiff1d(np.flatnonzero(fixed), basis)] = 0.0
        for row, j in enumerate(basis):
            if fixed[j]:
                break
            A[j] = along[row] / R[row, row]
            A[j, basis[:row]], A[j, j] = 0.0, 1.0
            sd[j] = self.scale / abs(R[row, row])
            mean[j] = A[j] @ self.mean
            mean[j] = 0.0 if abs(mean[j]) <= _ROUNDING * sd[j] else mean[j]
        if self.intercept is not None:
            at = self.intercept
            A[at] = self.means
            A[at, at] = 1.0
            mean[at], sd[at] = self.mean_y, self.scale
        return A, mean, sd

    def to_dict(self) -> dict:
        """As plain data for a file."""
        return _plain(self)

    @classmethod
    def from_dict(cls, record: dict) -> CoefficientDefaults:
        """From :meth:`to_dict`."""
        p = len(record["mean"])
        arrays: dict[str, Any]
        arrays = {k: np.array(record[k], dtype=float) for k in ("mean", "spread", "means")}
        root = np.array(record["root"], dtype=float).reshape(-1, p)
        rest: dict[str, Any] = {k: record[k] for k in ("scale", "intercept", "mean_y")}
        return cls(root=root, **arrays, **rest)

    def fits(self, other: CoefficientDefaults) -> bool:
        """Whether these are numbers about the same coefficients."""
        p = len(other.mean)
        arrays = (self.root, self.mean, self.spread, self.means)
        return (
            self.root.shape[1:] == (p,)
            and all(len(a) == p for a in arrays[1:])
            and all(np.all(np.isfinite(a)) for a in arrays)
            and bool(np.all(self.spread > 0))
            and self.intercept == other.intercept
            and all(_is_number(x) for x in (self.scale, self.mean_y))
            and self.scale > 0
        )


def _plain(record: object) -> dict:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(record).items()}


def _is_number(value) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _triangular(root: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of ``order`` that are no combination of those before, and their QR factors."""
    size = np.linalg.norm(root, axis=0)
    basis = order[size[order] > 0]
    while True:
        Q, R = np.linalg.qr(root[:, basis])
        left = np.abs(np.diag(R)) / size[basis]
        bad = np.flatnonzero(left <= _ALIASED)
        if not len(bad):
            return basis, Q, R
        basis = np.delete(basis, bad[0])


def coefficient_defaults(design: Design) -> CoefficientDefaults:
    """The defaults of a design's coefficients."""
    rows = design.statistics
    scale = 2.5 * response_spread(design)
    at = design.intercept_column
    p = len(design.coef_names)
    root = np.diag(rows.spread) if rows.root is None else rows.root.copy()
    mean = np.zeros(p)
    center = rows.mean_y if design.family.gaussian else response_center(design)
    if at is not None:
        root[:, at] = 0.0
    elif rows.ones is not None and design.family.name != "ordinal":
        # a mean per cell: the constant they add up to is the intercept
        root = np.vstack([root, rows.mean])
        mean = center * rows.ones
    if p:
        root = np.linalg.qr(root, mode="r")
    return CoefficientDefaults(root, mean, scale, rows.spread, at, rows.mean, center)


@dataclass(frozen=True)
class EffectDefaults:
    """Where the defaults of one grouping factor's effects are meant, and their scales.

    Attributes
    ----------
    K : (q, q) array
        See :func:`bayeslmm.formula.marginality.effect_map`.
    scales : (q,) array
        sd(y) / sd of each column of Z K; 0/1 columns and the like have sd(y) over their range.
    lower : tuple of tuple of int
        Effects marginal to each.
    """

    K: np.ndarray
    scales: np.ndarray
    lower: tuple[tuple[int, ...], ...]

    def given(
        self, pattern: tuple[tuple[int, ...], ...], fixed: np.ndarray, fixed_corr: bool
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """K in force and the scales that go with it.

        A prior of the user's on a correlation, or on an effect that others are measured from,
        means the columns of the formula; the defaults beside it then have the scales that the
        default covariance has in those columns.

        Parameters
        ----------
        pattern
            Correlated parts.
        fixed : (q,) bool array
            Effects whose standard deviation has a prior of the user's.
        fixed_corr : bool
            Whether the correlations have.

        Returns
        -------
        K : (q, q) array or None
            None where it is the identity.
        scales : (q,) array
        """
        K, scales = self.K.copy(), self.scales.copy()
        for part in pattern:
            moved = {i for j in part for i in self.lower[j] if K[i, j] != 0}
            if not moved or not (fixed_corr or any(fixed[i] for i in moved)):
                continue
            at = np.ix_(part, part)
            scales[list(part)] = np.sqrt(K[at] ** 2 @ scales[list(part)] ** 2)
            K[at] = np.eye(len(part))
        return (None if np.array_equal(K, np.eye(len(K))) else K), scales

    def to_dict(self) -> dict:
        """As plain data for a file."""
        return _plain(self)

    @classmethod
    def from_dict(cls, record: dict) -> EffectDefaults:
        """From :meth:`to_dict`."""
        lower = tuple(tuple(int(i) for i in row) for row in record["lower"])
        K, scales = (np.array(record[key], dtype=float) for key in ("K", "scales"))
        return cls(K, scales, lower)

    def fits(self, other: EffectDefaults) -> bool:
        """Whether these are numbers about the same effects."""
        return (
            self.K.shape == other.K.shape
            and self.scales.shape == other.scales.shape
            and self.lower == other.lower
            and bool(np.all(np.isfinite(self.K)) and np.all(np.diag(self.K) == 1))
            and bool(np.all(np.isfinite(self.scales)) and np.all(self.scales > 0))
        )


def effect_defaults(
    design: Design, block: RandomBlock, covariates: BlockStatistics, sd_y: float
) -> EffectDefaults:
    """The defaults of one grouping factor's effects."""
    names = set(design.effect_columns(block))
    lower = tuple(tuple(found) for found in marginal_effects(block, names))
    Z = block.Z if design.rows_in_memory else None
    K = effect_map(lower, covariates.gram, Z)
    sd = spread(covariates.sd, covariates.size)
    for j in np.flatnonzero((np.eye(len(K)) != K).any(axis=0)):
        if Z is not None:
            left = float(np.std(Z @ K[:, j], ddof=1))
        else:
            # columns marginal to j include the constant or span it: the mean of Z K is zero
            n = covariates.counts.sum()
            left = float(np.sqrt(max(K[:, j] @ covariates.gram @ K[:, j], 0.0) * n / (n - 1)))
        sd[j] = left if left > _ALIASED * sd[j] else sd[j]
    ranges = categorical_ranges(design, block)
    plain = np.array([len(found) <= 1 for found in lower]) & covariates.indicator
    unit = np.where(np.isfinite(ranges), ranges, np.where(plain, 1.0, sd))
    return EffectDefaults(K, sd_y / unit, lower)


def without_map(defaults: EffectDefaults) -> EffectDefaults:
    """Defaults meant in the formula's columns, as files of earlier versions have them."""
    return replace(defaults, K=np.eye(len(defaults.K)))


@dataclass(frozen=True)
class Defaults:
    """What the defaults of coefficients and of random effects are made from; never changes.

    Attributes
    ----------
    keys : tuple of str
        Of the coefficients' priors.
    coefficients : CoefficientDefaults
    factors : tuple of (name, effects, pattern)
        Of each grouping factor.
    effects : tuple of EffectDefaults
    """

    keys: tuple[str, ...]
    coefficients: CoefficientDefaults
    factors: tuple[tuple[str, tuple[str, ...], tuple[tuple[int, ...], ...]], ...]
    effects: tuple[EffectDefaults, ...]

    @classmethod
    def of(cls, design: Design, keys: tuple[str, ...]) -> Defaults:
        """The defaults of a design; ``keys`` are those of its coefficients' priors."""
        blocks, sd_y = design.blocks, response_spread(design)
        return cls(
            keys,
            coefficient_defaults(design),
            tuple((block.name, tuple(block.effects), block.pattern) for block in blocks),
            tuple(
                effect_defaults(design, block, covariates, sd_y)
                for block, covariates in zip(blocks, design.statistics.blocks, strict=True)
            ),
        )

    def combinations(self, is_set: Callable[[str], bool]):
        """As :meth:`CoefficientDefaults.given`."""
        return self.coefficients.given(np.array([is_set(key) for key in self.keys], dtype=bool))

    def effects_given(self, is_set: Callable[[str], bool]):
        """As :meth:`EffectDefaults.given`, per grouping factor."""
        return [
            own.given(
                pattern,
                np.array([is_set(sd_key(effect, name)) for effect in effects], dtype=bool),
                is_set(corr_key(name)),
            )
            for (name, effects, pattern), own in zip(self.factors, self.effects, strict=True)
        ]

    def given(self, is_set: Callable[[str], bool]) -> dict[str, dict]:
        """Default priors of all coefficients and standard deviations, given those that are set.

        As records, see :meth:`bayeslmm.priors.table.Prior.to_dict`.
        """
        _, mean, sd = self.combinations(is_set)
        priors: dict[str, dict] = {
            key: {"name": "Normal", "mu": float(m), "sigma": float(s)}
            for key, m, s in zip(self.keys, mean, sd, strict=True)
        }
        for (name, effects, _), (_, scales) in zip(
            self.factors, self.effects_given(is_set), strict=True
        ):
            for effect, scale in zip(effects, scales, strict=True):
                key = sd_key(effect, name)
                priors[key] = {"name": "HalfStudentT", "nu": 3, "sigma": float(scale)}
        return priors

    def notes(self, is_set: Callable[[str], bool]) -> list[str]:
        """Lines that say what the defaults are about."""
        lines = []
        if "Intercept" in self.keys:
            lines.append("Intercept: at the means of the predictors")
        A = self.combinations(is_set)[0]
        A[[key == "Intercept" for key in self.keys]] = 0.0
        joint = [key for key, row in zip(self.keys, A, strict=True) if np.sum(row != 0) > 1]
        if joint:
            which = listed(joint) if len(joint) <= _FEW else "Other coefficients by default"
            lines.append(
                f"{which}: of the column, where later columns have the earlier ones "
                "taken out (any shift, scale or coding of the columns gives the same prior)"
            )
        for (name, effects, _), (K, _) in zip(
            self.factors, self.effects_given(is_set), strict=True
        ):
            if K is None:
                continue
            off = K - np.eye(len(K)) != 0
            moved = [e for e, row in zip(effects, off, strict=True) if row.any()]
            by = [e for e, column in zip(effects, off.T, strict=True) if column.any()]
            lines.append(
                f"{sd_key(listed(moved), name)} and correlations: where {listed(by)} "
                f"{'is' if len(by) == 1 else 'are'} at the mean"
            )
        return lines

    def alone(self) -> Defaults:
        """Each coefficient by itself, each effect in its own column: files of version 0.1.0."""
        own = self.coefficients
        root = np.diag(np.where(np.arange(len(own.mean)) == own.intercept, 0.0, own.spread))
        return replace(
            self,
            coefficients=replace(own, root=root),
            effects=tuple(without_map(effect) for effect in self.effects),
        )

    def to_dict(self) -> dict:
        """As plain data for a file."""
        return {
            "coefficients": self.coefficients.to_dict(),
            "effects": [own.to_dict() for own in self.effects],
        }

    def restored(self, record: Mapping) -> Defaults:
        """These with the numbers of :meth:`to_dict`.

        Raises
        ------
        ValueError
            If they are of other parameters, or not numbers.
        """
        try:
            coefficients = CoefficientDefaults.from_dict(record["coefficients"])
            effects = tuple(EffectDefaults.from_dict(own) for own in record["effects"])
        except (AttributeError, KeyError, TypeError, ValueError) as err:
            raise ValueError("what its default priors were made from is not complete.") from err
        mine = [self.coefficients, *self.effects]
        theirs: list[Any] = [coefficients, *effects]
        same = len(effects) == len(self.effects) and all(
            found.fits(own) for found, own in zip(theirs, mine, strict=True)
        )
        if not same:
            raise ValueError("what its default priors were made from is of another model.")
        return replace(self, coefficients=coefficients, effects=effects)


def response_spread(design: Design) -> float:
    """sd(y), or 1 where the response does not vary; the unit of the linear predictor of others."""
    if not design.family.gaussian:
        return response_unit(design)
    sd_y = design.statistics.sd_y
    return sd_y if sd_y > 0 else 1.0
