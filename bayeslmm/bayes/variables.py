"""PyMC variables with given priors."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from bayeslmm.parts.prior import Prior

__all__ = ["exact", "positive", "stacked"]


def positive(name: str, chosen: list[Prior], dims: str | None):
    """A standard deviation or another number, or a vector of them."""
    if dims is None:
        import pymc as pm

        if chosen[0].name == "Fixed":
            value = float(chosen[0].parameters["value"])
            return pm.Deterministic(name, pm.math.constant(value))
        return getattr(pm, chosen[0].name)(name, **exact(chosen[0]))
    return stacked(name, chosen, dims=dims)


def exact(prior: Prior) -> dict[str, np.ndarray]:
    """Parameters in double precision: what PyTensor makes of whole numbers is single."""
    return {key: np.asarray(value, dtype=float) for key, value in prior.parameters.items()}


def stacked(name: str, chosen: list[Prior], dims: str):
    """A vector with a prior per element: one variable where the families agree."""
    import pymc as pm
    import pytensor.tensor as pt

    kinds = {(prior.name, tuple(sorted(prior.parameters))) for prior in chosen}
    if len(kinds) == 1 and chosen[0].name != "Fixed":
        parameters = {
            key: np.array([prior.parameters[key] for prior in chosen], dtype=float)
            for key in chosen[0].parameters
        }
        shape = {} if parameters else {"shape": len(chosen)}
        return getattr(pm, chosen[0].name)(name, **parameters, dims=dims, **shape)
    parts, start = [], 0
    for _, same in groupby(chosen, key=lambda p: (p.name, tuple(sorted(p.parameters)))):
        run = list(same)
        parameters = {
            key: np.array([prior.parameters[key] for prior in run], dtype=float)
            for key in run[0].parameters
        }
        if run[0].name == "Fixed":
            parts.append(pt.constant(parameters["value"]))
            start += len(run)
            continue
        distribution = getattr(pm, run[0].name)
        parts.append(distribution(f"{name}_{start}", **parameters, shape=len(run)))
        start += len(run)
    return pm.Deterministic(name, pt.concatenate(parts), dims=dims)
