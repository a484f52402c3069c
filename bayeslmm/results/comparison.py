"""Posterior and likelihood estimates side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from bayeslmm.results.printing import returns_table

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["compare_estimates"]


@returns_table
def compare_estimates(
    *fits: PosteriorResult | LikelihoodResult, names: list[str] | None = None, level: float = 0.95
) -> pd.DataFrame:
    """One table of coefficients and variance components of several fits.

    Parameters
    ----------
    *fits : PosteriorResult or LikelihoodFit
    names : list of str, optional
        What to call each; by default "posterior", "REML" or "ML", numbered where repeated.
    level : float
        Level of the intervals.

    Returns
    -------
    pandas.DataFrame
        Rows are parameters; columns (fit, ``estimate`` or ``mean``, ``se`` or ``sd``, ``lower``,
        ``upper``).

    Raises
    ------
    ValueError
        If there is no fit, or the number of names differs.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("dyestuff")
    >>> model = blm.LMM("Yield ~ 1 + (1 | Batch)", data)
    >>> list(blm.compare_estimates(model.reml(), model.ml()).columns.unique(0))
    ['REML', 'ML']
    """
    if not fits:
        raise ValueError("compare_estimates needs at least one fit.")
    labels = _labels(fits) if names is None else list(names)
    if len(labels) != len(fits) or len(set(labels)) < len(labels):
        raise ValueError(f"names must be {len(fits)} different names.")
    tables = {}
    for label, fit in zip(labels, fits, strict=True):
        table = fit.summary(level=level)
        table.index = _unique(table.index, len(fit.fixef(level=level)))
        wanted = ("mean", "estimate", "sd", "se", "lower", "upper")
        tables[label] = table[[column for column in table.columns if column in wanted]]
    result = pd.concat(tables, axis=1)
    result.index.name = "parameter"
    return result


def _unique(index: pd.Index, n_coefficients: int) -> list[str]:
    """A coefficient called sigma is told from the residual standard deviation."""
    from bayeslmm.parts.parameters import coef_key

    return [coef_key(n) if i < n_coefficients else n for i, n in enumerate(index)]


def _labels(fits: tuple) -> list[str]:
    plain = [getattr(fit, "method", "posterior") for fit in fits]
    return [
        name if plain.count(name) == 1 else f"{name} {plain[: i + 1].count(name)}"
        for i, name in enumerate(plain)
    ]
