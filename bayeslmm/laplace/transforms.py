"""A family's own parameters as unbounded numbers: logs, logits, and ordered thresholds.

Ordered numbers are the first of them and the logs of the gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, logit

if TYPE_CHECKING:
    from bayeslmm.parts.families import Family

__all__ = ["is_ordered", "natural", "pullback", "unbounded"]

#: Where exponentials end: what is farther is a limit.
_FAR = 40.0


def is_ordered(family: Family) -> bool:
    """Whether the parameters are thresholds, which move with the linear predictor."""
    return any(parameter.transform == "ordered" for parameter in family.parameters)


def unbounded(family: Family, phi: np.ndarray) -> np.ndarray:
    """Unbounded numbers (n_phi,) of parameters (n_phi,)."""
    parts = [np.zeros(0)]
    for transform, own in _parts(family, phi):
        if transform == "ordered":
            parts.append(np.append(own[:1], np.log(np.diff(own))))
        else:
            parts.append(np.log(own) if transform == "log" else logit(own))
    return np.concatenate(parts)


def natural(family: Family, w: np.ndarray) -> np.ndarray:
    """Inverse of :func:`unbounded`."""
    parts = [np.zeros(0)]
    for transform, own in _parts(family, w):
        if transform == "ordered":
            gaps = np.exp(np.clip(own[1:], -_FAR, _FAR))
            parts.append(np.cumsum(np.append(own[:1], gaps)))
        elif transform == "log":
            parts.append(np.exp(np.clip(own, -_FAR, _FAR)))
        else:
            parts.append(expit(np.clip(own, -_FAR, _FAR)))
    return np.concatenate(parts)


def pullback(family: Family, w: np.ndarray, d_phi: np.ndarray) -> np.ndarray:
    """Derivatives in the unbounded numbers from those in the parameters."""
    parts, start = [np.zeros(0)], 0
    for transform, own in _parts(family, w):
        d = d_phi[start : start + len(own)]
        start += len(own)
        if transform == "ordered":
            above = np.cumsum(d[::-1])[::-1]  # a gap moves all thresholds above it
            parts.append(np.append(above[:1], above[1:] * np.exp(np.clip(own[1:], -_FAR, _FAR))))
        elif transform == "log":
            parts.append(d * np.exp(np.clip(own, -_FAR, _FAR)))
        else:
            p = expit(np.clip(own, -_FAR, _FAR))
            parts.append(d * p * (1.0 - p))
    return np.concatenate(parts)


def _parts(family: Family, values: np.ndarray):
    start = 0
    for parameter in family.parameters:
        yield parameter.transform, np.asarray(values[start : start + parameter.size], dtype=float)
        start += parameter.size
