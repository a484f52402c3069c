"""What an HDF5 file must be made of before it is read as a fit.

HDF5 can point to other files (external links, external storage, virtual datasets), run filters
from plug-ins and declare arrays of any size in a few bytes. A saved fit needs none of this, so
a file that does is refused before any array is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bayeslmm.errors import FileFormatError

if TYPE_CHECKING:
    import h5py

__all__ = ["check_structure"]

#: deflate, shuffle, Fletcher checksum.
_FILTERS = {1, 2, 3}
#: Deflate takes at most 1032 bytes into one.
_MOST_COMPRESSED = 1032
#: Bytes of all arrays in memory, per byte of the file and besides.
_MOST_GROWTH, _ALLOWANCE = 100, 1e8
_MOST_GROUPS = 1000
_NOT_A_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"


def check_structure(opened: h5py.File, size: int) -> None:
    """Refuse what a saved fit does not have.

    Parameters
    ----------
    opened : h5py.File
    size : int
        Bytes of the file.

    Raises
    ------
    FileFormatError
        On links, arrays in other files, unknown types and filters, and sizes that the bytes of
        the file cannot hold.
    """
    total = sum(_bytes_in_memory(name, dataset) for name, dataset in _datasets(opened))
    if total > _MOST_GROWTH * size + _ALLOWANCE:
        raise FileFormatError(
            f"its arrays would take {total / 1e9:.1f} GB, which {size} bytes do not hold."
        )


def _datasets(root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """All datasets of a file, none of which is reached twice."""
    import h5py

    waiting, seen = [root], {root}
    while waiting:
        group = waiting.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise FileFormatError(f"{where!r} is a link to somewhere else, which is not read.")
            item = group[name]
            if item in seen or len(seen) > 100 * _MOST_GROUPS:
                raise FileFormatError(f"{where!r} is there twice.")
            seen.add(item)
            if isinstance(item, h5py.Group):
                waiting.append(item)
                if len(waiting) > _MOST_GROUPS or where.count("/") > 20:
                    raise FileFormatError("it has too many groups.")
            elif isinstance(item, h5py.Dataset):
                yield where, item
            else:
                raise FileFormatError(f"{where!r} is not an array.")


def _bytes_in_memory(name: str, dataset: h5py.Dataset) -> float:
    """Bytes an array will take.

    Raises
    ------
    FileFormatError
        If it is of a kind that is not read, or larger than its part of the file can be.
    """
    import h5py

    if dataset.external or dataset.is_virtual:
        raise FileFormatError(f"{name!r} has its values in another file, which is not read.")
    text = h5py.check_string_dtype(dataset.dtype) is not None
    if not text and (dataset.dtype.kind not in "biuf" or dataset.dtype.subdtype):
        raise FileFormatError(f"{name!r} is an array of {dataset.dtype}, not of numbers or text.")
    layout = dataset.id.get_create_plist()
    filters = {layout.get_filter(at)[0] for at in range(layout.get_nfilters())}
    if not filters <= _FILTERS:
        raise FileFormatError(f"{name!r} is stored with a filter that is not used here.")
    shape = dataset.shape or ()
    width = dataset.id.get_type().get_size()
    stored = dataset.id.get_storage_size()
    if not stored and _NOT_A_VARIABLE in _bytes(dataset.attrs.get("NAME", b"")):
        return 0.0  # the length of a dimension, of which no values are read
    needed = math.prod(shape) * width
    if needed > (_MOST_COMPRESSED if 1 in filters else 1) * stored + 4096:
        raise FileFormatError(f"{name!r} declares {needed:.2g} bytes and has {stored}.")
    if dataset.chunks and math.prod(dataset.chunks) > max(math.prod(shape), 1024):
        raise FileFormatError(f"{name!r} has chunks that are larger than itself.")
    return float(needed)


def _bytes(value) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
