"""The command line: ``bayeslmm fit``, ``bayeslmm report``, ``bayeslmm datasets``."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import glob
import os
import sys
import time
import warnings
from typing import Annotated

import typer

from bayeslmm.cli_options import parse_priors, read_priors, read_relationships

__all__ = ["app", "main"]

app = typer.Typer(
    name="bayeslmm",
    help="Mixed models: one formula, the full posterior and the likelihood fit.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_DATA_ERROR = 2
_DATA_HELP = "A data set's name; or Parquet or CSV files, a pattern or a directory of them."

_Prior = Annotated[
    list[str] | None,
    typer.Option(help='Such as "Days=Normal(mu=0, sigma=10)"; may be given several times.'),
]
_Priors = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help='JSON or TOML, such as {"Days": "Normal(mu=0, sigma=10)"}; --prior goes before it.',
    ),
]
_Weights = Annotated[str | None, typer.Option(help="Column of prior weights.")]
_Relationship = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FACTOR=FILE",
        help="Covariance of a factor's levels: a labelled matrix, or a pedigree with columns id, "
        "sire, dam (others: FACTOR=FILE:animal,father,mother).",
    ),
]
_Residual = Annotated[
    str | None, typer.Option(help='Correlated residuals, such as "ar1(time | group)".')
]
_Sigma = Annotated[
    str | None, typer.Option(help='Unequal residual variances, such as "~ treatment".')
]
_Family = Annotated[
    str,
    typer.Option(
        help="Response: gaussian, student, bernoulli, binomial, poisson, negativebinomial, gamma, "
        "beta, lognormal, ordinal, zero_inflated_poisson, zero_inflated_negativebinomial."
    ),
]
_Link = Annotated[
    str | None,
    typer.Option(help="Of the mean: logit, probit, cloglog, log, identity or inverse."),
]
_Random = Annotated[str, typer.Option(help="Random effects: gaussian or student.")]
_Missing = Annotated[
    list[str] | None,
    typer.Option(
        help="Rows with missing values: drop, raise, model (covariates), or the formula of a "
        'covariate, "age ~ sex + (1 | site)", which may be given several times.'
    ),
]


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
    data: Annotated[list[str], typer.Argument(help=_DATA_HELP)],
    formula: Annotated[str, typer.Argument(help='Such as "y ~ x + (x | group)".')],
    draws: Annotated[int, typer.Option(min=4, help="Draws kept per chain.")] = 1000,
    tune: Annotated[int | None, typer.Option(min=1, help="Warm-up draws per chain.")] = None,
    chains: Annotated[int, typer.Option(min=1, help="Independent chains.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes the run repeatable.")] = None,
    prior: _Prior = None,
    priors: _Priors = None,
    weights: _Weights = None,
    relationship: _Relationship = None,
    residual: _Residual = None,
    sigma: _Sigma = None,
    family: _Family = "gaussian",
    link: _Link = None,
    random: _Random = "gaussian",
    missing: _Missing = None,
    level: Annotated[float, typer.Option(help="Probability inside the intervals.")] = 0.95,
    output: Annotated[str | None, typer.Option(help="Write the fit to this .nc file.")] = None,
    parameterization: Annotated[
        str, typer.Option(help="auto, marginal, whitened, noncentered or centered.")
    ] = "auto",
    method: Annotated[str, typer.Option(help="nuts or importance.")] = "nuts",
    reml: Annotated[bool, typer.Option("--reml", help="Fit by REML instead of NUTS.")] = False,
    ml: Annotated[bool, typer.Option("--ml", help="Fit by maximum likelihood.")] = False,
    n_quadrature: Annotated[
        int,
        typer.Option(min=1, help="Nodes per effect of --ml; 1 is Laplace's approximation."),
    ] = 1,
    ddf: Annotated[
        str | None,
        typer.Option(
            help="satterthwaite (the default of Gaussian models), kenward-roger, knapp-hartung "
            "(meta-analysis) or normal."
        ),
    ] = None,
    random_effects: Annotated[
        str, typer.Option(help="draws, or summary: means and quantiles only, for very many.")
    ] = "draws",
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Read files in batches of so many rows.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Keep the sums of finished files in this directory.")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Fit a model and print its tables. Files that are large are read in batches."""
    from bayeslmm import LMM, FileFormatError
    from bayeslmm.formula.description import describe_design
    from bayeslmm.results.tables import check_level

    check_level(level)
    _check_output(output)
    if reml and ml:
        raise ValueError("--reml and --ml exclude each other.")
    if n_quadrature > 1 and not ml:
        raise ValueError("--n-quadrature goes with --ml.")
    if output and (reml or ml):
        raise FileFormatError("--output writes posterior fits; it has no meaning with --reml.")
    model = LMM(
        formula,
        read_data(data, batch_rows, checkpoint, progress),
        priors=_all_priors(priors, prior),
        weights=weights,
        relationship=read_relationships(relationship or []),
        residual=residual,
        sigma=sigma,
        family=family,
        link=link,
        random=random,
        missing=_missing(missing or ["drop"]),
    )
    if reml or ml:
        typer.echo(f"{describe_design(model.design)}\n")
        result = model.ml(n_quadrature) if ml else model.reml()
        typer.echo(result.describe(ddf, level=level))
        return
    typer.echo(f"{model}\n")
    typer.echo("Sampling ...", err=True)
    post = model.fit(
        draws=draws,
        tune=tune,
        chains=chains,
        random_seed=seed,
        parameterization=parameterization,
        method=method,
        progressbar=progress and sys.stderr.isatty(),
        random_effects=random_effects,
    )
    typer.echo(post.describe(level=level))
    if output:
        post.save(output)
        typer.echo(f"\nSaved to {output}; read it with blm.load({output!r}).")


@app.command()
def report(
    data: Annotated[list[str], typer.Argument(help=_DATA_HELP)],
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
    prior: _Prior = None,
    priors: _Priors = None,
    weights: _Weights = None,
    relationship: _Relationship = None,
    residual: _Residual = None,
    sigma: _Sigma = None,
    family: _Family = "gaussian",
    link: _Link = None,
    random: _Random = "gaussian",
    missing: _Missing = None,
    level: Annotated[float, typer.Option(help="Probability inside the intervals.")] = 0.95,
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Read files in batches of so many rows.")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Fit a model and write a report of it: one HTML file, pictures and all."""
    from bayeslmm import LMM
    from bayeslmm.report.write import check_effect
    from bayeslmm.results.tables import check_level

    check_level(level)
    _check_output(output)
    model = LMM(
        formula,
        read_data(data, batch_rows, progress=progress),
        priors=_all_priors(priors, prior),
        weights=weights,
        relationship=read_relationships(relationship or []),
        residual=residual,
        sigma=sigma,
        family=family,
        link=link,
        random=random,
        missing=_missing(missing or ["drop"]),
    )
    check_effect(model.design, effect)
    typer.echo("Sampling ...", err=True)
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


def source_code(sources: list[str]) -> str:
    """Python that reads what :func:`read_data` reads."""
    from bayeslmm import list_datasets

    (source, *others) = sources
    if source.lower() in list_datasets() and not os.path.exists(source):
        return f"blm.load_dataset({source.lower()!r})"
    return repr(list(sources) if others else source)


@app.command()
def compile(
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Compile the numerical code now, once on a machine, in place of while fitting."""
    from bayeslmm.compiling import cache_directory
    from bayeslmm.precompiling import compile_all

    if cache_directory() is None:
        raise ValueError("No directory for compiled code can be written: see NUMBA_CACHE_DIR.")
    start = time.monotonic()
    compile_all(progress)
    seconds = time.monotonic() - start
    typer.echo(f"Compiled in {seconds:.0f} seconds, into {cache_directory()} and beside it.")


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


def read_data(
    sources: list[str], batch_rows: int | None = None, checkpoint: str | None = None,
    progress: bool = True,
):  # fmt: skip
    """A data set by name, or Parquet or CSV files, which are read where the formula is known.

    Parameters
    ----------
    sources : list of str
        One name of a data set, or paths, patterns and directories.
    batch_rows, checkpoint
        As in :func:`bayeslmm.scan`; given one of them, files are read in batches however small.
    progress : bool

    Raises
    ------
    DataError
        If there is neither, or a file cannot be read.
    """
    from bayeslmm import DataError, list_datasets, load_dataset, scan

    source = sources[0]
    batches = batch_rows is not None or checkpoint is not None
    if len(sources) == 1 and not os.path.exists(source) and not glob.has_magic(source):
        if os.path.splitext(source)[1] and source.lower() not in list_datasets():
            raise DataError(f"There is no file {source!r}.")
        if batches:
            raise DataError("--batch-rows and --checkpoint are for files.")
        return load_dataset(source)  # says which data sets there are, if it is none
    made = scan(sources, batch_rows=batch_rows, checkpoint=checkpoint, progressbar=progress)
    made.in_batches = batches
    return made


def _missing(given: list[str]) -> str | dict[str, str]:
    """One of the words, or formulas by the covariate on their left side."""
    if len(given) == 1 and "~" not in given[0]:
        return given[0]
    if words := [text for text in given if "~" not in text]:
        raise ValueError(f"--missing {words[0]} is no formula, and stands beside others.")
    return {text.split("~")[0].strip().strip("`"): text for text in given}


def _all_priors(path: str | None, texts: list[str] | None) -> dict:
    """Priors of the file, and those given one by one instead of them."""
    return (read_priors(path) if path else {}) | parse_priors(texts or [])


def _check_output(output: str | None) -> None:
    from bayeslmm import FileFormatError

    if not output:
        return
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise FileFormatError(f"There is no folder {folder!r} to write {output!r} to.")
    if os.path.isdir(output):
        raise FileFormatError(f"{output!r} is a folder. Name a file to write to.")
    if not os.access(folder, os.W_OK):
        raise FileFormatError(f"The folder {folder!r} cannot be written to.")


def main() -> None:
    """Entry point: errors in one line and exit code 2, warnings in one line each."""
    _search_less_for_garbage()
    _spare_memory()
    warnings.showwarning = _show_warning
    try:
        app()
    except SystemExit as stopped:
        _leave(stopped.code)
    except KeyboardInterrupt:
        _say("Stopped.")
        _leave(130)
    except Exception as err:
        if os.environ.get("BAYESLMM_TRACEBACK"):
            raise
        try:
            sentence = _in_a_sentence(err)
        except Exception:  # too little memory even to find the words
            sentence = (
                "There is not enough memory, or a limit (ulimit) lets this process have none."
            )
        _say(f"Error: {sentence}")
        _leave(_DATA_ERROR)


def _search_less_for_garbage() -> None:
    """What is imported stays: searching it for garbage is a third of a small fit's time."""
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)  # as the process ends its memory is given back anyway


def _spare_memory() -> None:
    """No threads of linear algebra where memory is limited: without room OpenBLAS interrupts us."""
    with contextlib.suppress(ImportError):
        import resource

        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _in_a_sentence(err: Exception) -> str:
    """What went wrong, in one line, whoever raised it."""
    from bayeslmm.errors import BayesLMMError

    if isinstance(err, BayesLMMError | ValueError | KeyError):
        return str(err)
    text = " ".join(str(err).split())
    if _is_lack_of_memory(err):
        return (
            "There is not enough memory, or a limit (ulimit) lets this process have no more. Files "
            f"can be read in batches: --batch-rows. ({text[-150:] or type(err).__name__})"
        )
    if isinstance(err, OSError):
        where = f" ({err.filename})" if err.filename else ""
        return f"Cannot read or write{where}: {err.strerror or err}."
    return f"{type(err).__name__}: {text} (BAYESLMM_TRACEBACK=1 shows where.)"


def _is_lack_of_memory(err: BaseException | None) -> bool:
    """Whether an error, or one behind it, is that of a library that got no memory."""
    signs = (
        "allocate memory",
        "failed to map",
        "new thread",
        "out of memory",
        "malloc",
        "error return without exception set",  # a library that could not make its error
    )
    while err is not None:
        if isinstance(err, MemoryError) or getattr(err, "errno", None) == errno.ENOMEM:
            return True
        if any(sign in str(err) for sign in signs):
            return True
        err = err.__cause__ or err.__context__
    return False


def _leave(code) -> None:
    """Exit; output that cannot be written is an error in one line, too."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as err:
        if code in (0, None):
            _say(f"Error: {_in_a_sentence(err)}")
            code = _DATA_ERROR
        _drop(sys.stdout)
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _drop(sys.stderr)
    sys.exit(code)


def _drop(stream) -> None:
    """Let what is left in a stream go nowhere, so that Python does not try again as it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _say(text: str) -> None:
    """To standard error, if that can be written to."""
    with contextlib.suppress(OSError, ValueError):
        typer.echo(text, err=True)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    _say(f"Warning: {message}")
