"""Commands that fit a model: its tables, its report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from bayeslmm.cli.application import app
from bayeslmm.cli.checks import check_options, levels_by_column, missing_by_column
from bayeslmm.cli.data import read_data, source_code
from bayeslmm.cli.options import (
    BatchRows,
    Chains,
    Data,
    Decimal,
    Draws,
    Encoding,
    Family,
    Format,
    Formula,
    Level,
    Link,
    Method,
    Missing,
    Na,
    Prior,
    Priors,
    Progress,
    Random,
    Reference,
    Relationship,
    Residual,
    Seed,
    Sep,
    Sheet,
    Sigma,
    Weights,
)
from bayeslmm.cli.tables import check_folder, check_outputs, formatted, show, write_tables
from bayeslmm.cli.values import parse_priors, read_priors, read_relationships

__all__ = ["fit", "report"]


@app.command()
def fit(
    ctx: typer.Context,
    data: Data,
    formula: Formula,
    draws: Draws = 1000,
    tune: Annotated[int | None, typer.Option(min=1, help="Warm-up draws per chain.")] = None,
    chains: Chains = 4,
    seed: Seed = None,
    prior: Prior = None,
    priors: Priors = None,
    weights: Weights = None,
    relationship: Relationship = None,
    residual: Residual = None,
    sigma: Sigma = None,
    family: Family = "gaussian",
    link: Link = None,
    random: Random = "gaussian",
    missing: Missing = None,
    reference: Reference = None,
    level: Level = 0.95,
    format: Format = "table",
    output: Annotated[
        list[str] | None,
        typer.Option(
            help="Write to this file; may be given several times. The ending says what: .nc the "
            "fit (posterior), .csv, .json, .md or .txt its tables."
        ),
    ] = None,
    parameterization: Annotated[
        str, typer.Option(help="auto, marginal, whitened, noncentered or centered.")
    ] = "auto",
    method: Method = "nuts",
    reml: Annotated[bool, typer.Option("--reml", help="Fit by REML instead of NUTS.")] = False,
    ml: Annotated[bool, typer.Option("--ml", help="Fit by maximum likelihood.")] = False,
    n_quadrature: Annotated[
        int,
        typer.Option(min=1, help="Nodes per effect of --ml; 1 is Laplace's approximation."),
    ] = 1,
    ddf: Annotated[
        str | None,
        typer.Option(
            help="Degrees of freedom of --reml and --ml: satterthwaite (the default of Gaussian "
            "models), kenward-roger or kr, knapp-hartung or kh (meta-analysis), or normal."
        ),
    ] = None,
    random_effects: Annotated[
        str, typer.Option(help="draws, or summary: means and quantiles only, for very many.")
    ] = "draws",
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    na: Na = None,
    sheet: Sheet = None,
    batch_rows: BatchRows = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Keep the sums of finished files in this directory.")
    ] = None,
    progress: Progress = True,
) -> None:
    """Fit a model and print its tables. Files that are large are read in batches."""
    from bayeslmm.formula.description import describe_design

    likelihood = reml or ml
    check_options(ctx.params)
    outputs = check_outputs(
        output,
        fit="--output writes posterior fits to .nc files; that has no meaning with --reml and "
        "--ml, whose tables go to .csv, .json, .md or .txt."
        if likelihood
        else None,
    )
    model = _model(ctx.params)
    if likelihood:
        show(f"{describe_design(model.design)}\n", format)
        result = model.ml(n_quadrature) if ml else model.reml()
        text = result.describe(ddf, level=level)
        coefficients = result.fixef(ddf, level=level)
    else:
        show(f"{model}\n", format)
        result = _posterior(
            model,
            ctx.params,
            tune=tune,
            parameterization=parameterization,
            random_effects=random_effects,
        )
        text, coefficients = result.describe(level=level), result.fixef(level=level)
    tables = {"coefficients": coefficients, "components": result.varcomp(level=level)}
    typer.echo(formatted(tables, format, text).rstrip("\n"))
    for path in outputs:
        if path.lower().endswith(".nc"):
            result.save(path)
            show(f"\nSaved to {path}; read it with blm.load({path!r}).", format)
    write_tables(outputs, tables, text)


@app.command()
def report(
    ctx: typer.Context,
    data: Data,
    formula: Formula,
    output: Annotated[str, typer.Option(help="The HTML file to write.")] = "report.html",
    effect: Annotated[
        str | None, typer.Option(help='A coefficient to reanalyze, such as "treatment[B]".')
    ] = None,
    mcid: Annotated[
        float | None, typer.Option(help="Minimal clinically important difference.")
    ] = None,
    rope: Annotated[
        float | None, typer.Option(help="Half-width of the region of practical equivalence.")
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="A negative effect is the benefit.")
    ] = False,
    title: Annotated[str | None, typer.Option(help="Title of the report.")] = None,
    question: Annotated[str, typer.Option(help="The question, in a sentence.")] = "",
    draws: Draws = 1000,
    chains: Chains = 4,
    seed: Seed = None,
    method: Method = "nuts",
    prior: Prior = None,
    priors: Priors = None,
    weights: Weights = None,
    relationship: Relationship = None,
    residual: Residual = None,
    sigma: Sigma = None,
    family: Family = "gaussian",
    link: Link = None,
    random: Random = "gaussian",
    missing: Missing = None,
    reference: Reference = None,
    level: Level = 0.95,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    na: Na = None,
    sheet: Sheet = None,
    batch_rows: BatchRows = None,
    progress: Progress = True,
) -> None:
    """Fit a model and write a report of it: one HTML file, pictures and all."""
    from bayeslmm.report.write import check_effect

    check_options(ctx.params)
    check_folder(output)
    model = _model(ctx.params)
    check_effect(model.design, effect)
    post = _posterior(model, ctx.params)
    written = post.report(
        output,
        effect=effect,
        title=title,
        question=question,
        mcid=mcid,
        rope=rope,
        direction="lower is better" if lower_is_better else "higher is better",
        level=level,
        source=source_code(ctx.params),
    )
    typer.echo(f"Wrote {written}.")


def _model(given: Mapping[str, Any]):
    """The model of a command's arguments and options."""
    from bayeslmm import LMM

    priors = read_priors(given["priors"]) if given["priors"] else {}
    options: dict[str, Any] = {
        "priors": priors | parse_priors(given["prior"] or []),
        "relationship": read_relationships(given["relationship"] or []),
        "missing": missing_by_column(given["missing"] or ["drop"]),
        "reference": levels_by_column(given["reference"]),
    }
    same = ("weights", "residual", "sigma", "family", "link", "random")
    return LMM(
        given["formula"], read_data(given), **options, **{name: given[name] for name in same}
    )


def _posterior(model, given: Mapping[str, Any], **options):
    """Draws of a model's posterior."""
    typer.echo("Sampling ...", err=True)
    return model.fit(
        draws=given["draws"],
        chains=given["chains"],
        random_seed=given["seed"],
        method=given["method"],
        progressbar=given["progress"] and sys.stderr.isatty(),
        **options,
    )
