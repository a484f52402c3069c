"""The application commands are added to."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    name="bayeslmm",
    help="Mixed models: one formula, the full posterior and the likelihood fit.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from bayeslmm import __version__

        typer.echo(f"bayeslmm {__version__}")
        raise typer.Exit
