"""Distributions of residuals and of random effects."""

from __future__ import annotations

__all__ = ["FAMILIES", "describe_families"]

FAMILIES = ("gaussian", "student")


def describe_families(family: str, random: str) -> list[str]:
    """Lines on what is not Gaussian.

    Parameters
    ----------
    family, random : str
        Of the residuals and of the random effects.
    """
    lines = ["Residuals: Student-t (sigma is their scale)"] if family == "student" else []
    if random == "student":
        lines.append("Random effects: Student-t (standard deviations are their scales)")
    return lines
