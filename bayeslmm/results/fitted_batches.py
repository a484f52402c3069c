"""Fitted values and residuals of rows that are read in batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError

__all__ = ["fitted_batches"]


def fitted_batches(fit, random: str = "conditional") -> Iterator[pd.DataFrame]:
    """Read the rows of a fit once more, with fitted values and residuals.

    Parameters
    ----------
    fit : PosteriorFit or LikelihoodFit
        Of a model whose data are read in batches.
    random : {"conditional", "population"}
        With the random effects of each row's groups, or without.

    Yields
    ------
    pandas.DataFrame
        One batch: columns ``row`` (its number in the data, from 0), ``response``, ``fitted`` (in a
        posterior fit the posterior mean) and ``residual``, in the response's units.

    Raises
    ------
    DataError
        If the model has its rows in memory, or came from a file; or if the rows changed since
        the model was made. Files of another size or time of change are compared before the
        first batch, anything else is known after the last one.
    ValueError
        If there is no such choice of `random`.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> source = blm.scan(blm.load_dataset("sleepstudy"), batch_rows=100)
    >>> fit = blm.LMM("Reaction ~ Days + (Days | Subject)", source).reml()
    >>> [len(batch) for batch in blm.fitted_batches(fit)]
    [100, 80]
    """
    if random not in ("conditional", "population"):
        raise ValueError(f'random must be "conditional" or "population", not {random!r}.')
    design = fit.model.design
    if design.rows_in_memory:
        raise DataError("This model has its rows in memory: use fit.fitted() and fit.residuals().")
    beta, effects = _estimates(fit)
    for start, rows in design.batches():
        fitted = rows.offset + rows.X @ beta
        if random == "conditional":
            for Z, codes, b in zip(rows.Z, rows.codes, effects, strict=True):
                fitted = fitted + np.einsum("nq,nq->n", Z, b[codes])
        yield pd.DataFrame(
            {
                "row": start + rows.positions,
                "response": rows.y,
                "fitted": fitted,
                "residual": rows.y - fitted,
            }
        )


def _estimates(fit) -> tuple[np.ndarray, list[np.ndarray]]:
    """Coefficients (p,) and effects (J_k, q_k): estimates, or posterior means."""
    from bayeslmm.bayes.tree import SUMMARY_GROUP

    design = fit.model.design
    if hasattr(fit, "conditioning"):
        posterior = fit.posterior
        beta = np.zeros(0)
        if design.coef_names:
            beta = posterior["beta"].mean(("chain", "draw")).to_numpy()
        if SUMMARY_GROUP in fit.idata.children:
            kept = fit.idata[SUMMARY_GROUP]
            return beta, [kept[f"{factor.b}_mean"].to_numpy() for factor in fit.names.factors]
        return beta, [
            posterior[factor.b].mean(("chain", "draw")).to_numpy() for factor in fit.names.factors
        ]
    beta = np.zeros(len(design.coef_names))
    beta[fit.kept] = fit._solution.beta
    return beta, fit._solution.b
