"""What the record in a saved fit must look like.

JSON holds anything; whoever reads a record later relies on its keys and types, so both are
checked once, by a description of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bayeslmm.errors import FileFormatError

__all__ = ["check_record"]


@dataclass(frozen=True)
class _Each:
    """A list of values of one kind."""

    kind: Any


@dataclass(frozen=True)
class _Values:
    """A dict from text to values of one kind."""

    kind: Any


@dataclass(frozen=True)
class _Count:
    """A whole number from `least` on."""

    least: int = 0


_NUMBER = (int, float)
_LABEL = (int, float, str, bool)
_COUNTS = _Values(_Count())
#: A prior's other values are its parameters, which are checked where it is made.
_PRIORS = _Values({"name": str, "source": frozenset({"default", "user"})})
_COMMON = {
    "format": _Count(1),
    "formula": str,
    "namespace": _Each(str),
    "priors": _PRIORS,
    "model_priors": _PRIORS,
    "info": {
        "method": frozenset({"nuts", "importance"}),
        "parameterization": frozenset({"marginal", "whitened", "noncentered", "centered"}),
        "reason": str,
        "draws": _Count(),
        "tune": _Count(),
        "chains": _Count(),
        "random_seed": _Count(),
        "seconds": _NUMBER,
        "sampler": str,
        "problems": _Each(str),
        "k_hat": (*_NUMBER, None),
        "effective_draws": (*_NUMBER, None),
        "log_marginal_likelihood": (*_NUMBER, None),
        "log_marginal_likelihood_error": (*_NUMBER, None),
    },
    "versions": _Values(str),
}
_ROWS_IN_MEMORY = {
    "residual": (None, {"residual": (str, None), "sigma": (str, None)}),
    "weights_name": (str, None),
    "columns": _Each({"name": str, "kind": frozenset({"i", "u", "f", "b", "category"})}),
    "index": {"kind": frozenset({"rows", "labels"})},
    "missing": {
        "n_rows": _Count(),
        "by_column": _COUNTS,
        "levels_lost": _Values(_Each(str)),
        "n_zero_weight": _Count(),
        "modeled": _COUNTS,
        "levels_touched": _Values(_Each(str)),
    },
    "relationships": _Each(
        {"factor": str, "labels": _Each(_LABEL), "kind": frozenset({"covariance", "precision"})}
    ),
    "family": frozenset(
        {
            "gaussian",
            "student",
            "bernoulli",
            "binomial",
            "poisson",
            "negativebinomial",
            "gamma",
            "beta",
            "lognormal",
            "ordinal",
            "zero_inflated_poisson",
            "zero_inflated_negativebinomial",
        }
    ),
    "random": frozenset({"gaussian", "student"}),
    "missing_option": (frozenset({"drop", "model"}), _Values(str)),
}


def check_record(record: Any) -> None:
    """Refuse a record with a key missing or a value of another kind.

    Raises
    ------
    FileFormatError
    """
    _check(record, {"format": _Count(1), "formula": str}, "the record")
    _check(record, _COMMON, "the record")
    if record.get("sealed", True) is not True:
        raise FileFormatError("it says that it has no checksum, and has one.")
    if "sealed" in record:  # files of version 0.1.0 have no checksum, and no such part
        _check(record, {"prior_defaults": {"coefficients": {}, "effects": list}}, "the record")
    if "design" in record:
        _check(record["design"], {}, "the design")
        return
    _check(record, _ROWS_IN_MEMORY, "the record")
    if "sealed" in record:
        _check(record, {"link": str}, "the record")
    for column in record["columns"]:
        if column["kind"] == "category":
            _check(column, {"levels": _Each(_LABEL)}, f"the column {column['name']!r}")
    names = [column["name"] for column in record["columns"]]
    if len(set(names)) < len(names):
        raise FileFormatError("two columns in the record have one name.")
    if record["index"]["kind"] == "labels":
        _check(record["index"], {"labels": _Each((int, str, bool))}, "the index")


def _check(value: Any, kind: Any, where: str) -> None:
    """Compare a value with a description.

    A type or None stands for itself, a tuple for any of its members, a frozenset for the texts
    in it, a dict for a dict that has its keys.
    """
    if isinstance(kind, tuple):
        nested = [one for one in kind if isinstance(one, dict | _Each | _Values)]
        if not any(_is(value, one) for one in kind if one not in nested):
            _check(value, nested[0] if nested else kind[0], where)
    elif isinstance(kind, dict):
        if not isinstance(value, dict):
            raise FileFormatError(f"{where} is not a set of named values.")
        for key, inner in kind.items():
            if key not in value:
                raise FileFormatError(f"{where} has no {key!r}.")
            _check(value[key], inner, f"{key!r} in {where}")
    elif isinstance(kind, _Each | _Values):
        if not isinstance(value, list if isinstance(kind, _Each) else dict):
            raise FileFormatError(f"{where} is of the wrong kind.")
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, kind.kind, where)
    elif not _is(value, kind):
        raise FileFormatError(f"{where} is {value!r:.60}, which it cannot be.")


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(kind, _Count):
        return _is(value, int) and value >= kind.least
    if isinstance(kind, frozenset):
        return isinstance(value, str) and value in kind
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
