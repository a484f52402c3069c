"""The command line: ``bayeslmm fit``, ``report``, ``predict``, ``compare``, ``datasets``."""

from bayeslmm.cli import fitting, installed, saved  # noqa: F401  (they add their commands)
from bayeslmm.cli.application import app
from bayeslmm.cli.process import main

__all__ = ["app", "main"]
