"""Residuals of linear models: normal and Student-t.

`trials` are the weights of rows, which here are precisions and not powers of the density: the scale
of a residual is sigma / sqrt(weight).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bayeslmm.parts.families import formulas
from bayeslmm.parts.families.family import Family, first_where

__all__ = ["Gaussian", "StudentT"]


class Gaussian(Family):
    """y ~ N(eta, sigma / sqrt(weight))."""

    kind = formulas.GAUSSIAN
    links: ClassVar[tuple[str, ...]] = ("identity",)
    concave: ClassVar[tuple[str, ...]] = links
    gaussian = True
    discrete = False

    def _scale(self, phi, trials) -> np.ndarray:
        return np.asarray(phi)[..., 0] / np.sqrt(trials)

    def information(self, eta, phi=(), trials=1.0):
        return self._scale(phi, trials) ** -2.0 + 0.0 * np.asarray(eta)

    def variance(self, eta, phi=(), trials=1.0):
        return self._scale(phi, trials) ** 2 + 0.0 * np.asarray(eta)

    def draw(self, rng, eta, phi=(), trials=1.0):
        return rng.normal(eta, self._scale(phi, trials))

    def cdf(self, y, eta, phi=(), trials=1.0):
        from scipy.special import ndtr

        return ndtr((y - eta) / self._scale(phi, trials))

    def check(self, y, trials=None):
        return first_where(~np.isfinite(y), "is not finite")

    def start(self, y, trials=1.0):
        return np.asarray(y, dtype=float)


class StudentT(Gaussian):
    """y - eta is sigma / sqrt(weight) times a t with nu degrees of freedom.

    Not log-concave: far out the density bends upwards.
    """

    kind = formulas.STUDENT
    concave: ClassVar[tuple[str, ...]] = ()

    def information(self, eta, phi=(), trials=1.0):
        nu = np.asarray(phi)[..., 1]
        return (nu + 1.0) / (nu + 3.0) * super().information(eta, phi, trials)

    def step_weight(self, y, eta, phi=(), trials=1.0):
        """(nu + 1) / (nu scale^2 + (y - eta)^2): steps of the EM algorithm, which never go down
        (Lange, Little & Taylor 1989, JASA 84, section 4).
        """
        nu, scale = np.asarray(phi)[..., 1], self._scale(phi, trials)
        return (nu + 1.0) / (nu * scale**2 + (y - eta) ** 2)

    def variance(self, eta, phi=(), trials=1.0):
        nu = np.asarray(phi)[..., 1]
        with np.errstate(divide="ignore"):
            ratio = np.where(nu > 2.0, nu / np.maximum(nu - 2.0, 0.0), np.inf)
        return ratio * super().variance(eta, phi, trials)

    def draw(self, rng, eta, phi=(), trials=1.0):
        scale, nu = np.broadcast_arrays(self._scale(phi, trials), np.asarray(phi)[..., 1])
        shape = np.broadcast_shapes(np.shape(eta), scale.shape)
        return eta + scale * rng.standard_t(np.broadcast_to(nu, shape))

    def cdf(self, y, eta, phi=(), trials=1.0):
        from scipy.special import stdtr

        return stdtr(np.asarray(phi)[..., 1], (y - eta) / self._scale(phi, trials))
