"""What labels that are text say: numbers in them, their order, and which look alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = [
    "about_commas",
    "as_numbers",
    "labels_alike",
    "natural_order",
    "spaced_evenly",
    "stray_words",
    "time_order",
    "words_among_numbers",
]

#: A number in a label; the minus of "day -7" is its sign, those of 2020-01-31 and T-1 are not.
_NUMBER = re.compile(r"((?:(?<=\s)|^)[-+]\d+(?:\.\d+)?|\d+(?:\.\d+)?)")
_COMMA = re.compile(r"^(\s*[-+]?\d+),(\d+\s*)$")
#: Read with a decimal comma it would be a thousandth of what may be meant.
_PERHAPS_THOUSANDS = re.compile(r"\s*[-+]?[1-9]\d{0,2},\d{3}\s*")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+(,\d+)?\s*")


def as_numbers(labels: Sequence[str]) -> np.ndarray | None:
    """The numbers that all labels are, with a point or a decimal comma, or None."""
    text = pd.Series(labels, dtype=object)
    values = pd.to_numeric(text, errors="coerce").to_numpy(dtype=float)
    if not np.isnan(values).any():
        return values
    if all(_DECIMAL_COMMA.fullmatch(label) for label in labels):
        return text.str.replace(",", ".").to_numpy(dtype=float)
    return None


def about_commas(numbers: Sequence[str]) -> str:
    """What the commas in labels that are numbers may be, and what to do; empty without any."""
    having = [label for label in numbers if "," in label]
    if not having:
        return ""
    read = 'read the file with decimal="," (in the shell --decimal ,)'
    if all(_PERHAPS_THOUSANDS.fullmatch(label) for label in having):
        return (
            f"commas that may stand between thousands, such as {having[0]!r}: take them out of the "
            f"file; only if they are decimal signs {read}"
        )
    return f"decimal commas: {read}"


def _are_numbers(labels: Sequence[str]) -> np.ndarray:
    """Which labels are numbers, with a point or a decimal comma, shape (n,)."""
    text = pd.Series(labels, dtype=object).str.replace(_COMMA, r"\1.\2", regex=True)
    return pd.to_numeric(text, errors="coerce").notna().to_numpy()


def words_among_numbers(levels: Sequence[str]) -> list[str]:
    """Levels that are not numbers, where most are; such as one mistyped value in a CSV file."""
    numeric = _are_numbers(levels)
    if numeric.all() or 2 * numeric.sum() <= len(levels):
        return []
    return [level for level, number in zip(levels, numeric, strict=True) if not number]


def stray_words(column: pd.Series, otherwise: str) -> str:
    """What keeps a factor, most rows of which are numbers, from being one, in sentences.

    Then what to do `otherwise`, unless it is decimal commas; where most rows are words, or the
    column is true/false, nothing else.
    """
    if column.dtype == bool:
        return otherwise
    counts = column.value_counts()
    labels = [str(label) for label in counts.index[counts > 0]]
    rows = counts[counts > 0].to_numpy()
    numeric = _are_numbers(labels)
    if rows[~numeric].sum() > len(column) / 2:
        return otherwise
    words = [label for label, number in zip(labels, numeric, strict=True) if not number]
    text = " Each of its values reads as a number."
    if words:
        text = (
            " Among its numbers there are values that are not: "
            f"{', '.join(map(repr, words[:3]))}. Where such a value stands for a missing one, say "
            f"so: na=[{words[0]!r}] of blm.scan, in the shell --na {words[0]!r}."
        )
    numbers = [label for label, number in zip(labels, numeric, strict=True) if number]
    if said := about_commas(numbers):
        return f"{text} Its numbers have {said}."
    return text + otherwise


def natural_order(labels: Sequence[str]) -> list[str]:
    """Labels sorted with numbers in them by size: week 2 before week 10."""
    values = as_numbers(labels)
    if values is not None:
        return [labels[i] for i in np.argsort(values, kind="stable")]
    return sorted(labels, key=_parts)


def time_order(levels: Sequence) -> list:
    """Levels of a time: text in alphabetical order by its numbers, others as they are.

    An order of categories that is not alphabetical is somebody's own.
    """
    levels = list(levels)
    text = all(isinstance(level, str) for level in levels)
    return natural_order(levels) if text and levels == sorted(levels) else levels


def spaced_evenly(labels: Sequence[str]) -> bool:
    """Whether labels in order are one text with numbers at equal distances in it."""
    values = as_numbers(labels)
    if values is None:
        parts = [_parts(label) for label in labels]
        if any(len(p) != 3 for p in parts) or len({(p[0], p[2]) for p in parts}) > 1:
            return False
        values = np.array([p[1] for p in parts])
    gaps = np.diff(values)
    return bool(np.allclose(gaps, gaps[0], rtol=1e-9)) if len(gaps) else True


def labels_alike(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of different labels that are the same but for spaces and invisible characters."""
    text = "".join(labels)
    if text.isascii() and text.split() in ([], [text]) and len(set(labels)) == len(labels):
        return []  # the usual case, in one look
    first: dict[str, str] = {}
    pairs = []
    for label in labels:
        key = " ".join(label.split())
        if not key.isascii():
            visible = "".join(c for c in key if unicodedata.category(c) != "Cf")
            key = " ".join(unicodedata.normalize("NFC", visible).split())
        if key in first:
            pairs.append((first[key], label))
        first.setdefault(key, label)
    return pairs


def _parts(label: str) -> tuple:
    """Texts and numbers of a label in turn, a text first and last."""
    return tuple(float(p) if i % 2 else p for i, p in enumerate(_NUMBER.split(label)))
