"""Models of the same data side by side: by leave-one-out, or by likelihood and criteria.

``az.compare`` aligns results by position, whatever they are about; here it is checked first that
they are about the same rows, response, unit and kind.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.errors import PACKAGE, ModelWarning
from bayeslmm.results.printing import returns_table

if TYPE_CHECKING:
    from bayeslmm.fits.likelihood import LikelihoodFit
    from bayeslmm.results.loo import LeftOut

__all__ = ["compare_models"]


@returns_table
def compare_models(
    models: Mapping[str, Any],
    *,
    unit: str | None = None,
    conditional: bool | None = None,
    method: str = "stacking",
    progressbar: bool = True,
) -> pd.DataFrame:
    """Compare models of the same responses.

    Parameters
    ----------
    models : dict
        Names to posterior fits or results of :meth:`PosteriorFit.loo`, for leave-one-out; or to
        REML or ML fits, for likelihood and criteria.
    unit : str, optional
        What is left out, ``"observation"`` (default) or a grouping factor.
    conditional : bool, optional
        Leave one out given the random effects, instead of with them integrated out (default).
    method : str
        How ``az.compare`` makes weights: ``"stacking"``, ``"BB-pseudo-BMA"``, ``"pseudo-BMA"``.
    progressbar : bool

    Returns
    -------
    pandas.DataFrame
        Of posteriors, what ``az.compare`` gives, unrounded, best first. Of likelihood fits,
        columns ``df loglik aic bic delta_aic``, smallest AIC first; restricted likelihoods are
        those for the columns of the first model's fixed effects.

    Raises
    ------
    ValueError
        If fewer than two models are given, kinds are mixed, or models differ in rows, their
        order, the response, the unit or the kind of leave-one-out; or if REML fits differ in
        their fixed effects, whose restricted likelihoods are of different data.

    References
    ----------
    - Vehtari, Gelman and Gabry (2017), Statistics and Computing 27(5);
      https://doi.org/10.1007/s11222-016-9696-4
    - Weights: Yao, Vehtari, Simpson and Gelman (2018), Bayesian Analysis 13(3);
      https://doi.org/10.1214/17-BA1091

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> slopes = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    >>> plain = blm.LMM("Reaction ~ Days + (1 | Subject)", data).reml()
    >>> blm.compare_models({"slopes": slopes, "plain": plain})["aic"].round(1).tolist()
    [1755.6, 1794.5]
    """
    if not isinstance(models, Mapping) or len(models) < 2:
        raise ValueError("compare_models needs a dict of at least two models.")
    from bayeslmm.fits.likelihood import LikelihoodFit

    are_likelihood = [isinstance(model, LikelihoodFit) for model in models.values()]
    if all(are_likelihood):
        if unit is not None or conditional is not None:
            raise ValueError("unit= and conditional= are about leave-one-out of posteriors.")
        return _by_likelihood(models)
    if any(are_likelihood):
        raise ValueError(
            "Posteriors are compared by leave-one-out and likelihood fits by criteria: give "
            "either, not both. blm.compare_estimates sets their estimates side by side."
        )
    return _by_leave_one_out(models, unit, conditional, method, progressbar)


def _by_leave_one_out(models, unit, conditional, method, progressbar) -> pd.DataFrame:
    import arviz as az

    from bayeslmm.fits.posterior import PosteriorFit

    fits = {name: model for name, model in models.items() if isinstance(model, PosteriorFit)}
    given = {}
    for name, model in models.items():
        if name not in fits:
            given[name] = _record(name, model)
    first = next(iter(given.values()), None)
    if unit is None:
        unit = "observation" if first is None else first.unit
    if conditional is None:
        conditional = False if first is None else first.conditional
    for name, record in given.items():
        _same_question(name, record, unit, conditional)
    names = list(models)
    rows = {name: given.get(name) or _rows_of(fits[name]) for name in names}
    for name in names[1:]:
        _same_rows(names[0], rows[names[0]], name, rows[name])
    results = {}
    for name in names:  # the cheap checks come first
        if name in fits:
            fit = fits[name]
            results[name] = fit.loo(unit, conditional=conditional, progressbar=progressbar)
            _same_question(name, results[name].left_out, unit, conditional)
        else:
            results[name] = models[name]
    for name in names[1:]:
        _same_levels(names[0], results[names[0]].left_out, name, results[name].left_out)
    return az.compare(results, method=method, round_to="none")


def _record(name: str, result) -> LeftOut:
    record = getattr(result, "left_out", None)
    if record is None:
        raise ValueError(
            f"{name!r} is neither a fit nor a result of post.loo() (it is a "
            f"{type(result).__name__}), so nothing is known of its rows. Give the fit."
        )
    return record


def _rows_of(fit) -> LeftOut:
    from bayeslmm.results.loo import LeftOut

    design = fit.model.design
    return LeftOut("", False, design.response, design.index, design.y, (), design.family.discrete)


def _same_question(name: str, record: LeftOut, unit: str, conditional: bool) -> None:
    if record.unit != unit:
        raise ValueError(f"{name!r} leaves out each {record.unit}, not each {unit}.")
    if record.conditional != conditional:
        kinds = ("with the random effects integrated out", "given the random effects")
        raise ValueError(
            f"The leave-one-out of {name!r} is {kinds[record.conditional]}, the other "
            f"{kinds[conditional]}: these are different predictions."
        )


def _same_rows(name: str, one: LeftOut, other_name: str, other: LeftOut) -> None:
    """Refuse models whose responses differ, with what differs.

    Raises
    ------
    ValueError
    """
    pair = f"{name!r} and {other_name!r}"
    if len(one.y) != len(other.y):
        raise ValueError(
            f"{pair} are fits to different rows ({len(one.y)} and {len(other.y)}): perhaps a "
            "column that only one uses has missing values. Fit both to the same complete rows."
        )
    if one.response != other.response:
        raise ValueError(
            f"{pair} have different responses ({one.response} and {other.response}): densities of "
            "different quantities are not comparable."
        )
    if one.discrete != other.discrete:
        raise ValueError(
            f"{pair}: one gives the response probabilities and the other densities, which are not "
            "comparable."
        )
    if np.array_equal(one.y, other.y):
        if not one.index.equals(other.index) and one.index.is_unique:
            raise ValueError(
                f"{pair} have rows with different labels: make sure that they are the same rows."
            )
        return
    if np.array_equal(np.sort(one.y), np.sort(other.y)):
        raise ValueError(f"{pair} have the same responses in different order: sort the data.")
    raise ValueError(f"{pair} have different values of the response {one.response!r}.")


def _same_levels(name: str, one: LeftOut, other_name: str, other: LeftOut) -> None:
    if tuple(map(str, one.levels)) != tuple(map(str, other.levels)):
        raise ValueError(
            f"{name!r} and {other_name!r} have different levels of {one.unit!r}, or in another "
            "order."
        )


def _by_likelihood(models: Mapping[str, LikelihoodFit]) -> pd.DataFrame:
    from bayeslmm.results.likelihood_ratio import basis_change, same_fixed_space
    from bayeslmm.results.loo import LeftOut

    names = list(models)
    first = models[names[0]]
    rows = {}
    for name, fit in models.items():
        design = fit.design
        rows[name] = LeftOut("", False, design.response, design.index, design.y, ())
        _same_rows(names[0], rows[names[0]], name, rows[name])
        if fit.method != first.method:
            raise ValueError(
                f"{names[0]!r} is a {first.method} fit and {name!r} a {fit.method} fit: their "
                "likelihoods are not comparable. Fit all with model.ml()."
            )
        if fit.reml and not same_fixed_space(first, fit):
            raise ValueError(
                f"{names[0]!r} and {name!r} are REML fits with different fixed effects, whose "
                "restricted likelihoods are not comparable. Fit both with model.ml()."
            )
    changes = {name: basis_change(first, fit) for name, fit in models.items()}
    if others := [name for name, change in changes.items() if abs(change) > 1e-6]:
        warnings.warn(
            "A restricted likelihood depends on the columns that span the fixed effects: that of "
            f"{', '.join(map(repr, others))} is given for the columns of {names[0]!r}.",
            ModelWarning,
            skip_file_prefixes=PACKAGE,
        )
    table = pd.DataFrame(
        {
            name: {
                "df": fit.n_parameters,
                "loglik": fit.loglik + changes[name] / 2,
                "aic": fit.aic - changes[name],
                "bic": fit.bic - changes[name],
            }
            for name, fit in models.items()
        }
    ).T
    table["df"] = table["df"].astype(int)
    table["delta_aic"] = table["aic"] - table["aic"].min()
    table.index.name = "model"
    return table.sort_values("aic", kind="stable")
