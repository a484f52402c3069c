"""Default priors of the residual structure's parameters, and what each may be."""

from __future__ import annotations

import math

import numpy as np

from bayeslmm.errors import PriorError
from bayeslmm.formula import Design
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.scales import SCALE_FAMILIES
from bayeslmm.parts.structures import STRUCTURES
from bayeslmm.parts.structures.unstructured import CORR_KEY

__all__ = [
    "CORR_KEY",
    "check_residual_support",
    "log_scale_keys",
    "residual_component_priors",
    "residual_interval",
    "residual_members",
    "residual_priors",
    "scalar_key",
    "scale_keys",
]


def scale_keys(design: Design) -> list[str]:
    """Keys of the residual standard deviations."""
    if design.residual is None:
        return ["sigma"]
    variance = design.stated_residual.variance
    return list(variance.names[:1] if variance.kind == "log-linear" else variance.names)


def log_scale_keys(design: Design) -> list[str]:
    """Keys of the log-linear coefficients of the standard deviation."""
    if design.residual is None or design.stated_residual.variance.kind != "log-linear":
        return []
    return list(design.stated_residual.variance.names[1:])


def scalar_key(design: Design) -> str | None:
    """``rho`` or ``range``."""
    from bayeslmm.formula.components import scalar_name

    return None if design.residual is None else scalar_name(design.stated_residual)


def residual_interval(design: Design) -> tuple[float, float]:
    """Where rho or the range may lie."""
    residual = design.stated_residual
    return STRUCTURES[residual.kind].interval(residual.largest_group)


def residual_priors(design: Design, sd_y: float) -> dict:
    """Defaults of everything about the residuals, ``sigma`` included.

    - every standard deviation: HalfStudentT(3, s_y), times the root of the mean weight;
    - log-linear coefficients of the standard deviation: Normal(0, 1 / s_x), Normal(0, 1) for a
      0/1 column;
    - rho: uniform over its interval (-1, 1), for compound symmetry (-1 / (m - 1), 1);
    - range: HalfNormal with half the longest span of times within a group;
    - unstructured correlations: LKJ(2).
    """
    scale = sd_y * math.sqrt(design.statistics.mean_weight)
    priors = {key: Prior("HalfStudentT", nu=3, sigma=scale) for key in scale_keys(design)}
    residual = design.residual
    if residual is None:
        return priors
    for j, key in enumerate(log_scale_keys(design), start=1):
        column = residual.rows.scale[:, j]
        two = len(np.unique(column)) == 2
        priors[key] = Prior("Normal", mu=0.0, sigma=1.0 if two else 1.0 / float(np.std(column)))
    rows, made = residual.rows, STRUCTURES[residual.kind]
    priors.update(made.default_priors(rows.group, rows.time, residual.largest_group))
    return priors


def residual_members(design: Design) -> dict[str, list[str]]:
    """What the residual structure adds to the classes of priors."""
    corr = [CORR_KEY] if design.residual is not None and design.stated_residual.times else []
    return {"sigma": scale_keys(design), "corr": corr}


def check_residual_support(key: str, prior, interval: tuple[float, float]) -> bool:
    """Check the prior of a log-linear coefficient or bounded parameter; whether `key` is one.

    Raises
    ------
    PriorError
        If the prior reaches outside the parameter's interval.
    """
    if key.startswith("log_sigma["):
        if prior.name == "LKJ":
            raise PriorError(f"{key}: use another distribution than LKJ.")
        return True
    if key not in {made.bounded for made in STRUCTURES.values()}:
        return False
    low, high = interval
    bounds = prior.parameters
    inside = bounds.get("lower", -np.inf) >= low - 1e-9 and bounds.get("upper", np.inf) <= high
    if prior.name not in ("Uniform", "TruncatedNormal") or not inside:
        raise PriorError(
            f'{key} lies between {low:.4g} and {high:.4g}: use blm.Prior("Uniform", '
            f'lower={low:.4g}, upper={high:.4g}) or blm.Prior("TruncatedNormal", mu=..., '
            f"sigma=..., lower=..., upper=...) within these bounds, not {prior!r}."
        )
    return True


def residual_obstacle(design: Design, priors) -> str | None:
    """Why the compiled density does not know a prior of the residual structure."""
    if not STRUCTURES[design.stated_residual.kind].compiled:
        return f"residual={design.stated_residual.syntax.text!r} is not in the marginal density"
    for key in log_scale_keys(design):
        if priors[key].name != "Normal":
            return (
                f"the prior of {key} is {priors[key]!r}, which the marginal density does not know"
            )
    for key in [*scale_keys(design), *(["range"] if scalar_key(design) == "range" else [])]:
        prior = priors[key]
        if prior.name not in SCALE_FAMILIES or prior.parameters.get("lower", 0.0) < 0:
            return f"the prior of {key} is {prior!r}, which the marginal density does not know"
    return None


def residual_component_priors(design: Design, priors) -> dict[str, tuple]:
    """Prior of each residual component and, for a correlation, the size of its matrix."""
    from bayeslmm.formula.components import residual_component_names

    if design.residual is None:
        return {"sigma": (priors["sigma"], 0)}
    size = len(design.stated_residual.times)
    return {
        name: (priors[CORR_KEY], size) if name.startswith("corr(") else (priors[name], 0)
        for name in residual_component_names(design.stated_residual)
        if name in priors or size
    }
