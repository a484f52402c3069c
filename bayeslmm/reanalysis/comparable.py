"""What two fits must share for their marginal likelihoods to be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import PriorError

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.parts.prior import Prior
    from bayeslmm.priors.table import Priors
    from bayeslmm.protocols import PosteriorResult

__all__ = ["refuse_improper", "refuse_other_data", "refuse_two_priors"]


def refuse_improper(priors: Priors) -> None:
    """Refuse priors without a density.

    Raises
    ------
    PriorError
    """
    improper = [key for key in priors if not priors[key].is_proper]
    if improper:
        raise PriorError(
            f"The prior of {improper[0]} is improper: it has no height, so the marginal likelihood "
            "is not defined (any constant could multiply it). Give it a proper prior, such as "
            'blm.Prior("Normal", mu=0, sigma=...), and fit again.'
        )


def refuse_other_data(fit1: PosteriorResult, fit0: PosteriorResult) -> None:
    """Refuse fits of other rows, responses, weights, or readings of covariates.

    Raises
    ------
    ValueError
    """
    one, zero = fit1.model.design, fit0.model.design
    if one.n_rows != zero.n_rows or not np.array_equal(one.rows, zero.rows):
        raise ValueError(
            f"The models use other rows ({one.n_rows} and {zero.n_rows}): a Bayes factor compares "
            "models of the same data. Drop the rows that miss a column of either model first."
        )
    if not np.array_equal(one.y, zero.y):
        raise ValueError("The models have different responses (or transform it differently).")
    if one.family.discrete != zero.family.discrete:
        raise ValueError(
            "One model gives the response probabilities and the other densities, which are not "
            "comparable."
        )
    ones = np.ones(one.n_rows)
    trials = [ones if d.trials is None else d.trials for d in (one, zero)]
    if not np.array_equal(trials[0], trials[1]):
        raise ValueError("The models have different numbers of trials.")
    first, second = (ones if d.weights is None else d.weights for d in (one, zero))
    if not np.allclose(first, second):
        raise ValueError("The models have different prior weights.")
    _refuse_other_covariates(one, zero)


def _refuse_other_covariates(one: Design, zero: Design) -> None:
    """Refuse models of which one gives a covariate a density and the other gives it none.

    The readings of a covariate with unknown values are data as the response is.
    """
    names = {c.name: c for c in one.modeled}, {c.name: c for c in zero.modeled}
    for name in {**names[0], **names[1]}:
        pair = [own.get(name) for own in names]
        if not all(pair):
            raise ValueError(
                f"One model has a regression for the unknown values of {name!r} and the other has "
                "none, so that their marginal likelihoods are of other data. For a coefficient of "
                "it see blm.savage_dickey."
            )
        first, second = (c.model for c in pair if c is not None)
        fields = ("reading", "error", "W", "codes")
        if not all(
            np.array_equal(getattr(first, f), getattr(second, f), equal_nan=True) for f in fields
        ):
            raise ValueError(
                f"The models have different regressions for the unknown values of {name!r}: give "
                "both the same, missing={...}."
            )


def refuse_two_priors(priors1: Priors, priors0: Priors) -> None:
    """Refuse shared parameters with two priors.

    Defaults of coefficients agree whatever other columns there are: that of the larger model
    given zero for its own columns is that of the smaller one.

    Raises
    ------
    PriorError
    """
    coefficients = set(priors1.coefficients)
    for key in priors1:
        if key not in set(priors0):
            continue
        if key in coefficients and priors1.is_default(key) and priors0.is_default(key):
            continue
        if not _same(priors1[key], priors0[key]):
            raise PriorError(
                f"{key} has the prior {priors1[key]!r} in one model and {priors0[key]!r} in the "
                "other. Set the same prior in both, so that the Bayes factor is about what "
                "differs."
            )
    for name in priors1.other_coordinates(priors0):
        raise PriorError(
            f"The priors on the random effects of {name!r} are about the means of the covariates "
            "in one model and about zero in the other, where a prior on the correlation or the "
            "random intercept was set. Set the same priors in both models, or none."
        )


def _same(one: Prior, other: Prior) -> bool:
    if one.name != other.name or one.parameters.keys() != other.parameters.keys():
        return False
    pairs = zip(one.parameters.values(), other.parameters.values(), strict=True)
    return all(abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1e-12) for a, b in pairs)
