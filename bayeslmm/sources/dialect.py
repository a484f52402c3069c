"""How a text file is written: separator, decimal sign, encoding, what stands for a missing value.

What is not said is looked for in the beginning of the file, and taken only where it can be read
in one way; otherwise the file is refused with the options that say it.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bayeslmm.errors import DataError
from bayeslmm.files import no_file

__all__ = [
    "MISSING", "Dialect", "TextOptions", "bare_names", "dialects_of", "notices", "numbers_of",
    "undecodable",
]  # fmt: skip

#: Bytes of a file that are looked at.
_SAMPLE = 1 << 20
_SEPARATORS = (",", ";", "\t", "|")
_WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
#: What pandas.read_csv takes for missing.
MISSING = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
_NUMBER = re.compile(r"\s*[-+]?\d+([.,])\d+([eE][-+]?\d+)?\s*")
#: A number whose sign may as well stand between thousands: 1.234 or 1,234.
_PERHAPS_THOUSANDS = re.compile(r"\s*[-+]?[1-9]\d{0,2}[.,]\d{3}\s*")
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class TextOptions:
    """What is said of text files; None is looked for.

    Attributes
    ----------
    sep, decimal, encoding : str, optional
    na : sequence of str
        Values that stand for missing ones, besides the usual.

    Raises
    ------
    DataError
        If one of them cannot be.
    """

    sep: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    na: Sequence[str] = ()

    def __post_init__(self):
        if self.sep is not None:
            object.__setattr__(self, "sep", _WORDS.get(self.sep, self.sep))
            if len(self.sep) != 1:
                raise DataError(
                    f'The separator of columns must be one sign, such as ";", or "tab", not '
                    f"{self.sep!r}."
                )
        if self.decimal not in (None, ".", ","):
            raise DataError(f'decimal must be "." or ",", not {self.decimal!r}.')
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise DataError(
                    f"There is no encoding {self.encoding!r}. Usual ones are utf-8, cp1252 "
                    "(Windows), latin1 and mac-roman."
                ) from None

    @property
    def given(self) -> bool:
        """Whether anything is said."""
        return any((self.sep, self.decimal, self.encoding, self.na))


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes
    ----------
    sep, decimal, encoding : str
    missing : tuple of str
        Spellings of missing values, with blanks around them too.
    absent : tuple of float
        Numbers among them, which are missing values however they are written.
    padded : bool
        Whether names of columns have blanks at their ends, which are no part of them.
    notice : str
        What was found out and differs from commas, points and UTF-8, as a sentence.
    """

    sep: str
    decimal: str
    encoding: str
    missing: tuple[str, ...]
    absent: tuple[float, ...] = ()
    padded: bool = False
    notice: str = ""

    @classmethod
    def of(cls, file: str, said: TextOptions) -> Dialect:
        """The dialect of `file`.

        Raises
        ------
        DataError
            If the decimal sign can be read in two ways, the header has no columns, cannot be
            decoded or has names that differ in blanks only, or the file cannot be read.
        """
        raw = _beginning(file)
        found = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
        encoding = said.encoding or found
        text = raw.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
        lines = text.splitlines()
        header = lines[0] if lines else ""
        if "\ufffd" in header:
            raise undecodable(file, encoding, raw)
        sep = said.sep or _separator(file, header)
        decimal = said.decimal or _decimal(file, lines[1:], sep)
        notes = []
        if said.sep is None and sep != _usual(file):
            notes.append(f"columns are separated by {_shown(sep)}")
        if said.decimal is None and decimal != ".":
            notes.append(f"decimals by {decimal!r}")
        if said.encoding is None and encoding != "utf-8":
            notes.append(f"its encoding is {encoding}")
        names = _fields(header, sep)
        bare = zip(names, bare_names(file, names), strict=True)
        if padded := [name for name, short in bare if name != short]:
            notes.append(f"names of columns have blanks at their ends ({padded[0]!r})")
        missing = {f"{a}{word}{b}" for word in MISSING | set(said.na) for a in ("", " ")
                   for b in ("", " ")}  # fmt: skip
        missing |= {" " * n for n in range(3, 17)}
        notice = f"In {file!r} {', '.join(notes)}; it was read so." if notes else ""
        absent = tuple(number for text in said.na for number in numbers_of(text, decimal))
        return cls(sep, decimal, encoding, tuple(sorted(missing)), absent, bool(padded), notice)

    @property
    def way(self) -> tuple:
        """What makes it another one than that of a file that is written alike."""
        return self.sep, self.decimal, self.encoding, self.padded

    def header(self, file: str) -> list[str]:
        """Names of the columns of a file of this dialect, without blanks at their ends.

        Raises
        ------
        DataError
            As :func:`bare_names`.
        """
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        lines = _beginning(file).decode(encoding, "replace").splitlines()
        return bare_names(file, _fields(lines[0], self.sep) if lines else [])


def dialects_of(files: Sequence[str], said: TextOptions) -> dict[str, Dialect]:
    """The dialect of each file; what one leaves open is as in the first.

    Raises
    ------
    DataError
        As :meth:`Dialect.of`.
    """
    first = Dialect.of(files[0], said)
    found = {files[0]: first}
    for file in files[1:]:
        try:
            found[file] = Dialect.of(file, said)
        except DataError:
            as_first = replace(
                said, sep=said.sep or first.sep, decimal=said.decimal or first.decimal
            )
            found[file] = Dialect.of(file, as_first)
    return found


def notices(dialects: Iterable[Dialect]) -> list[str]:
    """What was found out, once for files that are written alike."""
    told: dict[tuple, str] = {}
    for dialect in dialects:
        if dialect.notice:
            told.setdefault(dialect.way, dialect.notice)
    return list(told.values())


def bare_names(file: str, names: Sequence[str]) -> list[str]:
    """Names of columns without blanks at their ends.

    Raises
    ------
    DataError
        If two are then the same that were not.
    """
    bare = [name.strip() for name in names]
    for name in bare:
        if name and len({one for one in names if one.strip() == name}) > 1:
            raise DataError(
                f"{file!r} has columns {name!r} that differ only in blanks at the ends of their "
                "names. Rename one."
            )
    return bare


def _beginning(file: str) -> bytes:
    """Whole lines at the beginning of a file, which may be compressed."""
    import pyarrow as pa

    try:
        with pa.input_stream(file, compression="detect") as stream:
            raw = stream.read(_SAMPLE)
    except FileNotFoundError:
        raise DataError(no_file(file)) from None
    except (OSError, pa.ArrowInvalid) as err:
        raise DataError(
            f"The file {file!r} cannot be read: it is damaged, incomplete or of another format "
            f"({err}). Nothing of it was used."
        ) from err
    return raw if len(raw) < _SAMPLE else raw[: raw.rfind(b"\n") + 1]


def numbers_of(text: str, decimal: str) -> list[float]:
    """The number that a text is where `decimal` is the decimal sign, or none."""
    number = re.fullmatch(rf"\s*[-+]?\d+([{decimal}]\d+)?\s*", text)
    return [float(text.replace(decimal, "."))] if number else []


def _usual(file: str) -> str:
    return "\t" if ".tsv" in "".join(Path(file).suffixes[-2:]).lower() else ","


def _fields(line: str, sep: str) -> list[str]:
    return next(csv.reader([line], delimiter=sep), [])


def _separator(file: str, header: str) -> str:
    """The usual one; where it separates nothing, the one that does."""
    usual = _usual(file)
    if len(_fields(header, usual)) > 1:
        return usual
    others = [sep for sep in _SEPARATORS if sep != usual and len(_fields(header, sep)) > 1]
    if len(others) > 1:
        raise DataError(
            f"The header of {file!r}, {header[:80]!r}, can be separated by "
            f"{' or by '.join(map(_shown, others))}. Say by which: sep={others[0]!r}, in the "
            f"shell --sep {_shown(others[0])}."
        )
    return others[0] if others else usual


def _decimal(file: str, lines: list[str], sep: str) -> str:
    """A point, or a comma where numbers have commas and none has a point.

    Between commas one inside quotes may be anything: a decimal, thousands, a list.
    """
    if sep == ",":
        return "."
    seen: dict[str, list[str]] = {".": [], ",": []}
    sure = set()
    for row in csv.reader(lines, delimiter=sep):
        for cell in row:
            if match := _NUMBER.fullmatch(cell):
                seen[match[1]].append(cell.strip())
                if not _PERHAPS_THOUSANDS.fullmatch(cell):
                    sure.add(match[1])
    used = [sign for sign, cells in seen.items() if cells]
    if not used:
        return "."
    if len(used) == 1 and sure:
        return used[0]
    shown = " and ".join(repr(seen[sign][0]) for sign in used)
    why = "both signs" if len(used) > 1 else "which may be decimals or thousands"
    raise DataError(
        f"The file {file!r} has numbers such as {shown}, {why}. Say what separates decimals: "
        'decimal="," or decimal=".", in the shell --decimal , or --decimal . (Signs between '
        "thousands have to be taken out of the file.)"
    )


def _shown(sep: str) -> str:
    return "tab" if sep == "\t" else repr(sep)


def undecodable(file: str, encoding: str, raw: bytes | None = None) -> DataError:
    """The error for text that is not in its encoding, with a word of it as Windows would read it.

    Parameters
    ----------
    file, encoding : str
    raw : bytes, optional
        The beginning of the file.
    """
    raw = _beginning(file) if raw is None else raw
    word = re.search(rb'[^\s,;|"]*[\x80-\xff][^\s,;|"]*', raw)
    read = word[0].decode("cp1252", "replace") if word else ""
    shown = f" (it reads {read!r} then)" if read else ""
    return DataError(
        f"The file {file!r} is not in {encoding.upper()}. Programs of Windows often write "
        f'cp1252{shown}: say encoding="cp1252", in the shell --encoding cp1252, or save the file '
        "as UTF-8."
    )
