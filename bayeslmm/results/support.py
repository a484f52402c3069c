"""Which results are derived for which models: no number where its formula does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayeslmm.errors import DataError

if TYPE_CHECKING:
    from bayeslmm.protocols import Model

__all__ = ["refuse_families", "refuse_heavy_averages", "refuse_unless_derived"]


#: What there is instead where the response is not Gaussian, by result.
_INSTEAD = {
    "Assurance": "simulate responses with posterior_predictive and fit them by with_response(y)",
    "The implied covariance": "varcomp() has the covariances on the scale of the linear predictor",
    "plot_trajectories": "average_effects() and predict() give means on the scale of the response",
    "plot_shrinkage": "plot_ranef() shows the effects of the groups",
    "The reliability of effects": "ranef() has their standard deviations",
    "Heritability": "varcomp() has the variances on the scale of the linear predictor",
    "Repeatability": "varcomp() has the variances on the scale of the linear predictor",
    "A prediction given further rows": "fit the model to all rows",
}


def refuse_families(model: Model, what: str) -> None:
    """Refuse a response that is not Gaussian.

    Parameters
    ----------
    model : Model
    what : str
        The result, as the subject of a sentence in the singular.

    Raises
    ------
    DataError
    """
    family = getattr(model.design, "family", None)
    if family is not None and not family.gaussian:
        raise DataError(
            f'{what} is not available with family="{family.name}": it is one of Gaussian responses'
            + (f"; {_INSTEAD[what]}." if what in _INSTEAD else ".")
        )


def refuse_heavy_averages(model: Model) -> None:
    """Refuse means of responses that are not Gaussian over groups whose effects are Student-t.

    Raises
    ------
    DataError
    """
    if getattr(model, "random", None) == "student" and not model.design.family.gaussian:
        raise DataError(
            'Averages over groups are those over normal effects, and random="student" has others '
            '(with a log link their mean is infinite). predict(random="population") is for the '
            'average group, predict(random="new") draws new groups.'
        )


def refuse_unless_derived(
    model: Model,
    what: str,
    *,
    related: bool = False,
    heavy_tails: bool = False,
    residuals: bool = False,
    families: bool = False,
) -> None:
    """Refuse a model that is more than normal, independent residuals and effects.

    Parameters
    ----------
    model : Model
    what : str
        The result, as the subject of a sentence in the singular.
    related : bool
        Whether levels related by a known covariance are covered.
    heavy_tails : bool
        Whether Student-t residuals and effects are covered.
    residuals : bool
        Whether correlated or unequal residuals are covered.
    families : bool
        Whether responses that are not Gaussian are covered.

    Raises
    ------
    DataError
    """
    design, reasons = model.design, []
    modeled: tuple = getattr(design, "modeled", ())
    if not families:
        refuse_families(model, what)
    student = "student" in (getattr(model, "family", None), getattr(model, "random", None))
    if student and not heavy_tails:
        reasons.append("Student-t residuals or effects")
    elif student and not design.family.gaussian:
        reasons.append("Student-t effects beside a response that is not Gaussian")
    if not residuals and getattr(design, "residual", None) is not None:
        reasons.append("correlated or unequal residuals")
    if modeled:
        reasons.append("unknown values of covariates")
    if not related and any(getattr(b, "relationship", None) is not None for b in design.blocks):
        reasons.append("levels with a known relationship")
    if reasons:
        text = f"{what} is not available for a model with {' and '.join(reasons)}"
        if heavy_tails and modeled:
            text += ": it is of the sums of columns that are observed in every row"
        elif student or modeled:
            text += (
                ": it rests on the likelihood with coefficients and random effects integrated out, "
                "which has no closed form there"
            )
        raise DataError(f"{text}.")
