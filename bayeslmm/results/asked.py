"""What is asked of effects: of which rows, of which random effects, and how it is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bayeslmm.errors import DataError, listed
from bayeslmm.formula import Design
from bayeslmm.protocols import is_posterior
from bayeslmm.results.population_average import refuse_without_mean
from bayeslmm.results.reference_grid import GRID_WEIGHTS
from bayeslmm.results.support import refuse_heavy_averages
from bayeslmm.results.tables import check_level

__all__ = ["Asked", "checked", "is_linear", "own_groups"]

_RANDOM = ("population", "marginal", "conditional", "new")


@dataclass(frozen=True)
class Asked:
    """Where effects are asked for, and how they are reported.

    Attributes
    ----------
    by, at, newdata, weights, random, kind
        As the arguments of ``fits.effects.Effects.predictions``.
    level, interval, ddf, random_seed
        Likewise.

    Raises
    ------
    ValueError
        If `by` or `at` is of another type, or `weights` are asked for rows of new data.
    """

    by: str | list[str] | None = None
    at: Mapping[str, Any] | None = None
    newdata: Any = None
    weights: str = "data"
    random: str | None = None
    kind: str = "mean"
    level: float = 0.95
    interval: str = "eti"
    ddf: str | None = None
    random_seed: int | None = None

    def __post_init__(self):
        if not all(isinstance(name, str) for name in self.columns):
            raise ValueError(f"by= is a name of a column or a list of them, not {self.by!r}.")
        if not isinstance(self.at or {}, Mapping):
            raise ValueError(f'at= is a dict, such as {{"x": 0}}, not {self.at!r}.')
        if self.newdata is not None and self.weights != "data":
            raise ValueError("Rows of newdata count once each: leave weights= out.")

    @property
    def columns(self) -> list[str]:
        """Those of `by`."""
        by: Any = () if self.by is None else self.by
        return list(by) if pd.api.types.is_list_like(by) else [by]

    @property
    def on_grid(self) -> bool:
        """Whether rows are those of the reference grid, not of data."""
        return self.newdata is None and self.weights != "data"


def own_groups(design: Design) -> set[str]:
    """Columns of grouping factors that the fixed part has not: their levels have own effects."""
    groups = {c for block in design.blocks for c in block.factor.columns}
    return groups - set(design._predictor_columns(random=False))


def checked(fit: Any, asked: Asked) -> Asked:
    """What is asked, with the random effects that go with it.

    Raises
    ------
    ValueError, DataError
    """
    check_level(asked.level, asked.interval)
    design = fit.model.design
    groups = own_groups(design)
    own = [name for name in asked.columns if name in groups]
    random = asked.random or ("conditional" if own else "population")
    if random not in _RANDOM:
        raise ValueError(f"random must be one of {listed(_RANDOM)}, not {random!r}.")
    if asked.kind not in ("mean", "link"):
        raise ValueError(f'kind must be "mean" or "link", not {asked.kind!r}.')
    if random == "marginal":
        if asked.kind == "link":
            raise ValueError('The population\'s linear predictor is that of random="population".')
        refuse_heavy_averages(fit.model)
        refuse_without_mean(design.family)
    if asked.weights not in ("data", *GRID_WEIGHTS):
        raise ValueError(
            f"weights must be one of {listed(('data', *GRID_WEIGHTS))}, not {asked.weights!r}."
        )
    if asked.on_grid and (own or random == "conditional"):
        raise ValueError(
            'Effects of the groups themselves are averaged over rows: weights="data", or newdata '
            "with their columns."
        )
    if design.modeled and asked.newdata is None and not asked.on_grid:
        names = listed([covariate.name for covariate in design.modeled])
        raise DataError(
            f"Rows with unknown values of {names} cannot be averaged over: give newdata, or "
            'weights="equal" for a grid.'
        )
    if is_posterior(fit) and asked.ddf is not None:
        raise ValueError("ddf is of likelihood fits: a posterior's intervals need none.")
    if not is_posterior(fit) and not is_linear(fit, asked):
        if asked.ddf not in (None, "normal"):
            raise DataError(f"ddf={asked.ddf!r} is for Gaussian responses.")
        if random in ("conditional", "new"):
            raise DataError(
                f'random="{random}" of means that are not linear in the effects needs their '
                'posterior: model.fit(). Here: kind="link", random="population" or "marginal".'
            )
    return replace(asked, random=random)


def is_linear(fit: Any, asked: Asked) -> bool:
    """Whether what is averaged is linear in coefficients and effects."""
    return fit.model.design.family.gaussian or asked.kind == "link"
