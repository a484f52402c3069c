"""A likelihood fit as a model that the package marginaleffects takes.

It needs coefficients, their covariance, the rows, and a function from coefficients to means
(Arel-Bundock, Greifer and Heiss 2024, Journal of Statistical Software 111(9)); the means here are
those of the average group. The package is heavy and optional, so its class is extended on demand.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, listed
from bayeslmm.formula import Design
from bayeslmm.parts.families.family import Family

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult

__all__ = ["marginaleffects_model"]


def marginaleffects_model(fit: LikelihoodResult) -> Any:
    """See ``fits.likelihood_predictions.LikelihoodPredictions.to_marginaleffects``."""
    design = fit.model.design
    if type(design.family).mean is not Family.mean:
        raise DataError(
            f'Means with family="{design.family.name}" depend on more than the coefficients, whose '
            "uncertainty marginaleffects would leave out. predictions(), comparisons() and "
            "slopes() count it."
        )
    if fit.model.aliased:
        raise DataError(
            f"{listed(fit.model.aliased)} cannot be estimated apart from other columns, and "
            "marginaleffects does not see which means that leaves open. predictions(), "
            "comparisons() and slopes() do."
        )
    if not len(design.predictors):
        raise DataError("The rows of a fit in batches are not kept: marginaleffects needs them.")
    return _model_class()(fit)


@cache
def _model_class() -> type:
    """The class of models, which extends one of marginaleffects.

    Raises
    ------
    DataError
        If that package, or the polars it needs, is not installed.
    """
    install = "pip install 'bayeslmm[marginaleffects]'."
    try:
        import polars as pl
        from marginaleffects.classes import ModelAbstract, ModelVault
    except ImportError as err:
        raise DataError(f"This needs the package marginaleffects, 0.6 or newer: {install}") from err
    if version("marginaleffects") in ("0.6.0", "0.6.1") and int(pl.__version__.split(".")[0]) >= 2:
        raise DataError(
            f"marginaleffects {version('marginaleffects')} fails with polars {pl.__version__}, "
            f"which has to be older than 2: {install}"
        )

    class AverageGroup(ModelAbstract):
        """Means of the average group as functions of the coefficients."""

        def __init__(self, fit: Any) -> None:
            design = fit.model.design
            vault = ModelVault(
                coef=np.array(fit._solution.beta),
                coefnames=np.array(fit.vcov.index),
                formula=lambda data: (None, self.get_exog(data)),
                modeldata=_plain_rows(design),
                package="bayeslmm",
                variable_names=[design.response, *design._predictor_columns(random=False)],
            )
            super().__init__(fit, vault)

        def get_vcov(self, vcov: Any = True) -> np.ndarray | None:
            if not isinstance(vcov, bool):
                raise ValueError("vcov must be True, False or a matrix: there is one covariance.")
            return self.model.vcov.to_numpy() if vcov else None

        def get_exog(self, newdata: Any) -> np.ndarray:
            """Columns of the coefficients, and the offset."""
            found = self.model.model.design.evaluate(newdata.to_pandas(), random=False)
            return np.column_stack([found.X, found.offset])

        def get_predict(self, params: np.ndarray, newdata: Any) -> Any:
            eta = newdata[:, :-1] @ params + newdata[:, -1]
            mean = self.model.model.design.family.link.inverse(eta)
            return pl.DataFrame({"rowid": np.arange(len(eta), dtype=np.int32), "estimate": mean})

    return AverageGroup


def _plain_rows(design: Design) -> Any:
    """The fitted rows as a polars frame, categories in their order."""
    import polars as pl

    columns = {}
    for name, column in design.predictors.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            levels = [str(level) for level in column.cat.categories]
            columns[str(name)] = pl.Series(column.astype(str).to_list(), dtype=pl.Enum(levels))
        else:
            columns[str(name)] = pl.Series(column.to_numpy())
    columns.setdefault(design.response, pl.Series(design.y))
    return pl.DataFrame(columns)
