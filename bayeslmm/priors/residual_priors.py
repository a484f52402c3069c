"""The parameters of the residuals, with their default priors."""

from __future__ import annotations

import math

import numpy as np

from bayeslmm.formula import Design
from bayeslmm.formula.components import scalar_name, time_pairs
from bayeslmm.parts.parameters import Component, Parameter, pair_key
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.scales import supported_scale
from bayeslmm.parts.structures import STRUCTURES
from bayeslmm.parts.structures.unstructured import CORR_KEY

__all__ = [
    "CORR_KEY",
    "log_scale_keys",
    "residual_obstacle",
    "residual_parameters",
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
    return scalar_name(design.residual)


def residual_parameters(design: Design, sd_y: float) -> list[Parameter]:
    """Everything about the residuals, ``sigma`` included. Defaults:

    - every standard deviation: HalfStudentT(3, s_y), times the root of the mean weight;
    - log-linear coefficients of the standard deviation: Normal(0, 1 / s_x), Normal(0, 1) for a
      0/1 column;
    - rho: uniform over its interval (-1, 1), for compound symmetry (-1 / (m - 1), 1);
    - range: HalfNormal with half the longest span of times within a group;
    - unstructured correlations: LKJ(2).

    Where standard errors are known, sigma is 1 in their unit: no number that a table shows.
    """
    if design.se_name is not None:
        one = Prior("Fixed", value=1)
        return [_single("sigma", "sigma", one, (0.0, np.inf), shown=False)]
    scale = sd_y * math.sqrt(design.statistics.mean_weight)
    found = [
        _single(key, "sigma", Prior("HalfStudentT", nu=3, sigma=scale), (0.0, np.inf))
        for key in scale_keys(design)
    ]
    residual = design.residual
    if residual is None:
        return found
    for j, key in enumerate(log_scale_keys(design), start=1):
        column = residual.rows.scale[:, j]
        two = len(np.unique(column)) == 2
        normal = Prior("Normal", mu=0.0, sigma=1.0 if two else 1.0 / float(np.std(column)))
        found.append(_single(key, "log_sigma", normal))
    rows, made, largest = residual.rows, STRUCTURES[residual.kind], residual.largest_group
    times = residual.times
    names = made.component_names(times, rows.group, rows.time)
    for key, prior in made.default_priors(rows.group, rows.time, largest).items():
        if key != CORR_KEY:
            support = made.interval(largest)
            found.append(_single(key, key, prior, support, shown=key in names))
            continue
        shown = tuple(
            Component(pair_key(times[i], times[j]), f"{times[i]}, {times[j]}", len(times))
            for i, j in time_pairs(residual)
        )
        found.append(Parameter(CORR_KEY, "corr", prior, (-1.0, 1.0), components=shown))
    return found


def _single(
    key: str, kind: str, default: Prior, support=(-np.inf, np.inf), *, shown: bool = True
) -> Parameter:
    components = (Component(key, key),) if shown else ()
    return Parameter(key, kind, default, support, components=components)


def residual_obstacle(design: Design, priors) -> str | None:
    """Why the compiled density does not know a prior of the residuals; None where it does."""
    unknown = [key for key in log_scale_keys(design) if priors[key].name != "Normal"]
    scales = [*scale_keys(design), *(["range"] if scalar_key(design) == "range" else [])]
    unknown += [key for key in scales if not supported_scale(priors[key])]
    for key in unknown:
        return f"the prior of {key} is {priors[key]!r}, which the marginal density does not know"
    return None
