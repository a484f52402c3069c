"""From a file back to the fit and the model it came from; nothing in a file is run."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pandas as pd

from bayeslmm.bayes.fitting import FitInfo, versions
from bayeslmm.bayes.responses import response_variables
from bayeslmm.bayes.tree import SUMMARY_GROUP, arranged, posterior_layout
from bayeslmm.errors import FileFormatError
from bayeslmm.files import file_name, is_intact, no_file
from bayeslmm.fits.posterior import PosteriorFit
from bayeslmm.formula import MissingRows
from bayeslmm.formula.tokens import scan
from bayeslmm.hdf5 import check_structure
from bayeslmm.model import LMM
from bayeslmm.parts.patterns import pair_values
from bayeslmm.parts.structures.unstructured import time_pairs
from bayeslmm.priors.table import Priors
from bayeslmm.records import check_record
from bayeslmm.storage import FORMAT, GROUP, SUMMARY

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["load"]


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
        raise FileFormatError(no_file(name))
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
        record = json.loads(opened[GROUP]["record"].asstr()[()])
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
    import xarray as xr

    model, priors = _rebuild_model(record, tree[GROUP].to_dataset(), namespace)
    tree = tree.filter(lambda node: node.name != GROUP)
    model = _with_fitted_response(tree, model)
    if record["format"] < 3:
        tree["posterior"] = xr.DataTree(_pairs_of_matrices(tree["posterior"].to_dataset(), model))
    _check_draws(tree, model)
    info = FitInfo(**{**record["info"], "problems": tuple(record["info"]["problems"])})
    return PosteriorFit(model, priors, tree, info)


def _pairs_of_matrices(posterior: xr.Dataset, model: LMM) -> xr.Dataset:
    """Draws of formats 1 and 2, which have matrices of correlations.

    Raises
    ------
    FileFormatError
        If a matrix has another number of rows than the model has effects.
    """
    pairs = {
        factor.corr: (factor.pair_dim, block.correlated_pairs(), block.n_effects)
        for block, factor in zip(model.design.blocks, model.names.factors, strict=True)
    }
    if (residual := model.design.residual) is not None and (T := len(residual.times)):
        pairs["corr_residual"] = ("residual_time_pair", time_pairs(T), T)
    _, coords = posterior_layout(model.design, model.names)
    for name in [str(name) for name in posterior.data_vars if name in pairs]:
        R, (dim, at, q) = posterior[name].to_numpy(), pairs[name]
        if R.ndim != 4 or R.shape[2:] != (q, q):
            raise FileFormatError(f"the draws of {name!r} are of another shape or kind.")
        posterior = posterior.drop_dims([posterior[name].dims[3]]).assign(
            {name: (("chain", "draw", dim), pair_values(R, at))}
        )
        posterior = posterior.assign_coords({dim: coords[dim]})
    return posterior[arranged(map(str, posterior.data_vars), model.names)]


def _with_fitted_response(tree: xr.DataTree, model: LMM) -> LMM:
    """The model of the response that was fitted, which need not be that of the columns."""
    if "observed_data" not in tree.children:
        return model
    y = tree["observed_data"][model.names.response].to_numpy()
    if y.shape != model.design.y.shape or y.dtype.kind not in "iuf":
        raise FileFormatError("its response does not have the rows that the model used.")
    return model if np.array_equal(y, model.design.y) else model.with_response(y)


def _is_newer(written) -> bool:
    return isinstance(written, int) and written > FORMAT


def _check_draws(tree: xr.DataTree, model: LMM) -> None:
    """Refuse draws that are not of the parameters of the model, in its order.

    Raises
    ------
    FileFormatError
    """
    design, names = model.design, model.names
    dims, coords = posterior_layout(design, names)
    wanted = {*response_variables(design), *(factor.sd for factor in names.factors)}
    wanted |= {"beta"} if design.coef_names else set()
    posterior = tree["posterior"].to_dataset()
    kept = set(posterior.data_vars)
    if SUMMARY_GROUP in tree.children:
        kept |= set(tree[SUMMARY_GROUP].data_vars)
        wanted |= {f"{factor.b}_{part}" for factor in names.factors for part in SUMMARY}
    else:
        wanted |= {factor.b for factor in names.factors}
    if absent := sorted(wanted - kept):
        raise FileFormatError(f"there are no draws of {absent[0]!r}.")
    for name, array in posterior.data_vars.items():
        right = ("chain", "draw", *dims.get(str(name), array.dims[2:]))
        if array.dims != right or array.dtype.kind not in "iuf":
            raise FileFormatError(f"the draws of {name!r} are of another shape or kind.")
    for group in tree.children.values():
        for dim in set(coords) & set(group.coords):
            if group[dim].to_numpy().tolist() != coords[dim].tolist():
                raise FileFormatError(
                    f"the labels of {dim!r} beside the draws are not those the formula gives."
                )


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


def _restored_model(record, stored: xr.Dataset, namespace) -> LMM:
    from bayeslmm.sources.stored import restored_design

    arrays = {str(name): stored[name].to_numpy() for name in stored.data_vars if name != "record"}
    design = restored_design(record["design"], arrays, namespace)
    if design.formula.text != record["formula"]:
        raise FileFormatError("it has two formulas.")
    with warnings.catch_warnings():  # they were shown when the model was made
        warnings.simplefilter("ignore")
        return LMM(record["formula"], design, namespace=namespace)


def _check_splines(record) -> None:
    """A basis has other columns, and coefficients, in formulae before and from 0.9 on."""
    made, here = record["versions"].get("formulae", ""), versions()["formulae"]
    texts = [record["formula"], *filter(None, (record.get("residual") or {}).values())]
    option = record.get("missing_option")
    texts += option.values() if isinstance(option, dict) else []
    splines = any(token.lexeme == "bs" for text in texts for token in scan(text))
    if splines and _centers_splines(made) != _centers_splines(here):
        raise FileFormatError(
            f"its bs() was made by formulae {made or 'of no known version'}, and {here}, which is "
            "installed, makes other columns. Install that version, or fit the model again."
        )


def _centers_splines(version: str) -> bool:
    numbers = re.match(r"(\d{1,9})\.(\d{1,9})", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (0, 9)


def _rebuild_model(record, stored: xr.Dataset, namespace) -> tuple[LMM, Priors]:
    _check_splines(record)
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
        options["link"] = record.get("link")  # files of version 0.1.0 have none
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
    if entry["kind"] != "b":
        return values
    return pd.arrays.BooleanArray(values == 1, values == -1) if -1 in values else values == 1
