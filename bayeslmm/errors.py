"""Errors and warnings of bayeslmm.

Every error subclasses :class:`BayesLMMError` and a builtin, so that both
``except blm.BayesLMMError`` and ``except ValueError`` work.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

__all__ = [
    "PACKAGE",
    "BayesLMMError",
    "DataError",
    "DataWarning",
    "FileFormatError",
    "FormulaError",
    "ModelWarning",
    "PlotError",
    "PriorError",
    "SamplingError",
    "SamplingWarning",
    "listed",
    "one_of",
    "shortened",
    "suggestion",
]

#: Prefix of this package's files: ``warnings.warn(..., skip_file_prefixes=PACKAGE)`` names the line
#: of the call into it, however deep the warning is.
PACKAGE = (os.path.join(os.path.dirname(__file__), ""),)


class BayesLMMError(Exception):
    """Base class of all errors raised by bayeslmm on purpose."""


class FormulaError(BayesLMMError, ValueError):
    """The formula cannot be read, or asks for something that does not exist."""


class DataError(BayesLMMError, ValueError):
    """The data cannot support the model: wrong type, wrong values, too few rows."""


class PriorError(BayesLMMError, ValueError):
    """A prior is keyed, named or parametrized wrongly."""


class PlotError(BayesLMMError, ValueError):
    """A plot is asked to draw something that the model or the fit does not have."""


class SamplingError(BayesLMMError, RuntimeError):
    """Sampling could not be carried out or did not finish."""


class FileFormatError(BayesLMMError, ValueError):
    """A file is not one this package wrote, or would run code that is not allowed."""


class DataWarning(UserWarning):
    """Something about the data that changes what is fitted, such as dropped rows."""


class ModelWarning(UserWarning):
    """Something about the model that makes part of the result weak or not identified."""


class SamplingWarning(UserWarning):
    """The draws do not (yet) represent the posterior well enough."""


def listed(names: Iterable, most: int = 10) -> str:
    """Names for a message, and how many there are where they are more than `most`."""
    shown = [str(name) for name in names]
    if len(shown) <= most:
        return ", ".join(shown)
    return f"{', '.join(shown[:most])}, ... ({len(shown)} in all)"


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of those allowed.

    Raises
    ------
    ValueError
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}.")


def suggestion(name: str, known: Iterable[str], n: int = 2, *, quoted: bool = True) -> str:
    """The question which known name was meant, behind a blank, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=n)
    shown = map(repr, close) if quoted else close
    return f" Did you mean {' or '.join(shown)}?" if close else ""


def shortened(text: str) -> str:
    """A formula's text for a message."""
    return text if len(text) <= 80 else text[:77] + "..."
