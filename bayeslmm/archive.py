"""Trees of plain values and arrays in one file, that reading turns into nothing else.

A file is an npz archive: a record in JSON that refers to arrays by number, the arrays, a version
and a checksum of all of it. Reading makes numbers, text, arrays, frames and instances of the
classes the caller names; no code in the file is run. Writing is atomic: a file is there whole or
not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, BinaryIO

import numpy as np

from bayeslmm.errors import FileFormatError
from bayeslmm.files import file_name, no_file, replacing

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
        return _made(classes[content], decode({"dict": [*rest[0][1].items()]}, arrays, classes))
    if tag in ("index", "frame"):
        return _decode_pandas(tag, content, rest, arrays, classes)
    collections = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return collections[tag](decode(item, arrays, classes) for item in content)


def _made(kind: type, values: dict[str, Any]):
    """An instance of a class with these attributes.

    Raises
    ------
    FileFormatError
        If they are not all that it has.
    """
    known = fields(kind) if is_dataclass(kind) else ()
    if not {field.name for field in known if field.default is MISSING} <= values.keys():
        raise FileFormatError(f"The file holds a {kind.__name__!r} with parts missing.")
    made: Any = object.__new__(kind)
    made.__dict__.update(values)
    return made


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
    arrays: dict[str, Any] = {}
    record = json.dumps({"kind": kind, "version": _VERSION, "tree": encode(value, arrays)})
    checksum = _checksum(record, arrays)
    with replacing(path) as file:
        buffered = io.BufferedRandom(file)
        np.savez(buffered, record=np.array(record), checksum=np.array(checksum), **arrays)
        buffered.detach()  # which writes what is left in it


def read_archive(path: str | os.PathLike, kind: str, classes: dict[str, type]) -> Any:
    """Read what :func:`write_archive` wrote.

    Raises
    ------
    FileFormatError
        If there is no such file, it is of another kind or a newer version, or damaged.
    """
    name = file_name(path)
    try:
        with open(name, "rb") as file:
            arrays = _arrays_of(file)
        record, checksum = str(arrays.pop("record")), str(arrays.pop("checksum"))
        if checksum != _checksum(record, arrays):
            raise FileFormatError("its checksum is wrong.")
        found = json.loads(record)
        if found.get("kind") != kind:
            raise FileFormatError(f"it holds {found.get('kind')!r}, not {kind!r}.")
        if found["version"] > _VERSION:
            raise FileFormatError("it was written by a newer bayeslmm. Update.")
        return decode(found["tree"], arrays, classes)
    except FileNotFoundError:
        raise FileFormatError(no_file(name)) from None
    except FileFormatError as err:
        raise FileFormatError(f"{name!r} cannot be read: {err}") from err
    except Exception as err:  # what does not fit together shows itself in many ways
        raise FileFormatError(f"{name!r} is damaged or not written by bayeslmm ({err}).") from err


def _arrays_of(file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of an npz file, none larger than its part of the file.

    Raises
    ------
    FileFormatError
        If one is stored otherwise than :func:`write_archive` does.
    """
    size = file.seek(0, os.SEEK_END)
    arrays = {}
    with zipfile.ZipFile(file) as members:
        for member in members.infolist():
            size -= member.file_size
            if member.compress_type != zipfile.ZIP_STORED or size < 0:
                raise FileFormatError("its arrays are larger than the file.")
            with members.open(member) as stream:
                major, _ = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0
                if major > 1:
                    read = np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
                if math.prod(shape) * dtype.itemsize > member.file_size:
                    raise FileFormatError("an array is larger than its part of the file.")
            with members.open(member) as stream:
                name = member.filename.removesuffix(".npy")
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _checksum(record: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()
