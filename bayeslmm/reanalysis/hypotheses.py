"""Hypotheses as text: ``"Days > 5"``, ``"arm[b] = arm[c]"``, ``"Days / Intercept < 0.1"``.

A text is two expressions of coefficients (of a posterior also of standard deviations and
correlations) with a relation between them. What is reported is the left side minus the right.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from bayeslmm.errors import BayesLMMError, listed, suggestion
from bayeslmm.protocols import is_posterior
from bayeslmm.results.adjustments import adjusted, correlation_of
from bayeslmm.results.tables import check_level, summarize_draws

__all__ = ["Statement", "hypothesis_table", "parse_statement"]

_OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow,
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable] = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt}
#: Step of derivatives along the imaginary axis, which lose no digits (Squire and Trapp 1998,
#: SIAM Review 40(1)).
_STEP = 1e-30


@dataclass(frozen=True)
class Statement:
    """One hypothesis.

    Attributes
    ----------
    text : str
    relation : {"<", ">", "="}
    names : tuple of str
        The parameters it mentions.
    tree : ast.expr
        Left side minus right side; parameters are the names ``v0``, ``v1``, ...
    """

    text: str
    relation: str
    names: tuple[str, ...]
    tree: ast.expr

    def difference(self, values: Mapping[str, Any]) -> Any:
        """Left minus right at values of the parameters: numbers or arrays."""
        named = {f"v{i}": values[name] for i, name in enumerate(self.names)}
        return _evaluate(self.tree, named)

    def true_in(self, difference: np.ndarray) -> np.ndarray:
        """Where a hypothesis with a direction holds."""
        return difference > 0 if self.relation == ">" else difference < 0


def parse_statement(text: str, known: Sequence[str]) -> Statement:
    """Read a hypothesis.

    Parameters
    ----------
    text : str
        Names may stand in backquotes; inside of their brackets blanks do not count, so that
        ``log(x+1)`` is the coefficient ``log(x + 1)`` where there is one. Of names that begin
        alike the longest is meant.
    known : sequence of str
        Parameters.

    Raises
    ------
    ValueError
        If it cannot be read, with what is wrong.
    """
    if not isinstance(text, str):
        raise ValueError(f'A hypothesis is text, such as "x > 0", not {text!r}.')
    names: list[str] = []
    sides, relation = [""], ""
    spelled = {name: _spelled(name) for name in sorted(known, key=len, reverse=True)}
    for token in _tokens(spelled).finditer(text):
        kind, word = token.lastgroup, token.group()
        if kind == "relation" and word not in ("<", ">", "=", "<=", ">=", "=="):
            raise ValueError(f"{word!r} in {text!r} is no relation: write <, > or =.")
        if kind == "relation" and relation:
            raise ValueError(f"{text!r} has two relations; a hypothesis has one.")
        if kind == "relation":
            relation = word
            sides.append("")
        elif kind == "name":
            bare = word.strip("`")
            same = (name for name in spelled if re.fullmatch(spelled[name], bare))
            name = word if word in known else bare if bare in known else next(same)
            if name not in names:
                names.append(name)
            sides[-1] += f"v{names.index(name)}"
        elif kind == "other":
            raise ValueError(
                f"There is no {word.strip('`')!r} in this fit, which {text!r} names."
                f"{suggestion(word.strip('`'), known)} Parameters: {listed(known)}."
            )
        else:
            sides[-1] += word
    if len(sides) != 2 or not all(side.strip() for side in sides):
        raise ValueError(
            f'{text!r} is no hypothesis: write two sides with <, > or = between, such as "x > 0".'
        )
    try:
        tree = ast.parse(f"({sides[0]}) - ({sides[1]})", mode="eval").body
        with np.errstate(all="ignore"):
            _evaluate(tree, {f"v{j}": np.float64(1) for j in range(len(names))})
    except (SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} cannot be read as arithmetic of parameters.") from None
    if not names:
        raise ValueError(f"{text!r} names no parameter. Parameters: {listed(known)}.")
    return Statement(text, relation.rstrip("=") or "=", tuple(names), tree)


def _spelled(name: str) -> str:
    """A name as a pattern, with any blanks inside of its brackets."""
    pattern, depth, before = "", 0, ""
    for blanks, sign in re.findall(r"(\s*)(\w+|\S)", name):
        if depth == 0 and sign not in "([":
            pattern += re.escape(blanks)
        else:
            words = re.match(r"\w\w", before[-1:] + sign)
            pattern += r"\s+" if blanks and words else r"\s*"
        depth += (sign in "([") - (sign in ")]")
        pattern, before = pattern + re.escape(sign), sign
    return pattern


def _tokens(spelled: Mapping[str, str]) -> re.Pattern:
    """What a hypothesis is made of, the longest names first."""
    # a name that ends like a word is not the beginning of another, such as x of x[a]
    whole = [p + (r"(?![\w\[:(])" if re.search(r"\w$", n) else "") for n, p in spelled.items()]
    names = [*whole, *(f"`{pattern}`" for pattern in spelled.values())]
    return re.compile(
        rf"(?P<name>{'|'.join(names)})|(?P<relation>!?[<>=]+)|(?P<operator>[+\-*/()]|\s+)"
        r"|(?P<number>(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?)"
        rf"|(?P<function>({'|'.join(_FUNCTIONS)})(?=\s*\())|(?P<other>`[^`]*`|[^\s<>=+\-*/()]+|.)"
    )


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return np.float64(number)
        case ast.Name(id=name):
            return values[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_evaluate(left, values), _evaluate(right, values))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_evaluate(operand, values))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return _FUNCTIONS[name](_evaluate(argument, values))
    raise TypeError


def hypothesis_table(
    fit: Any, texts: str | Sequence[str], level: float, interval: str = "eti",
    ddf: str | None = None, adjust: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """See ``hypothesis`` of both fits."""
    check_level(level, interval)
    asked: list[Any] = list(texts) if isinstance(texts, list | tuple) else [texts]
    if not asked:
        raise ValueError('There is no hypothesis: give a text, such as "x > 0".')
    if is_posterior(fit):
        if ddf is not None or adjust is not None:
            raise ValueError("ddf and adjust are of likelihood fits: a posterior needs none.")
        return _of_posterior(fit, asked, level, interval)
    return _of_likelihood(fit, asked, level, ddf, adjust)


def _of_likelihood(
    fit: Any, texts: list[str], level: float, ddf: str | None, adjust: str | None
) -> pd.DataFrame:
    names = list(fit.design.coef_names)
    statements = [parse_statement(text, names) for text in texts]
    beta = np.zeros(len(names))
    beta[fit.kept] = fit._solution.beta
    rows, values = np.zeros((len(texts), len(names))), np.zeros(len(texts))
    at = dict(zip(names, beta, strict=True))
    for i, statement in enumerate(statements):
        with np.errstate(all="ignore"):
            # of real numbers, of which those without a logarithm are found
            values[i] = statement.difference(at)
            for name in statement.names:
                moved = {n: at[n] + 1j * _STEP * (n == name) for n in statement.names}
                rows[i, names.index(name)] = np.imag(statement.difference(moved)) / _STEP
    defined = np.isfinite(rows).all(axis=1) & np.isfinite(values)
    if not defined.all():
        bad = texts[int(np.flatnonzero(~defined)[0])]
        raise ValueError(f"{bad!r} is not defined at the estimates.")
    table = fit._rows(rows, ddf, level, values - rows @ beta)
    for i, statement in enumerate(statements):
        if statement.relation != "=":
            p = table.loc[i, "p"] / 2
            towards = bool(statement.true_in(table.loc[i, "t"]))
            table.loc[i, "p"] = p if towards else 1 - p
    vcov = fit.inference(ddf).vcov

    if adjust == "tukey":
        raise ValueError('adjust="tukey" is for pairwise(): here "holm", "bonferroni" or "fdr".')
    if adjust == "dunnett" and any(s.relation != "=" for s in statements):
        raise ValueError('adjust="dunnett" is for hypotheses with "=".')
    table = adjusted(
        table,
        adjust,
        level,
        np.zeros((len(texts), 2), dtype=int),
        lambda: correlation_of(rows[:, fit.kept], vcov),
    )
    table.insert(0, "hypothesis", texts)
    return table


def _of_posterior(fit: Any, texts: list[str], level: float, interval: str) -> pd.DataFrame:
    from bayeslmm.bayes.draws import coefficient_draws, component_draws

    design = fit.model.design
    names, beta = coefficient_draws(design, fit.posterior)
    components, others = component_draws(design, fit.names, fit.posterior)
    draws = {name: beta[..., i] for i, name in enumerate(names)}
    for i, name in enumerate(components):
        draws.setdefault(name, others[..., i])
    statements = [parse_statement(text, [*draws]) for text in texts]
    with np.errstate(all="ignore"):
        differences = np.stack([s.difference(draws) for s in statements], axis=-1)
    if not np.all(np.isfinite(differences)):
        bad = int(np.flatnonzero(~np.isfinite(differences).all(axis=(0, 1)))[0])
        raise ValueError(f"{texts[bad]!r} is not defined at every draw.")
    table = summarize_draws(differences, range(len(texts)), level=level, interval=interval)
    each = [*zip(statements, np.moveaxis(differences, -1, 0), strict=True)]
    table.insert(0, "hypothesis", texts)
    table["probability"] = [
        np.nan if s.relation == "=" else float(s.true_in(d).mean()) for s, d in each
    ]
    table["bayes_factor"] = [_bayes_factor(fit, s, d, names) for s, d in each]
    return table


def _bayes_factor(fit: Any, statement: Statement, draws: np.ndarray, names: Sequence) -> float:
    """Evidence for a linear hypothesis on coefficients, NaN where there is no proper prior.

    With a direction posterior over prior odds; of a point the Savage-Dickey ratio against the
    model with the parameter free.
    """
    from bayeslmm.reanalysis.bayes_factors import savage_dickey
    from bayeslmm.reanalysis.effects import split_effect

    affine = _affine(statement, names)
    if affine is None:
        return float("nan")
    weights, value = affine
    try:
        if statement.relation == "=":
            factor = savage_dickey(fit, weights, value=value, curve=False)
            return factor.bf01
        effect = split_effect(fit.model.design, fit.priors, weights)
    except BayesLMMError:
        return float("nan")
    if not np.isfinite(effect.sd):
        return float("nan")
    below = float(ndtr((value - effect.mean) / effect.sd))
    prior = below if statement.relation == "<" else 1 - below
    n, true = draws.size, int(statement.true_in(draws).sum())
    # at most what so many draws can tell
    odds = max(true, 0.5) / max(n - true, 0.5)
    return odds * (1 - prior) / prior if prior > 0 else float("nan")


def _affine(statement: Statement, names: Sequence[str]) -> tuple[dict[str, float], float] | None:
    """Weights w and value v of left - right = w'beta - v; None where it is not of this form."""
    if any(name not in names for name in statement.names):
        return None
    used = statement.names
    rng = np.random.default_rng(1)
    with np.errstate(all="ignore"):
        constant = statement.difference(dict.fromkeys(used, np.float64(0.0)))
        weights = {
            name: float(statement.difference({n: np.float64(n == name) for n in used}) - constant)
            for name in used
        }
        trial = {
            name: np.float64(x) for name, x in zip(used, rng.normal(size=len(used)), strict=True)
        }
        found = statement.difference(trial)
    line = constant + sum(weights[name] * trial[name] for name in used)
    if not np.isclose(found, line, rtol=1e-9, atol=1e-12) or not any(weights.values()):
        return None
    return weights, -float(constant)
