"""The variance components of a model: what each is, where it lives, and the scale it varies on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.formula.components import (
    component_map,
    residual_component_names,
    scalar_name,
    time_pairs,
)
from bayeslmm.priors.parameters import component_names

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.formula.residual import ResidualDesign
    from bayeslmm.likelihood.coordinates import Coordinates
    from bayeslmm.parts.structures import Structure

__all__ = [
    "Component",
    "component_values",
    "components_of",
    "effect_component_values",
    "effect_components",
]


@dataclass(frozen=True)
class Component:
    """One variance component.

    Attributes
    ----------
    name : str
        As it is shown.
    kind : {"sd", "corr", "sigma", "log sigma", "rho", "range", "time corr", "lag corr", \
"family"}
        Of a random effect; of two; of the residuals, or of those of a cell; a coefficient of a
        log-linear formula; the number of a correlation structure; of two times; a parameter of the
        response's distribution.
    at : tuple of int
        Grouping factor and effects; cell or coefficient; times.
    lowest, highest : float
        Its limits.
    """

    name: str
    kind: str
    at: tuple[int, ...] = ()
    lowest: float = 0.0
    highest: float = np.inf

    @property
    def is_correlation(self) -> bool:
        """Whether it is one between two effects or times."""
        return self.kind in ("corr", "time corr", "lag corr")

    def unbounded(self, value: float) -> float:
        """The value on the whole line: itself, its log, or Fisher's z between its limits."""
        if np.isfinite(self.highest):
            middle, half = self._interval
            return float(np.arctanh((value - middle) / half))
        return float(np.log(value)) if np.isfinite(self.lowest) else float(value)

    def bounded(self, value: float) -> float:
        """Inverse of :meth:`unbounded`."""
        if np.isfinite(self.highest):
            middle, half = self._interval
            return float(middle + half * np.tanh(value))
        return float(np.exp(value)) if np.isfinite(self.lowest) else float(value)

    def slope(self, value: float) -> float:
        """Derivative of :meth:`unbounded`, infinite at a limit."""
        value = np.float64(value)  # whose division by zero is infinite
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.isfinite(self.highest):
                middle, half = self._interval
                return float(half / (half**2 - (value - middle) ** 2))
            return float(1.0 / value) if np.isfinite(self.lowest) else 1.0

    def within_reach(self, value: float, se: float) -> bool:
        """Whether a standard error reaches a limit: an interval would span orders of magnitude."""
        if not np.isfinite(self.lowest):
            return not np.isfinite(se)
        return not se * self.slope(value) < 1.0

    @property
    def _interval(self) -> tuple[float, float]:
        return 0.5 * (self.lowest + self.highest), 0.5 * (self.highest - self.lowest)


def components_of(design: Design, structure: Structure | None = None) -> tuple[Component, ...]:
    """Components of a model: those of random effects factor by factor, then of residuals,
    which are none where standard errors are known.

    Parameters
    ----------
    design : Design
    structure : Structure, optional
        That of its residuals, where they have one.
    """
    found = effect_components(design)
    residual = design.residual
    if design.se_name is not None:
        return tuple(found)
    if residual is None or structure is None:
        return (*found, Component("sigma", "sigma", (0,)))
    return (*found, *_residual_components(residual, structure))


def effect_components(design: Design) -> list[Component]:
    """Standard deviations and correlations of the random effects, factor by factor."""
    found = []
    for k, block in enumerate(design.blocks):
        pairs, q = block.correlated_pairs(), len(block.effects)
        for at, name in enumerate(component_names(block)):
            if at < q:
                found.append(Component(name, "sd", (k, at)))
            else:
                found.append(Component(name, "corr", (k, *pairs[at - q]), -1.0, 1.0))
    return found


def _residual_components(residual: ResidualDesign, structure: Structure) -> list[Component]:
    """Scales, then what the correlation structure has."""
    found: list[Component] = []
    log_linear, scalar = residual.variance.kind == "log-linear", scalar_name(residual)
    count = len(residual.variance.names)
    names = residual_component_names(residual)
    for c, name in enumerate(names[:count]):
        if log_linear and c:
            found.append(Component(name, "log sigma", (c,), -np.inf))
        else:
            found.append(Component(name, "sigma", (c,)))
    if scalar == "range":
        found.append(Component(scalar, scalar))
    elif scalar:
        found.append(Component(scalar, scalar, (), structure.lower, structure.upper))
    rest = names[count + bool(scalar) :]
    if residual.times:
        for pair, name in zip(time_pairs(residual), rest, strict=True):
            found.append(Component(name, "time corr", pair, -1.0, 1.0))
    else:
        found += [Component(name, "lag corr", (k,), -1.0, 1.0) for k, name in enumerate(rest)]
    return found


def effect_component_values(design: Design, Sigmas: list[np.ndarray]) -> np.ndarray:
    """Standard deviations and correlations of the random effects, factor by factor.

    A correlation with an effect that does not vary is NaN.

    Parameters
    ----------
    Sigmas : list of (..., q_k, q_k) arrays

    Returns
    -------
    (..., components) array
    """
    values: list[np.ndarray] = []
    for block, Sigma in zip(design.blocks, Sigmas, strict=True):
        sd = np.sqrt(np.diagonal(Sigma, axis1=-2, axis2=-1))
        values.extend(np.moveaxis(sd, -1, 0))
        for i, j in block.correlated_pairs():
            product = sd[..., i] * sd[..., j]
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.clip(Sigma[..., i, j] / product, -1, 1)
            values.append(np.where(product > 0, ratio, np.nan))
    return np.stack(values, axis=-1) if values else np.zeros(0)


def component_values(design: Design, coordinates: Coordinates, x: np.ndarray) -> np.ndarray:
    """Values of all components of a model with structured residuals, at coordinates x."""
    theta = coordinates.theta(x)
    effects = effect_component_values(design, coordinates.problem.covariances(theta.F))
    return np.concatenate([effects, component_map(design.stated_residual, theta.eta, theta.c)])
