"""Links between the mean of a response and the linear predictor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.parts.families.latent import CLOGLOG, IDENTITY, INVERSE, LOG, LOGIT, PROBIT

__all__ = ["LINKS", "Link"]


@dataclass(frozen=True)
class Link:
    """g(mu) = eta.

    Attributes
    ----------
    name : str
    number : int
        In codes of families.
    latent : str or None
        The distribution whose distribution function the inverse is, if there is one.
    """

    name: str
    number: int
    latent: str | None = None

    def link(self, mu: np.ndarray | float) -> np.ndarray:
        """Eta of means, arrays of any shape."""
        from scipy.special import ndtri

        mu = np.asarray(mu, dtype=float)
        with np.errstate(divide="ignore"):
            match self.name:
                case "logit":
                    return np.log(mu) - np.log1p(-mu)
                case "probit":
                    return ndtri(mu)
                case "cloglog":
                    return np.log(-np.log1p(-mu))
                case "log":
                    return np.log(mu)
                case "inverse":
                    return 1.0 / mu
        return mu

    def inverse(self, eta: np.ndarray | float) -> np.ndarray:
        """Means of eta, arrays of any shape."""
        from scipy.special import expit, ndtr

        eta = np.asarray(eta, dtype=float)
        with np.errstate(over="ignore", divide="ignore"):
            match self.name:
                case "logit":
                    return expit(eta)
                case "probit":
                    return ndtr(eta)
                case "cloglog":
                    return -np.expm1(-np.exp(eta))
                case "log":
                    return np.exp(eta)
                case "inverse":
                    return 1.0 / eta
        return eta

    def inverse_slope(self, eta: np.ndarray | float) -> np.ndarray:
        """d mu / d eta, arrays of any shape."""
        eta = np.asarray(eta, dtype=float)
        with np.errstate(over="ignore", divide="ignore"):
            match self.name:
                case "logit":
                    e = np.exp(-np.abs(eta))
                    return e / (1.0 + e) ** 2
                case "probit":
                    return np.exp(-0.5 * eta**2) / np.sqrt(2.0 * np.pi)
                case "cloglog":
                    return np.exp(np.minimum(eta, 700.0) - np.exp(eta))
                case "log":
                    return np.exp(eta)
                case "inverse":
                    return -1.0 / eta**2
        return np.ones(eta.shape)


#: Links by the name a user writes.
LINKS: dict[str, Link] = {
    made.name: made
    for made in (
        Link("logit", LOGIT, "logistic"),
        Link("probit", PROBIT, "normal"),
        Link("cloglog", CLOGLOG, "gumbel"),
        Link("identity", IDENTITY),
        Link("log", LOG),
        Link("inverse", INVERSE),
    )
}
