"""What checks of data and fits find: a finding, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

__all__ = ["Finding", "findings_table"]


@dataclass(frozen=True)
class Finding:
    """Something to look at before a fit is trusted.

    Attributes
    ----------
    check : str
        Which check it is of, in a few words.
    finding : str
        One sentence.
    what_to_do : str
        One sentence or two.
    gross : bool
        Whether fitting warns of it, or only a check that is asked for names it.
    """

    check: str
    finding: str
    what_to_do: str
    gross: bool = False

    def __str__(self) -> str:
        return f"{self.finding} {self.what_to_do}"


def findings_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Columns ``check``, ``finding`` and ``what to do``; no row where nothing was found."""
    rows = [(f.check, f.finding, f.what_to_do) for f in findings]
    return pd.DataFrame(rows, columns=["check", "finding", "what to do"], dtype=object)
