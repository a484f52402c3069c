"""What every distribution of a response can say, given the linear predictor and its parameters."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bayeslmm.errors import one_of
from bayeslmm.parts.families import formulas
from bayeslmm.parts.families.links import Link

__all__ = ["Family", "FamilyParameter"]

Array = np.ndarray

#: Values of the log density at once: what is between, of all of them, fits into fast memory.
_AT_ONCE = 8192


@dataclass(frozen=True)
class FamilyParameter:
    """A parameter of a distribution beside its mean.

    Attributes
    ----------
    key : str
        Of its prior, and the variable of a posterior.
    size : int
    support : (float, float)
    transform : {"log", "logit", "ordered"}
        To unbounded numbers.
    """

    key: str
    size: int = 1
    support: tuple[float, float] = (0.0, math.inf)
    transform: str = "log"


@dataclass(frozen=True)
class Family:
    """The distribution of a response given its linear predictor eta.

    Arrays broadcast: y, eta and trials with each other and with ``phi[..., k]``, so that 1,000
    draws of n rows are eta (1000, n) and phi (1000, 1, n_phi).

    Attributes
    ----------
    name : str
    link : Link
    parameters : tuple of FamilyParameter
        phi is their values, one after the other.
    links : tuple of str
        What may be chosen, the default first.
    gaussian : bool
        Whether it is the linear model (gaussian and student), in which `trials` are the weights of
        the rows: precisions in units of 1 / sigma^2.
    discrete, log_concave : bool
        Of the distribution; of the log density as a function of eta with this link.
    """

    name: str
    link: Link
    parameters: tuple[FamilyParameter, ...] = ()

    kind: ClassVar[int]
    links: ClassVar[tuple[str, ...]]
    #: Links for which the log density is concave in eta.
    concave: ClassVar[tuple[str, ...]] = ()
    gaussian: ClassVar[bool] = False
    discrete: ClassVar[bool] = True

    @property
    def n_phi(self) -> int:
        """Length of phi."""
        return sum(p.size for p in self.parameters)

    @property
    def code(self) -> int:
        """What kernels know family and link by."""
        return formulas.code_of(self.kind, self.link.number)

    @property
    def log_concave(self) -> bool:
        return self.link.name in self.concave

    def pair(self, y: Any, phi: Array) -> tuple[Any, Any]:
        """The two numbers that formulas take of every row, from phi (..., n_phi)."""
        one, none = np.float64(1.0), np.float64(0.0)
        if self.n_phi == 0:
            return one, none
        return phi[..., 0], phi[..., 1] if self.n_phi > 1 else none

    def of_phi(self, y: Any, first: Array, second: Array) -> Array:
        """Derivatives (n_phi, ...) in phi from those in the two numbers."""
        return np.stack([first, second])[: self.n_phi]

    def _terms(self, y: Any, eta: Any, phi: Any, trials: Any) -> tuple:
        y, eta, trials, phi = (np.asarray(of, dtype=float) for of in (y, eta, trials, phi))
        p0, p1 = self.pair(y, phi)
        return formulas.terms(self.code, y, trials, eta, p0, p1), formulas.base(self.code, p0)

    def constant(self, y: Any, trials: Any = 1.0) -> Array:
        """The part of the log density that is free of eta and phi, which kernels leave out."""
        return formulas.constant(self.kind, y, trials)

    def log_density(self, y: Any, eta: Any, phi: Any = (), trials: Any = 1.0) -> Array:
        """Log density or log probability of y.

        Of many draws some after the others, so that what is between fits into fast memory.
        """
        y, eta, trials, phi = (np.asarray(of, dtype=float) for of in (y, eta, trials, phi))
        phi = phi if self.n_phi else np.empty(0)
        shape = np.broadcast_shapes(y.shape, eta.shape, trials.shape, phi.shape[:-1])
        if len(shape) < 2:
            return self.slopes(y, eta, phi, trials)[0]
        out, n = np.empty(shape), len(shape)
        step = max(_AT_ONCE // max(math.prod(shape[1:]), 1), 1)

        def at(index: slice | int, of: Array, n_axes: int) -> Array:
            return of[index if len(of) > 1 else 0] if of.ndim == n_axes else of

        for k in range(0, shape[0], step):
            index = slice(k, k + step) if step > 1 else k
            given = at(index, y, n), at(index, eta, n), at(index, phi, n + 1), at(index, trials, n)
            out[index] = self.slopes(*given)[0] if step > 1 else self.log_density(*given)
        return out

    def slopes(self, y: Any, eta: Any, phi: Any = (), trials: Any = 1.0) -> tuple[Array, ...]:
        """Log density and its first three derivatives in eta."""
        with np.errstate(all="ignore"):
            ((l0, *rest), _, _), (b0, _) = self._terms(y, eta, phi, trials)
            return (l0 + b0 + self.constant(y, trials), *rest)

    def phi_slopes(self, y: Any, eta: Any, phi: Any = (), trials: Any = 1.0) -> Array:
        """Derivatives in each phi of the log density and its first two derivatives in eta.

        Returns
        -------
        (n_phi, 3, ...) array
        """
        with np.errstate(all="ignore"):
            (_, first, second), (_, b1) = self._terms(y, eta, phi, trials)
            d = np.stack(np.broadcast_arrays(first[0] + b1, *first[1:], *second))
        return self.of_phi(y, d[:3], d[3:])

    def information(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> Array:
        """Expected minus second derivative of the log density in eta."""
        slope = self.link.inverse_slope(eta)
        return slope / self.variance(eta, phi) * slope

    def step_weight(self, y: Any, eta: Any, phi: Any = (), trials: Any = 1.0) -> Array:
        """Positive weight of a row in a step uphill where the log density is not concave."""
        return self.information(eta, phi, trials)

    def mean(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> Array:
        """Expectation of y, of binomial counts per trial, of ordinal responses of 0..K-1."""
        return self.link.inverse(eta)

    def probabilities(self, eta: Any, phi: Any) -> Array:
        """Of every category of an ordinal response, (..., K).

        Raises
        ------
        NotImplementedError
            If the response is not ordinal.
        """
        raise NotImplementedError(f'family="{self.name}" has no ordered categories.')

    @abstractmethod
    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> Array:
        """Variance of y, of binomial counts that of the count."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, eta: Any, phi: Any = (), trials: Any = 1.0) -> Array:
        """Responses, of the shape that eta, phi and trials broadcast to."""

    @abstractmethod
    def cdf(self, y: Any, eta: Any, phi: Any = (), trials: Any = 1.0) -> Array:
        """P(Y <= y)."""

    def cdf_below(self, y: Any, eta: Any, phi: Any = (), trials: Any = 1.0) -> Array:
        """P(Y < y), the other end of randomized quantile residuals (Dunn & Smyth 1996)."""
        return self.cdf(np.asarray(y) - 1.0 if self.discrete else y, eta, phi, trials)

    @abstractmethod
    def check(self, y: Array, trials: Array | None = None) -> tuple[int, str] | None:
        """The first row outside the support and what is wrong with it, None where there is none.

        Parameters
        ----------
        y : (n,) array
        trials : (n,) array or None
        """

    @abstractmethod
    def start(self, y: Array, trials: Any = 1.0) -> Array:
        """A linear predictor (n,), offset included, from which iterations may start."""

    def null_variance(self, eta: Any, phi: Any = (), method: str = "default") -> Array:
        """Distribution-specific variance on the scale of the linear predictor.

        What is beside the variance of effects in R2 and intraclass correlations (Nakagawa, Johnson
        & Schielzeth 2017, table 1 and 2).

        Parameters
        ----------
        eta : (...,) array
            Of the mean at which it is evaluated.
        phi : (..., n_phi) array
        method : {"default", "delta", "trigamma"}
            By default that of the latent distribution, or of the lognormal approximation, or the
            delta method where there is neither. The two others: trigamma with the log link of
            positive means, the delta method elsewhere.

        Raises
        ------
        ValueError
            If there is no such method.
        """
        one_of("method", method, ("default", "delta", "trigamma"))
        eta = np.asarray(eta, dtype=float)
        if method == "default" and self.latent_response:
            return np.full(eta.shape, LATENT_VARIANCE[self.link.name])
        if self.link.name != "log" or self.kind == formulas.BINOMIAL:
            return self.variance(eta, phi) / self.link.inverse_slope(eta) ** 2
        squared = self.variance(eta, phi) / self.mean(eta, phi) ** 2
        if method == "delta":
            return squared
        if method == "trigamma":
            from scipy.special import polygamma

            return polygamma(1, 1.0 / squared)
        return np.log1p(squared)

    @property
    def ratio(self) -> str | None:
        """What exponentials of coefficients are: a column name, None where they are nothing.

        Of ordinal responses of the odds of a higher category; beside the complementary log-log
        link those have none, since a coefficient lowers the hazard there.
        """
        events = self.kind == formulas.BINOMIAL
        match self.link.name:
            case "logit":
                return "odds_ratio"
            case "log" if events:
                return "risk_ratio"
            case "log":
                return "rate_ratio" if self.discrete else "ratio"
            case "cloglog" if events:
                return "hazard_ratio"
        return None

    @property
    def predictor_range(self) -> tuple[float, float]:
        """Between which linear predictors there is a distribution."""
        events, link = self.kind == formulas.BINOMIAL, self.link.name
        if events and link in ("identity", "log"):
            return (0.0, 1.0) if link == "identity" else (-math.inf, 0.0)
        if (
            self.kind != formulas.LOGNORMAL
            and not self.gaussian
            and link in ("identity", "inverse")
        ):
            return 0.0, math.inf
        return -math.inf, math.inf

    @property
    def latent_response(self) -> bool:
        """Whether the response says where a latent variable is, eta its location."""
        categories = (formulas.BINOMIAL, formulas.ORDINAL)
        return self.kind in categories and self.link.latent is not None


#: Of the distribution whose cdf an inverse link is.
LATENT_VARIANCE = {"logit": math.pi**2 / 3.0, "probit": 1.0, "cloglog": math.pi**2 / 6.0}


def first_where(wrong: Array, why: str) -> tuple[int, str] | None:
    """The first row of a condition, and the words."""
    found = np.flatnonzero(wrong)
    return (int(found[0]), why) if len(found) else None


def not_a_count(y: Array) -> Array:
    """Where y is not one of 0, 1, 2, ..."""
    y = np.asarray(y, dtype=float)
    return ~((y >= 0.0) & (y == np.floor(y)) & np.isfinite(y))
