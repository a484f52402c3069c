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
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pandas as pd

from bayeslmm.bayes.fitting import FitInfo, versions
from bayeslmm.bayes.tree import SUMMARY_GROUP, posterior_layout
from bayeslmm.errors import FileFormatError
from bayeslmm.files import UnfailingFile, file_name, is_intact, replacing, seal
from bayeslmm.fits.posterior import PosteriorFit
from bayeslmm.formula import MissingRows
from bayeslmm.hdf5 import check_structure
from bayeslmm.model import LMM
from bayeslmm.priors.table import Priors
from bayeslmm.records import check_record

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["load", "save_fit"]

_GROUP = "bayeslmm"
_FORMAT = 2
_SUMMARY = ("mean", "sd", "quantile")


def save_fit(fit: PosteriorFit, path: str | os.PathLike) -> None:
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
    tree[_GROUP] = xr.DataTree(_model_dataset(fit))
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


def load(path: str | os.PathLike, *, namespace: Mapping[str, Any] | None = None) -> PosteriorFit:
    """Read a fit that :meth:`PosteriorFit.save` wrote, model included.

    The file's checksum is compared first, so that a damaged file is never read as another fit.
    Files of early versions have none and are read without that assurance; saving again adds it.
    Nothing in a file is run, and no other file is read.

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
        If the file does not exist, is not one of ours, is damaged, or its formula calls
        something that formulas may not call.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> fit = blm.load("fit.nc")  # doctest: +SKIP
    """
    import xarray as xr

    name = file_name(path)
    if not os.path.isfile(name):
        raise FileFormatError(f"There is no file {name!r}.")
    try:
        with open(name, "rb") as file:
            record = _read_record(file)
            _check_namespace(record, namespace)
            with xr.open_datatree(file, engine="h5netcdf") as opened:
                tree = opened.load()
        return _restored_fit(tree, record, namespace)
    except FileFormatError as err:
        raise FileFormatError(f"{name!r} cannot be read as a fit: {err}") from err
    except Exception as err:  # what does not fit together shows itself in many ways
        text = f"{err} is missing" if isinstance(err, KeyError) else str(err)
        raise FileFormatError(
            f"{name!r} is not a fit saved by bayeslmm, or it is damaged: "
            f"{text or type(err).__name__}"
        ) from err


def _read_record(file: BinaryIO) -> dict[str, Any]:
    """The record of a file, once it is known that file and record can be relied on."""
    import h5py

    intact = is_intact(file)
    if intact is False:
        raise FileFormatError("it is damaged, its checksum is wrong.")
    with h5py.File(file, "r") as opened:
        check_structure(opened, file.seek(0, os.SEEK_END))
        record = json.loads(opened[_GROUP]["record"].asstr()[()])
    if isinstance(record, dict) and _is_newer(record.get("format")):
        raise FileFormatError("it was written by a newer bayeslmm. Update.")
    check_record(record)
    if "sealed" in record and not intact:
        raise FileFormatError("it has no checksum any more: it was cut or changed since.")
    return record


def _check_namespace(record: Mapping[str, Any], namespace: Mapping[str, Any] | None) -> None:
    missing_names = [n for n in record["namespace"] if n not in (namespace or {})]
    if missing_names:
        raise FileFormatError(
            f"its formula uses functions of its author's own: {', '.join(missing_names)}. Pass "
            "them: blm.load(path, namespace={...})."
        )


def _restored_fit(tree: xr.DataTree, record, namespace) -> PosteriorFit:
    model, priors = _rebuild_model(record, tree[_GROUP].to_dataset(), namespace)
    tree = tree.filter(lambda node: node.name != _GROUP)
    _check_draws(tree, model)
    info = FitInfo(**{**record["info"], "problems": tuple(record["info"]["problems"])})
    return PosteriorFit(model, priors, tree, info)


def _is_newer(written) -> bool:
    return isinstance(written, int) and written > _FORMAT


def _check_draws(tree: xr.DataTree, model: LMM) -> None:
    """Refuse draws that are not of the parameters of the model, in its order.

    Raises
    ------
    FileFormatError
    """
    design, names = model.design, model.names
    dims, coords = posterior_layout(design, names)
    wanted = {"sigma", *(factor.sd for factor in names.factors)}
    wanted |= {"beta"} if design.coef_names else set()
    posterior = tree["posterior"].to_dataset()
    kept = set(posterior.data_vars)
    if SUMMARY_GROUP in tree.children:
        kept |= set(tree[SUMMARY_GROUP].data_vars)
        wanted |= {f"{factor.b}_{part}" for factor in names.factors for part in _SUMMARY}
    else:
        wanted |= {factor.b for factor in names.factors}
    if absent := sorted(wanted - kept):
        raise FileFormatError(f"there are no draws of {absent[0]!r}.")
    for name, array in posterior.data_vars.items():
        right = ("chain", "draw", *dims.get(name, array.dims[2:]))
        if array.dims != right or array.dtype.kind not in "iuf":
            raise FileFormatError(f"the draws of {name!r} are of another shape or kind.")
    for group in tree.children.values():
        for dim in set(coords) & set(group.coords):
            if group[dim].to_numpy().tolist() != coords[dim].tolist():
                raise FileFormatError(
                    f"the labels of {dim!r} beside the draws are not those the formula gives."
                )


def _model_dataset(fit: PosteriorFit) -> xr.Dataset:
    import xarray as xr

    design = fit.model.design
    if not design.rows_in_memory:
        return _streamed_dataset(fit)
    arrays: dict[str, Any] = {}
    columns = []
    unknown = {covariate.name: covariate.rows for covariate in design.modeled}
    for number, (name, column) in enumerate(design.columns.items()):
        entry: dict[str, Any] = {"name": name, "kind": column.dtype.kind}
        values = column.to_numpy() if entry["kind"] != "O" else column.cat.codes.to_numpy(np.int32)
        if name in unknown:
            values = values.copy()
            values[unknown[name]] = np.nan
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
            "modeled": dict(design.missing.modeled),
            "levels_touched": {
                k: [str(v) for v in vs] for k, vs in design.missing.levels_touched.items()
            },
        },
        "namespace": sorted(design.namespace),
        "relationships": related,
        "family": fit.model.family,
        "random": fit.model.random,
        "missing_option": "model" if design.modeled else "drop",
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
        if matrix.precision is None:
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


def _restore_relationships(record, stored: xr.Dataset) -> dict[str, Any] | None:
    from scipy import sparse

    from bayeslmm.relationship.matrix import RelationshipMatrix

    found = {}
    for number, entry in enumerate(record["relationships"]):
        name, size = f"relationship_{number}", len(entry["labels"])
        if entry["kind"] == "covariance":
            if stored[name].shape != (size * (size + 1) // 2,):  # before memory is taken
                raise FileFormatError(f"the relationship of {entry['factor']!r} has another size.")
            matrix = np.zeros((size, size))
            matrix[np.tril_indices(size)] = stored[name].to_numpy()
            matrix = matrix + np.tril(matrix, -1).T
            found[entry["factor"]] = RelationshipMatrix(entry["labels"], matrix)
            continue
        row, column, value = (
            stored[f"{name}_{part}"].to_numpy() for part in ("row", "column", "value")
        )
        off = row != column
        index = (np.concatenate((row, column[off])), np.concatenate((column, row[off])))
        matrix = sparse.coo_array((np.concatenate((value, value[off])), index), shape=(size, size))
        found[entry["factor"]] = RelationshipMatrix(entry["labels"], precision=matrix.tocsr())
    return found or None


def _streamed_dataset(fit: PosteriorFit) -> xr.Dataset:
    """Of a model whose rows were read in batches: sums, levels and states in place of rows."""
    import xarray as xr

    from bayeslmm.sources.stored import stored_design

    tree, arrays = stored_design(fit.model.design)
    record = {
        "format": _FORMAT,
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


def _restored_model(record, stored: xr.Dataset, namespace) -> LMM:
    from bayeslmm.sources.stored import restored_design

    arrays = {name: stored[name].to_numpy() for name in stored.data_vars if name != "record"}
    design = restored_design(record["design"], arrays, namespace)
    if design.formula.text != record["formula"]:
        raise FileFormatError("it has two formulas.")
    with warnings.catch_warnings():  # they were shown when the model was made
        warnings.simplefilter("ignore")
        return LMM(record["formula"], design, namespace=namespace)


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
    if "design" in record:
        return _with_priors(_restored_model(record, stored, namespace), record)
    frame = pd.DataFrame(
        {
            entry["name"]: _column(entry, stored[f"column_{number}"].to_numpy())
            for number, entry in enumerate(record["columns"])
        }
    )
    weights = stored["weights"].to_numpy() if "weights" in stored else None
    with warnings.catch_warnings():  # they were shown when the model was made
        warnings.simplefilter("ignore")
        options = {name: record[name] for name in ("family", "random")}
        options["missing"] = record["missing_option"]
        options["relationship"] = _restore_relationships(record, stored)
        options |= record["residual"] or {}
        model = LMM(record["formula"], frame, weights=weights, namespace=namespace, **options)
    rows, dropped, missing = (
        stored["rows"].to_numpy(),
        stored["dropped"].to_numpy(),
        record["missing"],
    )
    index = record["index"].get("labels", rows)
    if not model.design.n_rows == len(frame) == len(rows) == len(index):
        raise FileFormatError("its columns do not have the rows that the model used.")
    for positions in (rows, dropped):
        if positions.dtype.kind != "i" or np.any(
            (positions < 0) | (positions >= missing["n_rows"])
        ):
            raise FileFormatError("its rows have positions that the data do not have.")
    if (record["weights_name"] is None) != (weights is None):
        raise FileFormatError("it has weights without a name, or a name without weights.")
    model.design = replace(
        model.design,
        rows=rows,
        index=pd.Index(index),
        weights_name=record["weights_name"],
        missing=MissingRows(dropped=dropped, **missing),
    )
    return _with_priors(model, record)


def _with_priors(model: LMM, record) -> tuple[LMM, Priors]:
    """The model with its priors of then, and those of the fit."""
    for kept in (record["model_priors"], record["priors"]):
        if absent := [key for key in model.priors if key not in kept]:
            raise FileFormatError(f"the prior of {absent[0]!r} is missing.")
    defaults = record.get("prior_defaults")  # files of version 0.1.0 have none
    priors = model.priors.copy()
    model.priors.restore(record["model_priors"], defaults)
    priors.restore(record["priors"], defaults)
    return model, priors


def _column(entry: Mapping[str, Any], values: np.ndarray):
    stored_as = {"b": "i", "category": "i"}.get(entry["kind"], entry["kind"])
    if values.ndim != 1 or values.dtype.kind != stored_as:
        raise FileFormatError(f"the column {entry['name']!r} has values of another kind.")
    if entry["kind"] == "category":
        return pd.Categorical.from_codes(values, entry["levels"], ordered=True)
    return values.astype(bool) if entry["kind"] == "b" else values
