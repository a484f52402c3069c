"""LaTeX of a model to MathML, which browsers show without any script or font from elsewhere.

Names from the data stand in ``\\text{}``. They are taken out before the conversion and put back
escaped, so that no column name can become markup.
"""

from __future__ import annotations

import html
import re
from itertools import count

__all__ = ["equation_rows"]

_UNESCAPE = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\_": "_",
    r"\&": "&",
    r"\%": "%",
    r"\$": "$",
    r"\#": "#",
    r"\{": "{",
    r"\}": "}",
}
_ESCAPED = re.compile("|".join(re.escape(key) for key in sorted(_UNESCAPE, key=len, reverse=True)))


def equation_rows(latex: str) -> list[tuple[str, str]]:
    """Left and right sides, as MathML, of each line of an ``aligned`` environment.

    Parameters
    ----------
    latex : str

    Returns
    -------
    list of (str, str)
        Safe to put into HTML as they are.

    Examples
    --------
    >>> rows = equation_rows(r"y_{i} &= \\beta_{0} \\\\ \\sigma &> 0")
    >>> len(rows), rows[0][0].startswith("<math")
    (2, True)
    """
    body = re.sub(r"\\(begin|end)\{aligned\}", "", latex).strip()
    body, names = _take_names(body)
    rows = []
    for line in re.split(r"\\\\", body):
        cells = [cell.strip() for cell in line.split("&")]
        left, right = (cells[0], " ".join(cells[1:])) if len(cells) > 1 else ("", cells[0])
        rows.append((_mathml(left, names), _mathml(right, names)))
    return rows


def _take_names(latex: str) -> tuple[str, dict[str, str]]:
    """Replace what stands in ``\\text{}`` by letters that cannot be mistaken for anything."""
    out, names, numbers, at = [], {}, count(), 0
    while (start := latex.find(r"\text{", at)) >= 0:
        end, depth = start + 6, 1
        while end < len(latex) and depth:
            if latex[end] == "\\":
                end += 1
            else:
                depth += {"{": 1, "}": -1}.get(latex[end], 0)
            end += 1
        token = "QQ" + "".join(chr(ord("A") + int(digit)) for digit in str(next(numbers))) + "QQ"
        content = latex[start + 6 : end - 1]
        names[token] = _ESCAPED.sub(lambda match: _UNESCAPE[match.group()], content)
        out += [latex[at:start], rf"\text{{{token}}}"]
        at = end
    return "".join([*out, latex[at:]]), names


def _mathml(latex: str, names: dict[str, str]) -> str:
    from latex2mathml.converter import convert

    if not latex:
        return ""
    markup = convert(latex)
    for token, name in names.items():
        markup = markup.replace(token, html.escape(name))
    return markup
