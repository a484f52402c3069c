"""Names of variables and dimensions in a posterior.

A grouping factor ``g`` has the variables ``sd_g``, ``corr_g`` and ``b_g`` and the dimensions
``g``, ``g_effect`` and ``g_effect_pair``. A NetCDF file cannot hold a ``/`` in a name and xarray
cannot have a dimension that shares a variable's name, so a factor called ``sigma`` or
``km/h`` is renamed; the new name is recorded with the results.
"""

from __future__ import annotations

from dataclasses import dataclass

from bayeslmm.bayes.responses import response_names
from bayeslmm.formula import Design

__all__ = ["FactorNames", "ModelNames", "model_names", "storable"]

_RESERVED = (
    "chain", "draw", "sample", "coef", "obs", "beta", "sigma", "nu", "beta_centered", "shrunk",
    "hs_global", "hs_slab", "hs_local", "r2d2_R2", "r2d2_phi",
)  # fmt: skip


@dataclass(frozen=True)
class FactorNames:
    """Names that belong to one grouping factor.

    Attributes
    ----------
    factor : str
        As in the formula.
    dim, effect_dim, pair_dim : str
        Dimensions: levels, effects, pairs of correlated effects.
    sd, corr, b, z : str
        Variables: standard deviations, correlations, effects, standardized effects.
    nu, tau : str
        Variables where effects are Student-t: degrees of freedom, mixing precisions.
    """

    factor: str
    dim: str
    effect_dim: str
    pair_dim: str
    sd: str
    corr: str
    b: str
    z: str
    nu: str
    tau: str


@dataclass(frozen=True)
class ModelNames:
    """Names of a model: the response's, its data's, and one record per grouping factor."""

    response: str
    data: str
    factors: tuple[FactorNames, ...]

    def factor(self, name: str) -> FactorNames:
        """Record of the grouping factor `name`."""
        return next(names for names in self.factors if names.factor == name)

    def renamed(self) -> dict[str, str]:
        """Grouping factors whose dimension has another name."""
        return {names.factor: names.dim for names in self.factors if names.factor != names.dim}


def model_names(design: Design) -> ModelNames:
    """Names that do not collide with each other, for any formula."""
    taken = {*_RESERVED, *response_names(design)}
    factors = []
    for block in design.blocks:
        base = storable(block.name)
        while taken & set(_all_names(base)):
            base += "_"
        names = FactorNames(block.name, *_all_names(base))
        taken |= set(_all_names(base))
        factors.append(names)
    response = storable(design.response)
    while {response, f"{response}_data"} & taken:
        response += "_"
    return ModelNames(response, f"{response}_data", tuple(factors))


def _all_names(base: str) -> tuple[str, ...]:
    return (
        base,
        f"{base}_effect",
        f"{base}_effect_pair",
        f"sd_{base}",
        f"corr_{base}",
        f"b_{base}",
        f"z_{base}",
        f"nu_{base}",
        f"tau_{base}",
    )


def storable(name: str) -> str:
    """A division slash instead of the slash that separates groups in a NetCDF file."""
    return name.replace("/", "\u2215")
