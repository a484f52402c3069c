"""What can be told of options before anything is read or fitted."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["QUOTES", "check_options", "levels_by_column", "missing_by_column", "refuse_gaps"]

QUOTES = (
    "In the shell write the formula in single quotes, '`pain score` ~ week': inside double "
    "quotes the shell runs what stands in backquotes, and nothing is left of it."
)
_QUOTED = re.compile(r"`[^`]*`|'[^']*'|\"[^\"]*\"")
#: Two signs with nothing in between, or nothing at an end; two blanks before a minus.
_GAP = re.compile(
    r"^\s*~|~\s*$|[+*/:^|(,-]\s*$|[~+*/:^(|,-]\s*[+*/:^|),]|[~+*:(|]\s{2,}-|~\s*\||^\s*of\b"
)


def check_options(given: Mapping[str, Any]) -> None:
    """Refuse options that are none, whatever the data.

    Parameters
    ----------
    given : mapping of str to object
        Options of a command, of which it may have some only.

    Raises
    ------
    ValueError
        If one is none of those there are, or options exclude each other.
    """
    from bayeslmm.bayes.choice import METHODS, PARAMETERIZATIONS
    from bayeslmm.cli.tables import FORMATS
    from bayeslmm.errors import one_of
    from bayeslmm.fits.likelihood_tests import check_ddf
    from bayeslmm.parts.families import FAMILIES, family_of
    from bayeslmm.results.tables import check_level

    _refuse_words(given["data"], given["formula"])
    check_level(given["level"])
    one_of("family", given["family"], tuple(FAMILIES))
    family = family_of(given["family"], given["link"])
    one_of("random", given["random"], ("gaussian", "student"))
    one_of("--method", given["method"], tuple(METHODS))
    one_of("--parameterization", given.get("parameterization", "auto"), tuple(PARAMETERIZATIONS))
    one_of("random_effects", given.get("random_effects", "draws"), ("draws", "summary"))
    one_of("--format", given.get("format", "table"), FORMATS)
    reml, ml = given.get("reml"), given.get("ml")
    if reml and ml:
        raise ValueError("--reml and --ml exclude each other.")
    if given.get("n_quadrature", 1) > 1 and not ml:
        raise ValueError("--n-quadrature goes with --ml.")
    ddf = check_ddf(given.get("ddf"))
    if ddf and not (reml or ml):
        raise ValueError("--ddf goes with --reml or --ml: a posterior has no degrees of freedom.")
    if ddf not in (None, "normal") and not family.gaussian:
        raise ValueError(
            f"--ddf {ddf} is for Gaussian responses, and the family is {given['family']}: leave it "
            "out, tests are by the normal distribution."
        )
    if ddf == "kenward-roger" and ml:
        raise ValueError(
            "--ddf kenward-roger adjusts a REML fit: use --reml, or --ddf satterthwaite with --ml."
        )
    refuse_gaps(given["formula"])


def _refuse_words(data: Sequence[str], formula: str) -> None:
    """Refuse a formula in the place of the data, or in several arguments.

    Raises
    ------
    FormulaError
    """
    from bayeslmm.errors import FormulaError
    from bayeslmm.files import is_formula

    if "~" in formula:
        return
    first, *others = data
    if is_formula(first):
        shown = " ".join([*others, formula])
        raise FormulaError(f"The data come first, then the formula: {shown} {first!r}.")
    home = os.path.expanduser("~")  # what the shell makes of a sign that stands alone
    if any(text == home or "~" in text for text in others):
        words = ["~" if text == home else text for text in [*others, formula]]
        raise FormulaError(
            "Put the formula in quotes, so that the shell passes it as one argument: "
            f"{first} {' '.join(words)!r}."
        )


def refuse_gaps(formula: str) -> None:
    """Refuse a formula with an empty place, as the shell leaves where backquotes were.

    Raises
    ------
    FormulaError
    """
    from bayeslmm.errors import FormulaError

    bare = _QUOTED.sub("x", formula).replace("||", "|").replace("**", "^").replace("//", "/")
    if _GAP.search(bare):
        raise FormulaError(
            f"The formula {formula!r} has an empty place, as if a name were missing. {QUOTES}"
        )


def levels_by_column(texts: Sequence[str] | None) -> dict[str, str]:
    """``COLUMN=LEVEL`` to levels by column.

    Raises
    ------
    ValueError
        If a text is not of that form.
    """
    found = {}
    for text in texts or []:
        name, equals, level = text.partition("=")
        if not (equals and name.strip() and level.strip()):
            raise ValueError(f"--reference {text!r}: write COLUMN=LEVEL, such as arm=placebo.")
        found[name.strip().strip("`")] = level.strip()
    return found


def missing_by_column(given: Sequence[str]) -> str | dict[str, str]:
    """One of the words, or formulas by the covariate on their left side.

    Raises
    ------
    ValueError
        If a word stands beside formulas.
    """
    if len(given) == 1 and "~" not in given[0]:
        return given[0]
    if words := [text for text in given if "~" not in text]:
        raise ValueError(f"--missing {words[0]} is no formula, and stands beside others.")
    return {text.split("~")[0].strip().strip("`"): text for text in given}
