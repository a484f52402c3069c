"""One NetCDF file holds a fit and the model it came from; reading it never runs code.

Besides the groups of the tree there is a group ``bayeslmm`` with the used columns of the data
(numbers, or codes with their levels) and a record in JSON: formula, priors, settings,
versions. A formula is code, so the one in a file is parsed and held to the fixed table of
functions a formula may call before anything is evaluated.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.bayes.fitting import FitInfo, versions
from bayeslmm.bayes.priors import Priors
from bayeslmm.errors import BayesLMMError, FileFormatError
from bayeslmm.formula import MissingRows
from bayeslmm.model import LMM
from bayeslmm.results.posterior import PosteriorFit

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["load", "save_fit"]

_GROUP = "bayeslmm"
_FORMAT = 2


def save_fit(fit: PosteriorFit, path: str | os.PathLike) -> None:
    """Write a posterior fit and its model.

    Raises
    ------
    FileFormatError
        If the file cannot be written.
    """
    import xarray as xr

    if fit.conditioning is not None:
        raise FileFormatError(
            "A fit with rows added by condition_on() is not saved: save the fit it came from and "
            "the rows, and condition again."
        )
    tree = fit.idata.copy()
    tree[_GROUP] = xr.DataTree(_model_dataset(fit))
    encoding = {
        group.path: {name: {"zlib": True, "complevel": 1} for name in group.data_vars}
        for group in tree.subtree
        if group.name in ("posterior", "log_likelihood", "posterior_predictive")
    }
    try:
        tree.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    except OSError as err:
        raise FileFormatError(f"Cannot write {os.fspath(path)!r}: {err}") from err


def load(path: str | os.PathLike, *, namespace: Mapping[str, Any] | None = None) -> PosteriorFit:
    """Read a fit that :meth:`PosteriorFit.save` wrote, model included.

    Parameters
    ----------
    path : path
    namespace : dict, optional
        Your own functions that the formula names, where the model was made with some.

    Returns
    -------
    PosteriorFit

    Raises
    ------
    FileFormatError
        If the file does not exist, is not one of ours, or is damaged.
    FormulaError
        If its formula calls something that formulas may not call.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> fit = blm.load("fit.nc")  # doctest: +SKIP
    """
    import xarray as xr

    name = os.fspath(path)
    if not os.path.exists(path):
        raise FileFormatError(f"There is no file {name!r}.")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as file:
            tree = file.load()
        record = json.loads(str(tree[_GROUP]["record"].to_numpy()))
        stored = tree[_GROUP].to_dataset()
    except BayesLMMError:
        raise
    except Exception as err:
        raise FileFormatError(
            f"{name!r} is not a fit saved by bayeslmm, or it is damaged ({err})."
        ) from err
    if record.get("format", 0) > _FORMAT:
        raise FileFormatError(
            f"{name!r} was written by a newer bayeslmm ({record['versions']['bayeslmm']}). Update."
        )
    missing_names = [n for n in record["namespace"] if n not in (namespace or {})]
    if missing_names:
        raise FileFormatError(
            f"The formula of {name!r} uses functions of its author's own: "
            f"{', '.join(missing_names)}. Pass them: blm.load(path, namespace={{...}})."
        )
    tree = tree.filter(lambda node: node.name != _GROUP)
    try:
        model, priors = _rebuild_model(record, stored, namespace)
    except KeyError as err:
        raise FileFormatError(f"{name!r} is damaged: {err} is missing.") from err
    info = FitInfo(**{**record["info"], "problems": tuple(record["info"]["problems"])})
    return PosteriorFit(model, priors, tree, info)


def _model_dataset(fit: PosteriorFit) -> xr.Dataset:
    import xarray as xr

    design = fit.model.design
    arrays: dict[str, Any] = {}
    columns = []
    for number, (name, column) in enumerate(design.columns.items()):
        entry: dict[str, Any] = {"name": name, "kind": column.dtype.kind}
        values = column.to_numpy() if entry["kind"] != "O" else column.cat.codes.to_numpy(np.int32)
        if isinstance(column.dtype, pd.CategoricalDtype):
            entry["kind"] = "category"
            entry["levels"] = [
                level if isinstance(level, int | float | str | bool) else str(level)
                for level in column.cat.categories.tolist()
            ]
        arrays[f"column_{number}"] = (
            ("row",),
            values.astype(np.int8) if entry["kind"] == "b" else values,
        )
        columns.append(entry)
    if design.weights is not None:
        arrays["weights"] = (("row",), design.weights)
    arrays["rows"] = (("row",), design.rows)
    arrays["dropped"] = (("dropped_row",), design.missing.dropped)
    record = {
        # what older versions would read without its residual structure is of a newer format
        "format": 1 if design.residual is None else _FORMAT,
        "formula": design.formula.text,
        "residual": _residual_record(design),
        "weights_name": design.weights_name,
        "columns": columns,
        "index": _index_record(design.index),
        "missing": {
            "n_rows": design.missing.n_rows,
            "by_column": dict(design.missing.by_column),
            "levels_lost": {
                k: [str(v) for v in vs] for k, vs in design.missing.levels_lost.items()
            },
            "n_zero_weight": design.missing.n_zero_weight,
        },
        "namespace": sorted(design.namespace),
        "priors": fit.priors.to_dict(),
        "model_priors": fit.model.priors.to_dict(),
        "info": asdict(fit.info),
        "versions": versions(),
    }
    return xr.Dataset(arrays).assign(record=json.dumps(record))


def _residual_record(design) -> dict[str, str | None] | None:
    """The arguments ``residual`` and ``sigma`` of the model, None where it has neither."""
    if design.residual is None:
        return None
    syntax = design.residual.syntax
    return {"residual": syntax.text, "sigma": syntax.sigma and f"~ {syntax.sigma}"}


def _index_record(index: pd.Index) -> dict[str, Any]:
    """The data's own row labels, where they are plain; otherwise rows are numbered."""
    values = index.tolist()
    if isinstance(index, pd.RangeIndex) or not all(isinstance(v, int | str) for v in values):
        return {"kind": "rows"}
    return {"kind": "labels", "labels": values}


def _rebuild_model(record, stored: xr.Dataset, namespace) -> tuple[LMM, Priors]:
    frame = pd.DataFrame(
        {
            entry["name"]: _column(entry, stored[f"column_{number}"].to_numpy())
            for number, entry in enumerate(record["columns"])
        }
    )
    weights = stored["weights"].to_numpy() if "weights" in stored else None
    with warnings.catch_warnings():  # they were shown when the model was made
        warnings.simplefilter("ignore")
        structure = record.get("residual") or {}
        model = LMM(record["formula"], frame, weights=weights, namespace=namespace, **structure)
    rows = stored["rows"].to_numpy()
    index = record["index"]
    missing = record["missing"]
    model.design = replace(
        model.design,
        rows=rows,
        index=pd.Index(index["labels"]) if index["kind"] == "labels" else pd.Index(rows),
        weights_name=record["weights_name"],
        missing=MissingRows(dropped=stored["dropped"].to_numpy(), **missing),
    )
    model.priors.restore(record["model_priors"])
    priors = model.priors.copy()
    priors.restore(record["priors"])
    return model, priors


def _column(entry: Mapping[str, Any], values: np.ndarray):
    if entry["kind"] == "category":
        return pd.Categorical.from_codes(values, entry["levels"], ordered=True)
    return values.astype(bool) if entry["kind"] == "b" else values
