"""Files that are there whole or not at all, and that show whether they were damaged.

A file is written beside its place, brought to the disk and then renamed, so that whatever happens
in between (a full disk, a stopped process) leaves an older file as it was. A seal at its end is a
checksum of all bytes before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import BinaryIO

from bayeslmm.errors import FileFormatError, suggestion

__all__ = [
    "UnfailingFile",
    "file_name",
    "is_formula",
    "is_intact",
    "no_file",
    "replacing",
    "seal",
    "write_all",
    "write_text",
]

_MARK = b"\nsha256 of all before, by bayeslmm: "
_SEAL_BYTES = len(_MARK) + 64 + 1
_CHUNK = 1 << 20


def is_formula(text: str) -> bool:
    """Whether what stands in the place of a file is a formula, and no path in a home."""
    return "~" in text and not text.startswith("~")


def no_file(path: str) -> str:
    """The sentence that a file is not there, and which of a like name is in its folder."""
    folder, name = os.path.split(path)
    try:
        there = os.listdir(folder or ".")
    except OSError:
        there = []
    return f"There is no file {path!r}.{suggestion(name, there)}"


def file_name(path: str | os.PathLike) -> str:
    """The path as text.

    Raises
    ------
    FileFormatError
        If it is not a path.
    """
    try:
        name = os.fspath(path)
    except TypeError:
        raise FileFormatError(
            f"A path is needed, text such as 'fit.nc' or a pathlib.Path, not {path!r}."
        ) from None
    if not isinstance(name, str):
        name = os.fsdecode(name)
    if not name or "\0" in name:
        raise FileFormatError(f"A path is needed, and {name!r} is none.")
    return name


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[io.FileIO]:
    """A new file, unbuffered, that takes the place of `path` once all of it is on the disk.

    Raises
    ------
    FileFormatError
        If it cannot be written; what was there before is unchanged.
    """
    name = file_name(path)
    target = os.path.realpath(name)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise FileFormatError(f"Cannot write {name!r}: there is something that is not a file.")
    folder, base = os.path.split(target)
    temporary = os.path.join(folder, f".{base[:40]}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "x+b", buffering=0) as file:
            try:
                yield file
                os.fsync(file.fileno())
                file.close()
                if os.path.exists(target):
                    shutil.copymode(target, temporary)
                os.replace(temporary, target)
            except BaseException:
                file.close()
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        _sync_folder(folder)
    except (OSError, UnicodeError) as err:
        raise FileFormatError(
            f"Cannot write {name!r}: {getattr(err, 'strerror', None) or err}."
        ) from err


def _sync_folder(folder: str) -> None:
    """Bring the new name to the disk too, where the system lets folders be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class UnfailingFile(io.RawIOBase):
    """A file no write to which fails: HDF5 does not survive one that does.

    From the first write that the disk refuses on, the content is in memory, and
    :meth:`raise_failure` tells of it once the library has closed its file.

    Parameters
    ----------
    file : binary file, unbuffered
        Open for reading and writing.
    """

    def __init__(self, file: io.FileIO):
        self._file: io.FileIO | io.BytesIO = file
        self._failure: OSError | None = None

    def raise_failure(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._failure is not None:
            raise self._failure

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer) -> int:
        return self._file.readinto(buffer)

    def write(self, data) -> int:
        start = self.tell()
        try:
            write_all(self._file, data)
        except OSError as err:
            self._to_memory(err)
            self._file.seek(start)
            self._file.write(data)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        try:
            self._file.truncate(size)
        except OSError as err:
            self._to_memory(err)
        if self._failure is not None:  # in memory, where truncating does not extend
            self._file.write(bytes(max(size - self._file.seek(0, os.SEEK_END), 0)))
        return size

    def _to_memory(self, err: OSError) -> None:
        self._failure = err
        self._file.seek(0)
        self._file = io.BytesIO(self._file.read())


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; devices and pipes are written to.

    Raises
    ------
    FileFormatError
        If it cannot be written.
    """
    name = file_name(path)
    content = text.encode("utf-8", "replace")
    if not os.path.exists(name) or os.path.isfile(name):
        with replacing(name) as file:
            write_all(file, content)
        return
    try:
        with open(name, "wb", buffering=0) as file:
            write_all(file, content)
    except OSError as err:
        raise FileFormatError(f"Cannot write {name!r}: {err.strerror or err}.") from err


def write_all(file: BinaryIO | io.FileIO | io.BytesIO, content: bytes | memoryview) -> None:
    """Write to an unbuffered file, which may take less than it is given."""
    view = memoryview(content).cast("B")
    while len(view):
        view = view[file.write(view) :]


def seal(file: BinaryIO) -> None:
    """Write the checksum of a file at its end."""
    size = file.seek(0, os.SEEK_END)
    write_all(file, _MARK + _checksum(file, size).encode() + b"\n")


def is_intact(file: BinaryIO) -> bool | None:
    """Whether all of a file is as it was sealed; None where it has no seal."""
    size = file.seek(0, os.SEEK_END) - _SEAL_BYTES
    if size < 0:
        return None
    file.seek(size)
    found = file.read(_SEAL_BYTES)
    if not found.startswith(_MARK):
        return None
    return found == _MARK + _checksum(file, size).encode() + b"\n"


def _checksum(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while size:
        chunk = file.read(min(_CHUNK, size))
        if not chunk:
            break
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()
