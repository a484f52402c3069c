"""Shares of variance: R2, intraclass correlation, shares by term.

Nakagawa and Schielzeth (2013), Methods in Ecology and Evolution 4(2), eq. 26-30, with Johnson's
(2014, same journal 5(9), eq. 10) mean variance of the random effects where slopes vary:
sum_k tr(Sigma_k sum_j Z_j'Z_j) / n. Rows are not needed, only cross-products. Of a response that
is not Gaussian on the scale of the linear predictor (:func:`distribution_sd`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from bayeslmm.protocols import Model

__all__ = [
    "Shares",
    "VarianceParts",
    "distribution_sd",
    "icc_shares",
    "icc_values",
    "r2_shares",
    "r2_values",
    "term_shares",
    "variance_parts",
]


@dataclass(frozen=True)
class VarianceParts:
    """Variances of the parts of the linear predictor, one value per draw.

    Attributes
    ----------
    fixed : (...) array
        Sample variance (divisor n - 1) of x'beta over the rows.
    random : (..., K) array
        Mean variance of each grouping factor's effects over the rows.
    residual : (...) array
        sigma^2, times the mean of 1/w where there are weights.
    """

    fixed: np.ndarray
    random: np.ndarray
    residual: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Sum of all parts."""
        return self.fixed + self.random.sum(axis=-1) + self.residual


def variance_parts(
    model: Model, beta: np.ndarray, Sigmas: list[np.ndarray], sigma: np.ndarray
) -> VarianceParts:
    """Variance parts of each draw.

    Parameters
    ----------
    model : Model
    beta : (..., p) array
    Sigmas : list of (..., q_k, q_k) arrays
    sigma : (...) array
    """
    moments, unmixing = _fixed_moments(model)
    gamma = beta @ unmixing.T
    fixed = np.einsum("...a,ab,...b->...", gamma, moments, gamma)
    random = [
        np.einsum("...ab,ab->...", Sigma, moment)
        for Sigma, moment in zip(Sigmas, mean_moments(model), strict=True)
    ]
    stacked = np.stack(random, axis=-1) if random else np.zeros((*np.shape(sigma), 0))
    residual = residual_scale(model) * np.asarray(sigma) ** 2
    return VarianceParts(np.maximum(fixed, 0.0), np.maximum(stacked, 0.0), residual)


def distribution_sd(
    model: Model, beta: np.ndarray, Sigmas: list[np.ndarray], phi: np.ndarray
) -> np.ndarray:
    """Root of the distribution-specific variance of a response that is not Gaussian (...).

    On the scale of the linear predictor (Nakagawa, Johnson & Schielzeth 2017, J. R. Soc.
    Interface 14, 20170213, table 1): that of the latent variable where there is one (pi^2/3 with
    the logit link, 1, pi^2/6), log(1 + 1/mu + 1/alpha) and the like with the log link. Where it
    depends on the mean it is at the mean of the linear predictor and, with the log link, at the
    overall mean exp(eta + (variance of the fixed part and the random effects) / 2),
    which in a model without predictors is exact; an offset is part of the mean.

    Parameters
    ----------
    beta : (..., p) array
    Sigmas : list of (..., q_k, q_k) arrays
    phi : (..., n_phi) array
    """
    design, family = model.design, model.design.family
    parts = variance_parts(model, beta, Sigmas, np.zeros(np.shape(beta)[:-1]))
    eta = beta @ design.X.mean(axis=0)
    if family.link.name == "log":
        eta = eta + np.log(np.mean(np.exp(design.offset))) + 0.5 * parts.total
    else:
        eta = eta + design.offset.mean()
    return np.sqrt(family.null_variance(eta, phi))


def residual_scale(model: Model) -> float:
    """Mean of 1/w over the rows: mean residual variance in units of sigma^2; 1 where w are
    weights of cases, beside a response that is not Gaussian.
    """
    if not model.design.family.gaussian:
        return 1.0
    return model.design.statistics.mean_inverse_weight


def _fixed_moments(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Sample covariance (divisor n - 1) of the columns of X T over the rows, and T^-1, (p, p).

    T orthogonalizes nearly collinear columns (``gaussian.orthogonal``).
    """
    cp = model.cross_products
    n, p = cp.n, cp.p
    plain = cp.gram_unweighted
    moment = plain[:p, :p] - np.outer(plain[:p, -1], plain[:p, -1]) / n
    return moment / max(n - 1, 1), cp.shift.unmixing


def mean_moments(model: Model) -> list[np.ndarray]:
    """(q_k, q_k) mean over rows of A_jj z_ik z_ik': sum(Sigma_k * it) is the mean variance.

    A_jj, the diagonal of a relationship, is 1 where levels are not related.
    """
    moments = []
    for block, factor in zip(model.design.blocks, model.cross_products.factors, strict=True):
        if block.relationship is None:
            moments.append(factor.zz_unweighted / model.cross_products.n)
        else:
            own = block.relationship.diagonal[block.codes]
            moments.append((block.Z * own[:, None]).T @ block.Z / len(own))
    return moments


def r2_values(parts: VarianceParts) -> dict[str, np.ndarray]:
    """Marginal R2 (fixed part) and conditional R2 (fixed and random parts)."""
    explained = parts.fixed + parts.random.sum(axis=-1)
    return {"marginal": parts.fixed / parts.total, "conditional": explained / parts.total}


def icc_values(parts: VarianceParts, factors: list[str]) -> dict[str, np.ndarray]:
    """Intraclass correlations: adjusted, unadjusted, and adjusted by grouping factor."""
    random = parts.random.sum(axis=-1)
    within = random + parts.residual
    values = {"adjusted": random / within, "unadjusted": random / parts.total}
    for k, name in enumerate(factors):
        values[_free(name, values)] = parts.random[..., k] / within
    return values


@dataclass(frozen=True)
class Shares:
    """Named shares of variance as a function of the parameters, for one fit or many draws.

    Attributes
    ----------
    name : str
        What they are together, the name of a column or of a series.
    values : callable
        (beta (..., p), Sigmas [(..., q_k, q_k)], sigma (...)) -> {name: (..., points)}; without
        points the last axis is missing.
    points : pandas.DataFrame or None
        Labels of the last axis, one row each.
    dim : str
        Name of that axis in a Dataset.
    """

    name: str
    values: Callable[..., dict[str, np.ndarray]]
    points: pd.DataFrame | None = None
    dim: str = ""


def r2_shares(model: Model) -> Shares:
    """R2 of Nakagawa and Schielzeth, marginal and conditional."""
    return Shares("r2", lambda *draws: r2_values(variance_parts(model, *draws)))


def icc_shares(model: Model, at=None) -> Shares:
    """Intraclass correlations over the rows, or at values of the random effects' covariates.

    At a point z the variance between groups is z'Sigma z (Goldstein, Browne and Rasbash 2002,
    Understanding Statistics 1(4), eq. 4).
    """
    factors = [block.name for block in model.design.blocks]
    if at is None:
        return Shares("icc", lambda *draws: icc_values(variance_parts(model, *draws), factors))
    from bayeslmm.results.covariates import effect_points

    points, Z = effect_points(model.design, at)

    def values(beta, Sigmas, sigma) -> dict[str, np.ndarray]:
        between = np.stack(
            [np.einsum("ia,...ab,ib->...i", z, S, z) for z, S in zip(Z, Sigmas, strict=True)],
            axis=-1,
        )
        between = np.maximum(between, 0.0)
        residual = residual_scale(model) * np.asarray(sigma)[..., None] ** 2
        parts = VarianceParts(np.zeros(between.shape[:-1]), between, residual)
        found = icc_values(parts, factors)
        found.pop("unadjusted")  # the fixed part does not vary at a point
        return found

    return Shares("icc", values, points, "at")


def term_shares(model: Model) -> Shares:
    """Share of each term in the total variance; they add up to one.

    A fixed term's part is the sample covariance of its contribution x_t'beta_t with the whole
    x'beta, a random term's the mean over rows of z'Sigma z.
    """
    design = model.design
    fixed = [term for term in design.terms if term.name != "Intercept"]
    random = [
        (k, bar, columns)
        for k, block in enumerate(design.blocks)
        for bar, columns in _bar_columns(block)
    ]
    points = pd.DataFrame(
        {
            "term": [*(t.name for t in fixed), *(str(bar) for _, bar, _ in random), "residual"],
            "kind": ["fixed"] * len(fixed) + ["random"] * len(random) + ["residual"],
        }
    )
    (moments, unmixing), by_row = _fixed_moments(model), mean_moments(model)

    def values(beta, Sigmas, sigma) -> dict[str, np.ndarray]:
        covariance = beta * (beta @ unmixing.T @ moments @ unmixing)
        parts = [covariance[..., term.columns].sum(axis=-1) for term in fixed]
        for k, _, columns in random:
            block = np.ix_(columns, columns)
            products = by_row[k][block]
            Sigma = Sigmas[k][..., columns, :][..., :, columns]
            parts.append(np.maximum(np.einsum("...ab,ab->...", Sigma, products), 0.0))
        parts.append(residual_scale(model) * np.asarray(sigma) ** 2)
        stacked = np.stack(parts, axis=-1)
        return {"share": stacked / stacked.sum(axis=-1, keepdims=True)}

    return Shares("share", values, points, "term")


def _bar_columns(block) -> list[tuple]:
    """Each random term of a block and the columns of Z it occupies."""
    found, start = [], 0
    for bar, width in zip(block.terms, block.term_widths, strict=True):
        found.append((bar, np.arange(start, start + width)))
        start += width
    return found


def _free(name: str, taken) -> str:
    """A grouping factor called like another share is told from it."""
    while name in taken:
        name += "_"
    return name
