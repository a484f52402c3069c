"""Compound symmetry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.parts.structures.base import Bounded, Symbols


@dataclass(frozen=True)
class CompoundSymmetry(Bounded):
    """corr = rho for every two rows of a group; -1/(m - 1) < rho < 1 with m the largest group.

    To the kernels it is c[0], with derivative 1.
    """

    name, code = "cs", 3

    @classmethod
    def interval(cls, largest: int) -> tuple[float, float]:
        return -1.0 / (largest - 1), 1.0

    @classmethod
    def formula(cls, write: Symbols, one: str, two: str) -> str:
        return write.greek("rho")

    @staticmethod
    def correlations(xp, c, time: np.ndarray):
        m = time.shape[-1]
        return xp.where(np.broadcast_to(np.eye(m), (*time.shape, m)) == 1, 1.0, c)

    def starts(self) -> list[np.ndarray]:
        return [self.unconstrained(v) for v in (0.5 * self.lower, 0.5)]
