"""What options of the command line hold: priors and relationships, as text and as files."""

from __future__ import annotations

import ast
import json
import os
import tomllib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bayeslmm.parts.prior import Prior

__all__ = ["parse_priors", "read_priors", "read_relationships"]

_WRITE = (
    "Write KEY=Name(parameter=number, ...), such as "
    '"Days=Normal(mu=0, sigma=10)" or "sd(Days | Subject)=Exponential(lam=0.1)".'
)


def parse_priors(texts: list[str]) -> dict[str, Prior]:
    """``KEY=Name(parameter=number, ...)`` to priors, without evaluating anything.

    Raises
    ------
    PriorError
        If a text is not of that form.
    """
    from bayeslmm.errors import PriorError

    priors = {}
    for text in texts:
        key, equals, right = _split_prior(text)
        try:
            if not equals:
                raise ValueError
            priors[key.strip()] = _one_prior(right)
        except (SyntaxError, ValueError) as err:
            if isinstance(err, PriorError):
                raise
            raise PriorError(f"Cannot read the prior {text!r}. {_WRITE}") from None
    return priors


def _one_prior(text: str) -> Prior:
    """``Name(parameter=number, ...)``; SyntaxError or ValueError where it is not of that form."""
    from bayeslmm.parts.prior import Prior

    call = ast.parse(text.strip(), mode="eval").body
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise ValueError(text)
    given = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg is not None}
    if call.args or len(given) < len(call.keywords):  # by position, or with **
        raise ValueError(text)
    return Prior(call.func.id, **given)


def _split_prior(text: str) -> tuple[str, str, str]:
    """At the first ``=`` outside brackets: a coefficient's name may hold others."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if char == "=" and depth == 0:
            return text[:at], "=", text[at + 1 :]
    return text, "", ""


def read_priors(path: str) -> dict[str, Prior]:
    """Priors of a JSON or TOML file: ``{"Days": "Normal(mu=0, sigma=10)"}``.

    Parameters
    ----------
    path : str
        TOML where the name ends so, otherwise JSON. Keys as those of ``LMM(priors=...)``; values
        as text, or as tables such as ``{"name": "Normal", "mu": 0, "sigma": 10}``.

    Raises
    ------
    PriorError
        If the file cannot be read or a prior is not of that form.
    """
    from bayeslmm.errors import PriorError
    from bayeslmm.parts.prior import Prior

    try:
        with open(path, "rb") as file:
            text = file.read().decode()
        found = tomllib.loads(text) if path.lower().endswith(".toml") else json.loads(text)
    except (OSError, ValueError) as err:
        raise PriorError(f"--priors: cannot read {path!r}: {err}") from None
    if not isinstance(found, dict):
        raise PriorError(f"--priors: {path!r} must hold one table of priors by their keys.")
    priors = {}
    for key, value in found.items():
        try:
            if isinstance(value, dict) and isinstance(value.get("name"), str):
                priors[key] = Prior.from_dict(value)
            else:
                priors[key] = _one_prior(value)
        except PriorError as err:
            raise PriorError(f"--priors: {key} in {path!r}: {err}") from None
        except (SyntaxError, ValueError, TypeError, AttributeError):
            raise PriorError(
                f"--priors: cannot read the prior of {key!r} in {path!r}, {value!r}. Write "
                f'"{key}": "Normal(mu=0, sigma=10)".'
            ) from None
    return priors


def read_relationships(texts: list[str]) -> dict[str, object] | None:
    """``FACTOR=FILE`` to what ``LMM(relationship=...)`` takes; None where there are none.

    A file is a matrix (CSV or Parquet; labels in the first column and in the header), or a
    pedigree with columns ``id``, ``sire`` and ``dam``, or with others that are named:
    ``FACTOR=FILE:animal,father,mother``.

    Raises
    ------
    DataError
        If a text is not of that form, or the file cannot be read.
    """
    from bayeslmm.errors import DataError

    found = {}
    for text in texts:
        factor, equals, path = text.partition("=")
        if not (equals and factor.strip() and path.strip()):
            raise DataError(
                f"--relationship {text!r}: write FACTOR=FILE, such as id=kinship.csv, or "
                "id=pedigree.csv:animal,father,mother with the columns of a pedigree."
            )
        try:
            found[factor.strip()] = _relationship(path.strip())
        except DataError as err:
            raise DataError(f"--relationship {text!r}: {err}") from None
    return found or None


def _relationship(path: str):
    from bayeslmm.errors import DataError
    from bayeslmm.relationship.matrix import RelationshipMatrix
    from bayeslmm.relationship.pedigree import pedigree_relationship

    path, names = _pedigree_columns(path)
    frame = _read_labelled(path)
    if names or {"id", "sire", "dam"} <= set(frame.columns):
        individual, sire, dam = names or ["id", "sire", "dam"]
        return pedigree_relationship(frame, id=individual, sire=sire, dam=dam)
    labels, header = [str(v) for v in frame.iloc[:, 0]], [str(c) for c in frame.columns[1:]]
    if len(set(labels)) < len(labels) or sorted(labels) != sorted(header):
        raise DataError(
            f"{path!r} is neither a matrix (the same labels in its first column and its header) "
            "nor a pedigree (columns id, sire and dam, or others named after a colon)."
        )
    values = frame.iloc[:, 1:].set_axis(header, axis=1)[labels]
    try:
        return RelationshipMatrix(labels, values.to_numpy().astype(float))
    except (TypeError, ValueError) as err:
        if isinstance(err, DataError):
            raise
        raise DataError(f"{path!r} has entries that are not numbers.") from None


def _pedigree_columns(path: str) -> tuple[str, list[str]]:
    """The file, and the three columns named after a colon."""
    head, colon, tail = path.rpartition(":")
    names = [name.strip() for name in tail.split(",")]
    return (head, names) if colon and len(names) == 3 else (path, [])


def _read_labelled(path: str):
    """A table of text, or of a Parquet file's types, its index as the first column."""
    import pandas as pd

    from bayeslmm.errors import DataError

    if not os.path.isfile(path):
        raise DataError(f"there is no file {path!r}.")
    try:
        if path.lower().endswith((".parquet", ".pq")):
            frame = pd.read_parquet(path)
            own = isinstance(frame.index, pd.RangeIndex)
            frame = frame if own else frame.reset_index()
        else:
            frame = pd.read_csv(path, dtype=str)
    except Exception as err:
        raise DataError(f"cannot read {path!r}: {err}") from None
    return frame.set_axis([str(c) for c in frame.columns], axis=1)
