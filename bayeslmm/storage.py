"""One NetCDF file holds a fit and the model it came from; reading it never runs code.

Besides the groups of the tree there is a group ``bayeslmm`` with the used columns of the data
(numbers, or codes with their levels) and a record in JSON: formula, priors, settings,
versions. A formula is code, so the one in a file is parsed and held to the fixed table of
functions a formula may call before anything is evaluated.

A checksum of all bytes is at the end of the file, where NetCDF and HDF5 do not look. Files
written before there was one are read without: what is damaged in them is noticed only where it
does not fit together.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.bayes.added_groups import ADDED
from bayeslmm.bayes.fitting import versions
from bayeslmm.errors import FileFormatError
from bayeslmm.files import UnfailingFile, replacing, seal
from bayeslmm.formula.covariates import missing_option
from bayeslmm.records import check_record

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import PosteriorResult

__all__ = ["FORMAT", "GROUP", "SUMMARY", "save_fit"]

GROUP = "bayeslmm"
#: Of format 3 on, correlations are stored once, as values at pairs.
FORMAT = 3
SUMMARY = ("mean", "sd", "quantile")


def save_fit(fit: PosteriorResult, path: str | os.PathLike) -> None:
    """Write a posterior fit and its model.

    The file is there whole or not at all, and an older one stays until then.

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
    replicated = tree.children.get("posterior_predictive")
    if replicated is not None and ADDED in replicated.attrs:  # the seed makes it again
        tree = tree.filter(lambda node: node.name != "posterior_predictive")
    tree[GROUP] = xr.DataTree(_model_dataset(fit))
    encoding = {
        group.path: {name: {"zlib": True, "complevel": 1} for name in group.data_vars}
        for group in tree.subtree
        if group.name in ("posterior", "log_likelihood", "posterior_predictive")
    }
    with replacing(path) as file:
        target = UnfailingFile(file)
        tree.to_netcdf(target, engine="h5netcdf", encoding=encoding)
        target.raise_failure()
        seal(file)


def _model_dataset(fit: PosteriorResult) -> xr.Dataset:
    import xarray as xr

    design = fit.model.design
    if not design.rows_in_memory:
        return _streamed_dataset(fit)
    arrays: dict[str, Any] = {}
    columns = []
    unknown = {covariate.name: covariate.missing_rows for covariate in design.modeled}
    for number, (name, column) in enumerate(design.columns.items()):
        entry: dict[str, Any] = {"name": name, "kind": column.dtype.kind}
        values = column.to_numpy() if entry["kind"] != "O" else column.cat.codes.to_numpy(np.int32)
        if len(unknown.get(name, ())):
            kind = values.dtype.kind
            values = values.astype({"b": np.int8, "i": np.int32}.get(kind, float))
            values[unknown[name]] = -1 if kind in "bi" else np.nan
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
    related = _store_relationships(design, arrays)
    if design.weights is not None and design.se_name is None:  # a formula's se() is in columns
        arrays["weights"] = (("row",), design.weights)
    arrays["rows"] = (("row",), design.rows)
    arrays["dropped"] = (("dropped_row",), design.missing.dropped)
    record = {
        "format": FORMAT,
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
            "modeled": dict(design.missing.modeled),
            "levels_touched": {
                k: [str(v) for v in vs] for k, vs in design.missing.levels_touched.items()
            },
        },
        "namespace": sorted(design.namespace),
        "relationships": related,
        "family": fit.model.family,
        "link": fit.model.link,
        "random": fit.model.random,
        "missing_option": missing_option(design.modeled),
        "priors": fit.priors.to_dict(),
        "model_priors": fit.model.priors.to_dict(),
        "prior_defaults": fit.priors.defaults_to_dict(),
        "info": asdict(fit.info),
        "versions": versions(),
    }
    return xr.Dataset(arrays).assign(record=_as_text(record))


def _store_relationships(design, arrays: dict[str, Any]) -> list[dict[str, Any]]:
    """Labels and kind of every relationship; its numbers go to ``arrays``."""
    from bayeslmm.relationship.levels import relationships_of

    record = []
    for number, (factor, matrix) in enumerate(relationships_of(design).items()):
        name = f"relationship_{number}"
        entry = {"factor": factor, "labels": list(matrix.labels)}
        if matrix.covariance is not None:
            rows, columns = np.tril_indices(len(matrix))
            arrays[name] = ((f"{name}_entry",), matrix.covariance[rows, columns])
            entry["kind"] = "covariance"
        else:
            coo = matrix.precision.tocoo()
            keep = coo.row >= coo.col
            for part, values in (("row", coo.row), ("column", coo.col), ("value", coo.data)):
                arrays[f"{name}_{part}"] = ((f"{name}_entry",), values[keep])
            entry["kind"] = "precision"
        record.append(entry)
    return record


def _streamed_dataset(fit: PosteriorResult) -> xr.Dataset:
    """Of a model whose rows were read in batches: sums, levels and states in place of rows."""
    import xarray as xr

    from bayeslmm.sources.stored import stored_design

    tree, arrays = stored_design(fit.model.design)
    record = {
        "format": FORMAT,
        "formula": fit.model.design.formula.text,
        "design": tree,
        "namespace": sorted(fit.model.design.namespace),
        "priors": fit.priors.to_dict(),
        "model_priors": fit.model.priors.to_dict(),
        "prior_defaults": fit.priors.defaults_to_dict(),
        "info": asdict(fit.info),
        "versions": versions(),
    }
    variables = {
        name: (tuple(f"{name}_{axis}" for axis in range(array.ndim)), _storable(array))
        for name, array in arrays.items()
    }
    return xr.Dataset(variables).assign(record=_as_text(record))


def _as_text(record: dict[str, Any]) -> str:
    """The record in JSON, once it is known that it can be read again."""
    text = json.dumps({**record, "sealed": True})
    check_record(json.loads(text))
    return text


def _storable(array: np.ndarray) -> np.ndarray:
    """NetCDF has no booleans of its own here; they come back by the record."""
    return array.astype(np.int8) if array.dtype.kind == "b" else array


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
