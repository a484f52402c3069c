"""Priors of many coefficients together that draw most of them to zero: horseshoe and R2D2.

Both are about the coefficients of standardized columns, beta_j times the standard deviation of
column j, and given scales s_j these are independent normal, beta_j sd(x_j) ~ N(0, s_j^2).

Regularized horseshoe (Piironen and Vehtari 2017, Electron. J. Stat. 11(2), eq. 2.8 and 3.12):

    s_j = tau l_j / sqrt(1 + tau^2 l_j^2 / c^2),   l_j ~ t+(df),   tau ~ tau_0 sigma t+(df_global),
    c^2 ~ InverseGamma(df_slab / 2, df_slab / 2 (slab s_y)^2),   tau_0 = p_0 / (D - p_0) / sqrt(n),

t+ the half-t distribution of scale 1, p_0 of D coefficients expected to be far from zero.

R2D2 (Zhang, Naughton, Bondell and Reich 2022, JASA 117(538); with normal coefficients as in brms):

    s_j^2 = phi_j sigma^2 R2 / (1 - R2),   R2 ~ Beta(mean precision, (1 - mean) precision),
    phi ~ Dirichlet(concentration).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bayeslmm.errors import PriorError, listed
from bayeslmm.formula import Design
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.prior import SHRINKAGE, Prior
from bayeslmm.priors.residual_priors import log_scale_keys, scale_keys

__all__ = ["Shrinkage", "horseshoe", "r2d2", "shrinkage_of"]

#: Names of so many coefficients are written out.
_FEW = 6


def horseshoe(
    expected: float | None = None,
    *,
    scale: float | None = None,
    df: float = 1,
    df_global: float = 1,
    slab: float = 2,
    df_slab: float = 4,
) -> Prior:
    """The regularized horseshoe, a prior of many coefficients of which few are far from zero.

    Given to the class ``"beta"`` (all coefficients but the intercept) or to several coefficients by
    name. It is about standardized columns: beta_j times the standard deviation of column j.

    Parameters
    ----------
    expected : float, optional
        How many coefficients are expected to be far from zero: more than 0 and fewer than there
        are. The global scale is then expected / (D - expected) sigma / sqrt(n).
    scale : float, optional
        The global scale in units of sigma, instead.
    df, df_global : float
        Degrees of freedom of the half-t priors of the local scales and of the global one; 1 is
        half-Cauchy.
    slab : float
        Size of coefficients far from zero, in standard deviations of the response.
    df_slab : float
        Degrees of freedom of the slab: coefficients far from zero are about Student-t.

    Returns
    -------
    Prior

    Raises
    ------
    PriorError
        If not exactly one of `expected` and `scale` is given, or a number is not positive.

    References
    ----------
    Piironen and Vehtari (2017), Electronic Journal of Statistics 11(2), eq. 2.8 and 3.12;
    https://doi.org/10.1214/17-EJS1337SI

    Examples
    --------
    >>> import bayeslmm as blm
    >>> blm.horseshoe(expected=5)
    Horseshoe(df=1, df_global=1, slab=2, df_slab=4, expected=5)
    """
    both = {"expected": expected, "scale": scale}
    given = {key: value for key, value in both.items() if value is not None}
    return Prior("Horseshoe", df=df, df_global=df_global, slab=slab, df_slab=df_slab, **given)


def r2d2(mean: float = 0.5, precision: float = 2, *, concentration: float = 0.5) -> Prior:
    """The R2D2 prior: on the share of variance that many coefficients explain together.

    Given to the class ``"beta"`` (all coefficients but the intercept) or to several coefficients by
    name. It is about standardized columns: beta_j times the standard deviation of column j.

    Parameters
    ----------
    mean, precision : float
        Of the beta distribution of R2 = V / (V + sigma^2), V the variance that the coefficients
        explain where columns are uncorrelated; Beta(mean precision, (1 - mean) precision).
    concentration : float
        Of the Dirichlet distribution of each coefficient's part of it: below 1 few coefficients
        have nearly all, above 1 all have about the same.

    Returns
    -------
    Prior

    Raises
    ------
    PriorError
        If the mean is not between 0 and 1, or a number is not positive.

    References
    ----------
    Zhang, Naughton, Bondell and Reich (2022), Journal of the American Statistical Association
    117(538), 862-874; https://doi.org/10.1080/01621459.2020.1825449

    Examples
    --------
    >>> import bayeslmm as blm
    >>> blm.r2d2(mean=0.3)
    R2D2(mean=0.3, precision=2, concentration=0.5)
    """
    return Prior("R2D2", mean=mean, precision=precision, concentration=concentration)


@dataclass(frozen=True)
class Shrinkage:
    """A shrinkage prior of D coefficients, in numbers.

    Attributes
    ----------
    prior : Prior
    mask : (p,) bool array
        Which coefficients.
    names : tuple of str
        Of these.
    spread : (D,) array
        Standard deviations of their columns.
    unit : float
        Standard deviation of the response.
    tau_0 : float
        Global scale of a horseshoe in units of sigma; 1 for R2D2.
    scalars : list of Prior
        Of what the scales are functions of: tau / (tau_0 sigma), c^2 and l_1 ... l_D, or R2 and
        gamma variables whose shares are phi.
    """

    prior: Prior
    mask: np.ndarray
    names: tuple[str, ...]
    spread: np.ndarray
    unit: float
    tau_0: float
    scalars: list[Prior]

    @property
    def is_horseshoe(self) -> bool:
        """Or else R2D2."""
        return self.prior.name == "Horseshoe"

    @property
    def text(self) -> str:
        """What it says, for tables of priors."""
        names, at = self.names, self.prior.parameters
        which = listed(names) if len(names) <= _FEW else f"{len(names)} coefficients"
        start = f"{which}: together, times the standard deviations of their columns;"
        if not self.is_horseshoe:
            return (
                f"{start} the share of variance they explain has mean {at['mean']:g}, and their "
                f"parts of it are Dirichlet({at['concentration']:g})"
            )
        size = at["slab"] * self.unit
        far = f"about {at['expected']:g} far" if "expected" in at else "few far"
        return (
            f"{start} most near zero (global scale {self.tau_0:.3g} sigma) and {far} from it, "
            f"these of a size of {size:.3g}"
        )


def shrinkage_of(
    design: Design, priors: Mapping[str, Prior], spread: np.ndarray, unit: float
) -> Shrinkage | None:
    """The shrinkage prior of a model's coefficients; None where there is none.

    Parameters
    ----------
    design : Design
    priors : mapping of str to Prior
    spread : (p,) array
        Standard deviations of the columns.
    unit : float
        Standard deviation of the response.

    Raises
    ------
    PriorError
        If coefficients have different ones, there is one coefficient only, or more are expected to
        be far from zero than there are; if the response is not Gaussian or its residuals have
        several standard deviations.
    """
    chosen = [priors[coef_key(name)] for name in design.coef_names]
    mask = np.array([prior.name in SHRINKAGE for prior in chosen], dtype=bool)
    if not mask.any():
        return None
    names = tuple(name for name, own in zip(design.coef_names, mask, strict=True) if own)
    different = {prior for prior in chosen if prior.name in SHRINKAGE}
    prior = next(iter(different))
    size = len(names)
    if len(different) > 1:
        raise PriorError(
            f"{listed(names)} have different shrinkage priors ({listed(map(repr, different))}), "
            "and a model has one: give them the same."
        )
    if size < 2:
        raise PriorError(
            f"{names[0]}: {prior!r} is a prior of several coefficients together; of one alone use "
            "another, such as StudentT or Laplace."
        )
    _refuse_responses(design, prior)
    at, spread = prior.parameters, spread[mask]
    if prior.name == "R2D2":
        share = Prior(
            "Beta", alpha=at["mean"] * at["precision"], beta=(1 - at["mean"]) * at["precision"]
        )
        parts = [Prior("Gamma", alpha=at["concentration"], beta=1.0)] * size
        return Shrinkage(prior, mask, names, spread, unit, 1.0, [share, *parts])
    tau_0 = at.get("scale")
    if tau_0 is None:
        if not at["expected"] < size:
            raise PriorError(
                f"{prior!r}: {at['expected']:g} of {size} coefficients cannot be expected to be "
                "far from zero beside others: expected must be smaller than their number."
            )
        tau_0 = at["expected"] / (size - at["expected"]) / np.sqrt(design.n_rows)
    half, far = 0.5 * at["df_slab"], at["slab"] * unit
    scalars = [
        Prior("HalfStudentT", nu=at["df_global"], sigma=1.0),
        Prior("InverseGamma", alpha=half, beta=half * far**2),
        *[Prior("HalfStudentT", nu=at["df"], sigma=1.0)] * size,
    ]
    return Shrinkage(prior, mask, names, spread, unit, float(tau_0), scalars)


def _refuse_responses(design: Design, prior: Prior) -> None:
    if not design.family.gaussian:
        raise PriorError(
            f'{prior!r} is in units of sigma, and with family="{design.family.name}" there is '
            "none: use a prior of each coefficient, such as Laplace or StudentT."
        )
    if design.modeled:
        raise PriorError(
            f"{prior!r} is about standardized columns, which unknown values of "
            f"{listed(covariate.name for covariate in design.modeled)} leave open: use a prior of "
            "each coefficient."
        )
    if [*scale_keys(design), *log_scale_keys(design)] != ["sigma"]:
        raise PriorError(
            f"{prior!r} is in units of sigma, and these residuals have several standard "
            "deviations: use a prior of each coefficient, such as Laplace or StudentT."
        )
