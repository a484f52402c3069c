"""Commands on fits in files: predictions, comparisons."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from bayeslmm.cli.application import app
from bayeslmm.cli.data import read_frame
from bayeslmm.cli.options import (
    Decimal,
    Encoding,
    Format,
    Level,
    Na,
    Seed,
    Sep,
    Sheet,
)
from bayeslmm.cli.tables import FORMATS, check_outputs, formatted, write_tables

__all__ = ["compare", "predict"]

_NO_FIT = "A table is written to .csv, .json, .md or .txt, not to .nc."
_Output = Annotated[
    list[str] | None,
    typer.Option(help="Write the table here and do not print it: .csv, .json, .md or .txt."),
]
_RANDOM = ("conditional", "population", "new", "marginal")
_KINDS = ("mean", "link", "response", "probabilities")


@app.command()
def predict(
    ctx: typer.Context,
    fit: Annotated[str, typer.Argument(help="A fit of --output, a .nc file.")],
    newdata: Annotated[list[str], typer.Argument(help="A file of rows, or a data set's name.")],
    random: Annotated[
        str,
        typer.Option(
            help="conditional (each group's own effects), population (the average group), new "
            "(groups not seen yet) or marginal (averaged over groups)."
        ),
    ] = "conditional",
    kind: Annotated[str, typer.Option(help="mean, link, response or probabilities.")] = "mean",
    residuals: Annotated[
        str,
        typer.Option(
            help="new, or conditional: correlated residuals go on from those of the group's rows."
        ),
    ] = "new",
    allow_new_levels: Annotated[
        bool, typer.Option("--allow-new-levels", help="Groups that are not in the fit may occur.")
    ] = False,
    level: Level = 0.95,
    seed: Seed = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    na: Na = None,
    sheet: Sheet = None,
    format: Format = "table",
    output: _Output = None,
) -> None:
    """Predict new rows from a fit in a file: their columns, and the predictions beside them."""
    from bayeslmm.errors import one_of
    from bayeslmm.results.tables import check_level

    check_level(level)
    one_of("--random", random, _RANDOM)
    one_of("--kind", kind, _KINDS)
    one_of("--residuals", residuals, ("new", "conditional"))
    one_of("--format", format, FORMATS)
    outputs = check_outputs(output, fit=_NO_FIT)
    post = _load(fit)
    rows = read_frame(ctx.params, "newdata").reset_index(drop=True)
    found = post.predict(
        rows,
        random=random,
        kind=kind,
        residuals=residuals,
        allow_new_levels=allow_new_levels,
        level=level,
        random_seed=seed,
    )
    table = rows.join(found.set_axis(rows.index), rsuffix="_predicted")
    _give({"predictions": table}, format, outputs)


@app.command()
def compare(
    fits: Annotated[list[str], typer.Argument(help="Fits of --output, .nc files, two or more.")],
    unit: Annotated[
        str | None,
        typer.Option(help="What is left out: observation (the default) or a grouping factor."),
    ] = None,
    conditional: Annotated[
        bool, typer.Option("--conditional", help="Given the random effects, not averaged.")
    ] = False,
    format: Format = "table",
    output: _Output = None,
) -> None:
    """Compare fits of the same rows by leave-one-out, the best first."""
    from bayeslmm import compare_models
    from bayeslmm.errors import one_of

    one_of("--format", format, FORMATS)
    outputs = check_outputs(output, fit=_NO_FIT)
    if len(set(fits)) < max(2, len(fits)):
        raise ValueError("compare needs two or more different files of fits.")
    stems = [os.path.splitext(os.path.basename(path))[0] for path in fits]
    names = stems if len(set(stems)) == len(stems) else fits
    models = {name: _load(path) for name, path in zip(names, fits, strict=True)}
    table = compare_models(
        models, unit=unit, conditional=conditional or None, progressbar=sys.stderr.isatty()
    )
    _give({"models": table}, format, outputs)


def _load(path: str):
    """A posterior in a file.

    Raises
    ------
    FileFormatError
        If there is none.
    """
    from bayeslmm import FileFormatError, load
    from bayeslmm.files import no_file

    if not os.path.isfile(path):
        raise FileFormatError(
            f"{no_file(path)} A fit is written by bayeslmm fit ... --output fit.nc."
        )
    return load(path)


def _give(tables, format: str, outputs: list[str]) -> None:
    (table,) = tables.values()
    text = str(table.to_string())
    if not outputs:
        typer.echo(formatted(tables, format, text).rstrip("\n"))
    write_tables(outputs, tables, text)
