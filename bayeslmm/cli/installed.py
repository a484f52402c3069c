"""Commands about what is installed: data sets, compiled code."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from bayeslmm.cli.application import app
from bayeslmm.cli.options import Progress

__all__ = ["compile", "datasets"]


@app.command()
def compile(progress: Progress = True) -> None:
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
