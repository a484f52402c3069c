"""The command line: ``bayeslmm fit``, ``bayeslmm report``, ``bayeslmm datasets``."""

from __future__ import annotations

import ast
import os
import sys
import warnings
from typing import Annotated

import typer

__all__ = ["app", "main"]

app = typer.Typer(
    name="bayeslmm",
    help="Linear mixed models: one formula, the full posterior and the REML fit.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_DATA_ERROR = 2


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from bayeslmm import __version__

        typer.echo(f"bayeslmm {__version__}")
        raise typer.Exit


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="A data set's name, or a CSV or Parquet file.")],
    formula: Annotated[str, typer.Argument(help='Such as "y ~ x + (x | group)".')],
    draws: Annotated[int, typer.Option(min=4, help="Draws kept per chain.")] = 1000,
    tune: Annotated[int | None, typer.Option(min=1, help="Warm-up draws per chain.")] = None,
    chains: Annotated[int, typer.Option(min=1, help="Independent chains.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes the run repeatable.")] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(help='Such as "Days=Normal(mu=0, sigma=10)"; may be given several times.'),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Column of prior weights.")] = None,
    level: Annotated[float, typer.Option(help="Probability inside the intervals.")] = 0.95,
    output: Annotated[str | None, typer.Option(help="Write the fit to this .nc file.")] = None,
    parameterization: Annotated[
        str, typer.Option(help="auto, marginal, noncentered or centered.")
    ] = "auto",
    method: Annotated[str, typer.Option(help="nuts or importance.")] = "nuts",
    reml: Annotated[bool, typer.Option("--reml", help="Fit by REML instead of NUTS.")] = False,
    ml: Annotated[bool, typer.Option("--ml", help="Fit by maximum likelihood.")] = False,
    ddf: Annotated[
        str, typer.Option(help="satterthwaite, kenward-roger or normal (with --reml, --ml).")
    ] = "satterthwaite",
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Fit a model and print its tables."""
    from bayeslmm import LMM, FileFormatError
    from bayeslmm.model import describe_design
    from bayeslmm.results.tables import check_level

    check_level(level)
    _check_output(output)
    if reml and ml:
        raise ValueError("--reml and --ml exclude each other.")
    if output and (reml or ml):
        raise FileFormatError("--output writes posterior fits; it has no meaning with --reml.")
    model = LMM(formula, read_data(data), priors=parse_priors(prior or []), weights=weights)
    if reml or ml:
        typer.echo(f"{describe_design(model.design)}\n")
        result = model.ml() if ml else model.reml()
        typer.echo(result.describe(ddf, level=level))
        return
    typer.echo(f"{model}\n")
    typer.echo("Sampling (the first fit on a machine compiles, about a minute) ...", err=True)
    post = model.fit(
        draws=draws,
        tune=tune,
        chains=chains,
        random_seed=seed,
        parameterization=parameterization,
        method=method,
        progressbar=progress and sys.stderr.isatty(),
    )
    typer.echo(post.describe(level=level))
    if output:
        post.save(output)
        typer.echo(f"\nSaved to {output}; read it with blm.load({output!r}).")


@app.command()
def report(
    data: Annotated[str, typer.Argument(help="A data set's name, or a CSV or Parquet file.")],
    formula: Annotated[str, typer.Argument(help='Such as "y ~ x + (x | group)".')],
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
    draws: Annotated[int, typer.Option(min=4, help="Draws kept per chain.")] = 1000,
    chains: Annotated[int, typer.Option(min=1, help="Independent chains.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes the run repeatable.")] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(help='Such as "Days=Normal(mu=0, sigma=10)"; may be given several times.'),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Column of prior weights.")] = None,
    level: Annotated[float, typer.Option(help="Probability inside the intervals.")] = 0.95,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Fit a model and write a report of it: one HTML file, pictures and all."""
    from bayeslmm import LMM
    from bayeslmm.reanalysis.effects import effect_row
    from bayeslmm.results.tables import check_level

    check_level(level)
    _check_output(output)
    model = LMM(formula, read_data(data), priors=parse_priors(prior or []), weights=weights)
    if effect is not None:
        effect_row(model.design, effect)
    typer.echo("Sampling (the first fit on a machine compiles, about a minute) ...", err=True)
    post = model.fit(
        draws=draws, chains=chains, random_seed=seed, progressbar=progress and sys.stderr.isatty()
    )
    written = post.report(
        output,
        effect=effect,
        title=title,
        question=question,
        mcid=mcid,
        rope=rope,
        direction="lower is better" if lower_is_better else "higher is better",
        level=level,
        source=source_code(data),
    )
    typer.echo(f"Wrote {written}.")


def source_code(source: str) -> str:
    """Python that reads what :func:`read_data` reads."""
    from bayeslmm import list_datasets

    if source.lower() in list_datasets() and not os.path.exists(source):
        return f"blm.load_dataset({source.lower()!r})"
    if source.lower().endswith((".parquet", ".pq")):
        return f"pd.read_parquet({source!r})"
    tab = source.lower().endswith((".tsv", ".tsv.gz"))
    return f"pd.read_csv({source!r}, sep='\\t')" if tab else f"pd.read_csv({source!r})"


@app.command()
def datasets(
    name: Annotated[str | None, typer.Argument(help="Describe this one.")] = None,
) -> None:
    """List the data sets that come with the package, or describe one."""
    from bayeslmm import describe_dataset, list_datasets

    if name is not None:
        typer.echo(describe_dataset(name))
        return
    for dataset in list_datasets():
        typer.echo(f"{dataset:<12} {describe_dataset(dataset).splitlines()[0]}")


def read_data(source: str):
    """A data set by name, or a CSV or Parquet file.

    Raises
    ------
    DataError
        If there is neither, or the file cannot be read.
    """
    import pandas as pd

    from bayeslmm import DataError, list_datasets, load_dataset

    if source.lower() in list_datasets() and not os.path.exists(source):
        return load_dataset(source)
    if not os.path.exists(source):
        if os.path.splitext(source)[1]:
            raise DataError(f"There is no file {source!r}.")
        return load_dataset(source)  # says which data sets there are
    try:
        if source.lower().endswith((".parquet", ".pq")):
            return pd.read_parquet(source)
        separator = "\t" if source.lower().endswith((".tsv", ".tsv.gz")) else ","
        frame = pd.read_csv(source, sep=separator)
    except ImportError:
        raise DataError("Reading Parquet needs pyarrow: pip install 'bayeslmm[parquet]'.") from None
    except Exception as err:
        raise DataError(f"Cannot read {source!r}: {err}") from None
    header = str(frame.columns[0]) if len(frame.columns) == 1 else ""
    for other in (sign for sign in ";\t|" if sign in header):
        raise DataError(
            f"{source!r} has one column, {header!r}: its columns are separated by {other!r}. Save "
            "it with commas (and decimal points), or read it in Python with "
            f"pandas.read_csv(..., sep={other!r})."
        )
    return frame


def parse_priors(texts: list[str]) -> dict:
    """``KEY=Name(parameter=number, ...)`` to priors, without evaluating anything.

    Raises
    ------
    PriorError
        If a text is not of that form.
    """
    from bayeslmm import Prior, PriorError

    priors = {}
    for text in texts:
        key, equals, right = _split_prior(text)
        try:
            call = ast.parse(right.strip(), mode="eval").body
            if not (equals and isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                raise ValueError
            if call.args or any(keyword.arg is None for keyword in call.keywords):
                raise ValueError
            parameters = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        except (SyntaxError, ValueError):
            raise PriorError(
                f"Cannot read the prior {text!r}. Write KEY=Name(parameter=number, ...), such as "
                '"Days=Normal(mu=0, sigma=10)" or "sd(Days | Subject)=Exponential(lam=0.1)".'
            ) from None
        priors[key.strip()] = Prior(call.func.id, **parameters)
    return priors


def _split_prior(text: str) -> tuple[str, str, str]:
    """At the first ``=`` outside brackets: a coefficient's name may hold others."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if char == "=" and depth == 0:
            return text[:at], "=", text[at + 1 :]
    return text, "", ""


def _check_output(output: str | None) -> None:
    from bayeslmm import FileFormatError

    folder = os.path.dirname(os.path.abspath(output)) if output else None
    if folder and not os.path.isdir(folder):
        raise FileFormatError(f"There is no folder {folder!r} to write {output!r} to.")


def main() -> None:
    """Entry point: errors of ours in one line and exit code 2, warnings in one line each."""
    from bayeslmm.errors import BayesLMMError

    warnings.showwarning = _show_warning
    try:
        app()
    except (BayesLMMError, ValueError, KeyError) as err:
        if not isinstance(err, BayesLMMError) and os.environ.get("BAYESLMM_TRACEBACK"):
            raise
        typer.echo(f"Error: {err}", err=True)
        sys.exit(_DATA_ERROR)
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        sys.exit(130)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    typer.echo(f"Warning: {message}", err=True)
