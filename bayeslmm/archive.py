"""Trees of plain values and arrays in one file, that reading turns into nothing else.

A file is an npz archive: a record in JSON that refers to arrays by number, the arrays, a version
and a checksum of all of it. Reading makes numbers, text, arrays, frames and instances of the
classes the caller names; no code in the file is run. Writing is atomic: a file is there whole or
not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from typing import Any

import numpy as np

from bayeslmm.errors import FileFormatError

__all__ = ["decode", "encode", "read_archive", "write_archive"]

_VERSION = 1


def encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON; its arrays go into `arrays`.

    Raises
    ------
    TypeError
        If it holds something that is not plain.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, np.generic):
        return encode(value.item(), arrays)
    if isinstance(value, np.ndarray):
        return _encode_array(value, arrays)
    if isinstance(value, list | tuple | set | frozenset):
        return {type(value).__name__: [encode(item, arrays) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, arrays), encode(v, arrays)] for k, v in value.items()]}
    kind = type(value)
    if kind.__module__.partition(".")[0] == "pandas":
        return _encode_pandas(value, arrays)
    if kind.__module__.partition(".")[0] == "bayeslmm":
        fields = {k: encode(v, arrays) for k, v in vars(value).items()}
        return {"object": kind.__name__, "fields": fields}
    raise TypeError(f"{kind.__name__} is not plain")


def _encode_array(value: np.ndarray, arrays: dict[str, np.ndarray]) -> Any:
    if value.dtype.kind in "biuf":
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {"array": name, "kind": value.dtype.kind}
    return {"labels": [encode(item, arrays) for item in value.ravel().tolist()]}


def _encode_pandas(value, arrays: dict[str, np.ndarray]) -> Any:
    import pandas as pd

    if isinstance(value, pd.Index):
        return {"index": _encode_array(value.to_numpy(), arrays)}
    if not isinstance(value, pd.DataFrame):
        raise TypeError(f"{type(value).__name__} is not plain")
    columns = []
    for name, column in value.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            levels = encode(column.cat.categories.tolist(), arrays)
            codes = _encode_array(column.cat.codes.to_numpy(np.int64), arrays)
            columns.append([name, [codes, levels, bool(column.cat.ordered)]])
        else:
            columns.append([name, _encode_array(column.to_numpy(), arrays)])
    return {"frame": columns, "rows": len(value)}


def decode(tree: Any, arrays: dict[str, np.ndarray], classes: dict[str, type]) -> Any:
    """The value that :func:`encode` was given.

    Parameters
    ----------
    classes : dict of str to type
        Classes that may be made, by name.

    Raises
    ------
    FileFormatError
        If the tree names another class.
    """
    if not isinstance(tree, dict):
        return tree
    (tag, content), *rest = tree.items()
    if tag == "float":
        return float.fromhex(content)
    if tag == "array":
        array = arrays[content]
        return array.astype(bool) if rest and rest[0][1] == "b" else array
    if tag == "labels":
        out = np.empty(len(content), dtype=object)
        out[:] = [decode(item, arrays, classes) for item in content]
        return out
    if tag == "dict":
        return {decode(k, arrays, classes): decode(v, arrays, classes) for k, v in content}
    if tag == "object":
        if content not in classes:
            raise FileFormatError(f"The file holds a {content!r}, which is not expected here.")
        made = object.__new__(classes[content])
        made.__dict__.update({k: decode(v, arrays, classes) for k, v in rest[0][1].items()})
        return made
    if tag in ("index", "frame"):
        return _decode_pandas(tag, content, rest, arrays, classes)
    collections = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return collections[tag](decode(item, arrays, classes) for item in content)


def _decode_pandas(tag, content, rest, arrays, classes):
    import pandas as pd

    if tag == "index":
        values = decode(content, arrays, classes)
        return pd.Index(values, dtype=values.dtype)
    columns = {}
    for name, column in content:
        if isinstance(column, list):
            codes, levels, ordered = column
            labels = pd.Index(decode(levels, arrays, classes), dtype=object)
            codes = decode(codes, arrays, classes)
            columns[name] = pd.Categorical.from_codes(codes, labels, ordered=ordered)
        else:
            columns[name] = decode(column, arrays, classes)
    return pd.DataFrame(columns, index=pd.RangeIndex(rest[0][1]))


def write_archive(path: str | os.PathLike, value: Any, kind: str) -> None:
    """Write a tree of plain values.

    Parameters
    ----------
    kind : str
        What it is; :func:`read_archive` must be told the same.

    Raises
    ------
    FileFormatError
        If it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    record = json.dumps({"kind": kind, "version": _VERSION, "tree": encode(value, arrays)})
    checksum = _checksum(record, arrays)
    path = os.path.abspath(os.fspath(path))
    try:
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, record=np.array(record), checksum=np.array(checksum), **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as err:
        raise FileFormatError(f"Cannot write {path!r}: {err}.") from err


def read_archive(path: str | os.PathLike, kind: str, classes: dict[str, type]) -> Any:
    """Read what :func:`write_archive` wrote.

    Raises
    ------
    FileFormatError
        If there is no such file, it is of another kind or a newer version, or damaged.
    """
    name = os.fspath(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        record, checksum = str(arrays.pop("record")), str(arrays.pop("checksum"))
        intact = checksum == _checksum(record, arrays)
        tree = json.loads(record) if intact else None
    except FileNotFoundError:
        raise FileFormatError(f"There is no file {name!r}.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as err:
        raise FileFormatError(f"{name!r} is damaged or not written by bayeslmm ({err}).") from err
    if tree is None:
        raise FileFormatError(f"{name!r} is damaged: its checksum is wrong.")
    if tree.get("kind") != kind:
        raise FileFormatError(f"{name!r} holds {tree.get('kind')!r}, not {kind!r}.")
    if tree["version"] > _VERSION:
        raise FileFormatError(f"{name!r} was written by a newer bayeslmm. Update.")
    return decode(tree["tree"], arrays, classes)


def _checksum(record: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()
