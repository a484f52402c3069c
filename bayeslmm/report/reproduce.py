"""Python that makes a report again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bayeslmm.formula import Design
from bayeslmm.formula.covariates import missing_option
from bayeslmm.plots.reference import predictors

if TYPE_CHECKING:
    from bayeslmm.protocols import Model, PosteriorResult

__all__ = ["reproducing_code"]


def reproducing_code(
    fit: PosteriorResult, source: str, effect: object = None, options: dict | None = None
) -> str:
    """Python that fits the model again and writes the report.

    Parameters
    ----------
    fit : PosteriorResult
    source : str
        Python that gives the data.
    effect, options
        As in :class:`bayeslmm.report.content.Settings`.
    """
    # a default that is set is about the formula's columns: defaults stay defaults
    priors = "".join(
        f"    {key!r}: blm.{_constructor(prior)},\n"
        for key, prior in fit.priors.items()
        if not fit.priors.is_default(key)
    )
    priors = f", priors={{\n{priors}}}" if priors else ""
    design, info = fit.model.design, fit.info
    weights = f", weights={design.weights_name!r}" if design.weights_name else ""
    weights += "".join(f", {name}={value!r}" for name, value in _stated(fit.model))
    arguments = [f"draws={info.draws}", f"chains={info.chains}", f"random_seed={info.random_seed}"]
    if info.method == "importance":
        arguments.append('method="importance"')
    else:
        arguments += [f"tune={info.tune}", f'parameterization="{info.parameterization}"']
    report = [f"effect={effect!r}"] if effect is not None else []
    report += [
        f"{key}={value!r}"
        for key, value in (options or {}).items()
        if value is not None and isinstance(value, str | int | float | tuple)
    ]
    call = "".join(f", {part}" for part in report)
    return (
        "import pandas as pd\nimport bayeslmm as blm\n\n"
        f"data = {source}\n"
        f"model = blm.MixedModel({design.formula.text!r}, data{weights}{priors})\n"
        f"post = model.fit({', '.join(arguments)})\n"
        f'post.report("report.html"{call})\n'
    )


def _stated(model: Model) -> list[tuple[str, str | dict[str, Any]]]:
    """Arguments of the model that are not the defaults."""
    design = model.design
    stated: list = [("family", model.family)] if model.family != "gaussian" else []
    if not design.family.gaussian:
        stated.append(("link", design.family.link.name))
    if model.random != "gaussian":
        stated.append(("random", model.random))
    if design.modeled:
        stated.append(("missing", missing_option(design.modeled)))
    if design.residual is not None:
        syntax = design.residual.syntax
        sigma = f"~ {syntax.sigma}" if syntax.sigma else None
        own = (("residual", syntax.text), ("sigma", sigma))
        stated += [(name, text) for name, text in own if text]
    if references := _references(design):
        stated.append(("reference", references))
    return stated


def _references(design: Design) -> dict[str, Any]:
    """Reference levels that are not the first by their order in a file."""
    found = {}
    for name in predictors(design):
        levels = design._categories(name)
        if levels and levels[0] != min(levels, key=str):
            found[name] = levels[0]
    for covariate in design.modeled:  # the reference of one with unknown values is fixed
        found.pop(covariate.name, None)
    return found


def _constructor(prior) -> str:
    """A prior as code, all digits kept."""
    inside = "".join(f", {key}={value!r}" for key, value in prior.parameters.items())
    return f'Prior("{prior.name}"{inside})'
