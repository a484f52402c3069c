"""Random mixed models: data, formula, and the matrices the formula means, made without the package.

Each term carries its text and a function that makes its columns, so that the package's reading of
formulas, its coding and its names are checked together with its numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from tests.fuzz.dense import DenseModel, Part, basis

__all__ = ["Case", "FixedTerm", "RandomTerm", "draw_case"]

#: Columns of numbers, by how far from zero they lie.
_NUMBERS = ("x", "z", "u", "year")


@dataclass(frozen=True)
class FixedTerm:
    """A term of the fixed part: its text and columns that span it."""

    text: str
    columns: Callable[[pd.DataFrame], np.ndarray]


@dataclass(frozen=True)
class RandomTerm:
    """A random term: its text, grouping columns, and named columns of its effects."""

    text: str
    groups: tuple[str, ...]
    effects: Callable[[pd.DataFrame], dict[str, np.ndarray]]
    correlated: bool = True

    @property
    def group(self) -> str:
        """Name of the grouping factor."""
        return ":".join(self.groups)


@dataclass(frozen=True)
class Case:
    """A model to fit, and what it is checked against."""

    seed: int
    data: pd.DataFrame = field(repr=False)
    fixed: tuple[FixedTerm, ...]
    random: tuple[RandomTerm, ...]
    intercept: bool = True
    offset: str | None = None
    weights: str | None = None
    relationship: dict | None = field(default=None, repr=False)
    residual: str | None = None
    sigma: str | None = None

    @property
    def formula(self) -> str:
        """As the package takes it."""
        terms = ["1" if self.intercept else "0", *(term.text for term in self.fixed)]
        terms += [f"offset({self.offset})"] if self.offset else []
        return "y ~ " + " + ".join([*terms, *(term.text for term in self.random)])

    @property
    def options(self) -> dict:
        """Arguments of the model beside formula and data."""
        named = {
            "weights": self.weights,
            "relationship": self.relationship,
            "residual": self.residual,
            "sigma": self.sigma,
        }
        return {key: value for key, value in named.items() if value is not None}

    def __str__(self) -> str:
        extra = {k: ("..." if k == "relationship" else v) for k, v in self.options.items()}
        return f"seed={self.seed} n={len(self.rows)} {self.formula!r} {extra or ''}".rstrip()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows used: complete in every used column, of positive weight."""
        used = [c for c in self.data.columns if self.uses(c)]
        rows = self.data.dropna(subset=used)
        return rows if self.weights is None else rows[rows[self.weights] > 0]

    def uses(self, column: str) -> bool:
        """Whether the model mentions a column."""
        text = " ".join([self.formula, *(str(v) for v in (self.residual, self.sigma))])
        words = "".join(c if c.isalnum() or c == "_" else " " for c in text).split()
        return column in words or column == self.weights

    def fixed_columns(self, rows: pd.DataFrame) -> np.ndarray:
        """Columns that span the fixed part, (n, anything)."""
        parts = [np.ones((len(rows), 1))] if self.intercept else []
        parts += [np.reshape(term.columns(rows), (len(rows), -1)) for term in self.fixed]
        return np.column_stack([np.zeros((len(rows), 0)), *parts])

    @cached_property
    def dense(self) -> DenseModel:
        """The model as dense matrices."""
        rows = self.rows
        y = rows["y"].to_numpy(float)
        if self.offset:
            y = y - rows[self.offset].to_numpy(float)
        w = np.ones(len(rows)) if self.weights is None else rows[self.weights].to_numpy(float)
        parts = tuple(part for term in self.random for part in self._parts(term, rows))
        return DenseModel(y, basis(self.fixed_columns(rows)), w, parts, *self._residual(rows))

    def _parts(self, term: RandomTerm, rows: pd.DataFrame) -> list[Part]:
        labels = group_labels(rows, term.groups)
        levels, codes = np.unique(labels, return_inverse=True)
        A = np.eye(len(levels))
        if self.relationship is not None and term.group in self.relationship:
            frame = self.relationship[term.group]
            levels, A = frame.index.to_numpy(), frame.to_numpy()
            codes = frame.index.get_indexer(rows[term.group])
        columns = term.effects(rows)
        names = [tuple(columns)] if term.correlated else [(name,) for name in columns]
        return [
            Part(
                term.group,
                part,
                np.column_stack([columns[name] for name in part]).astype(float),
                codes,
                tuple(levels.tolist()),
                A,
            )
            for part in names
        ]

    def _residual(self, rows: pd.DataFrame):
        """Kind, groups, times and variance cells of the residuals."""
        n = len(rows)
        kind, group, time = "independent", np.arange(n), np.zeros(n, dtype=int)
        cell, names = np.zeros(n, dtype=int), ("sigma",)
        if self.residual is not None:
            kind = self.residual.partition("(")[0]
            group = np.unique(rows["g"], return_inverse=True)[1]
            time = rows["time"].to_numpy(int)
        if kind == "unstructured":
            labels, cell = np.unique(time, return_inverse=True)
            names = tuple(f"sigma[time={v}]" for v in labels)
        if self.sigma is not None:
            labels, cell = np.unique(rows["f"], return_inverse=True)
            names = tuple(f"sigma[f={v}]" for v in labels)
        return kind, group, time, cell, names


def group_labels(rows: pd.DataFrame, groups: tuple[str, ...]) -> np.ndarray:
    """Label of every row's group."""
    parts = [rows[g].map(lambda v: f"{v:g}" if isinstance(v, float) else str(v)) for g in groups]
    return np.array([":".join(values) for values in zip(*parts, strict=True)], dtype=object)


def dummies(column: pd.Series) -> dict:
    """A 0/1 column per level."""
    return {level: (column == level).to_numpy(float) for level in sorted(column.unique())}


def _full(rows: pd.DataFrame, factors: tuple[str, ...], numbers: np.ndarray) -> np.ndarray:
    """A column per cell of the factors, times each of the number columns."""
    numbers = np.reshape(numbers, (len(rows), -1))
    for name in factors:
        parts = [column[:, None] * numbers for column in dummies(rows[name]).values()]
        numbers = np.column_stack(parts)
    return numbers


def _number(name: str, kind: str) -> tuple[str, Callable[[pd.DataFrame], np.ndarray]]:
    """Text and columns of a function of a number."""
    if kind == "poly":
        return f"poly({name}, 2)", lambda rows: _poly(rows[name].to_numpy(float))
    if kind == "square":
        return f"{name} + I({name}**2)", lambda rows: np.column_stack(
            [rows[name], rows[name].astype(float) ** 2]
        )
    if kind == "scale":
        return f"scale({name})", lambda rows: (rows[name] - rows[name].mean()).to_numpy(float)
    if kind == "log":
        return f"np.log({name})", lambda rows: np.log(rows[name].to_numpy(float))
    return name, lambda rows: rows[name].to_numpy(float)


def _poly(x: np.ndarray) -> np.ndarray:
    """Orthonormal linear and quadratic columns, as R's poly."""
    x = x - x.mean()
    return np.linalg.qr(np.column_stack([np.ones(len(x)), x, x * x]))[0][:, 1:]


def _product(factors: tuple[str, ...], numbers: tuple[str, ...], sign: str = ":") -> FixedTerm:
    """``f:h:x``, or ``f*h*x`` with everything below it."""
    names = [*factors, *numbers]

    def columns(rows):
        products = np.ones(len(rows))
        for name in numbers:
            products = products * rows[name].to_numpy(float)
        return _full(rows, factors, products)

    def below(rows):
        parts = []
        for size in range(1, len(names) + 1):
            for some in itertools.combinations(names, size):
                inside = _product(
                    tuple(v for v in some if v in factors), tuple(v for v in some if v in numbers)
                )
                parts.append(inside.columns(rows).reshape(len(rows), -1))
        return np.column_stack(parts)

    return FixedTerm(sign.join(names), columns if sign == ":" else below)


def _draw_fixed(rng) -> tuple[bool, list[FixedTerm]]:
    number = str(rng.choice(_NUMBERS))
    other = str(rng.choice([v for v in _NUMBERS if v != number]))
    plain = FixedTerm(*_number(number, "plain"))
    kinds = [
        lambda: (True, []),
        lambda: (True, [plain]),
        lambda: (True, [FixedTerm(*_number(number, str(rng.choice(["poly", "square", "scale"]))))]),
        lambda: (True, [FixedTerm(*_number("u", "log")), _product(("f",), ())]),
        lambda: (True, [plain, FixedTerm(*_number(other, "plain"))]),
        lambda: (True, [_product((), (number, other), "*")]),
        lambda: (True, [_product(("f",), (number,), "*")]),
        lambda: (True, [_product(("f", "h"), (), "*")]),
        lambda: (True, [_product(("f",), ()), _product(("f", "h"), ())]),
        lambda: (True, [plain, _product(("h",), (number,))]),
        lambda: (True, [_product(("h",), (number,))]),
        lambda: (False, [_product(("f",), ())]),
        lambda: (False, [_product(("f",), ()), plain]),
        lambda: (False, [_product(("f",), ()), _product(("f",), (number,))]),
        lambda: (False, [plain]),
        lambda: (True, [plain, FixedTerm("twice", lambda rows: rows["twice"].to_numpy(float))]),
        lambda: (True, [_product(("h",), (number, other), "*")]),
    ]
    return kinds[rng.integers(len(kinds))]()


def _effects(kind: str, number: str, factor: str):
    """Text left of the bar, the columns it means, whether intercept and number are free."""

    def intercept(rows):
        return {"Intercept": np.ones(len(rows))}

    def slope(rows):
        return {number: rows[number].to_numpy(float)}

    def contrasts(rows):
        levels = dummies(rows[factor])
        return {f"{factor}[{v}]": c for v, c in list(levels.items())[1:]}

    def cells(rows):
        return {f"{factor}[{v}]": c for v, c in dummies(rows[factor]).items()}

    return {
        "intercept": ("1", intercept),
        "slope": (number, lambda rows: intercept(rows) | slope(rows)),
        "slope only": (f"0 + {number}", slope),
        "contrasts": (factor, lambda rows: intercept(rows) | contrasts(rows)),
        "cells": (f"0 + {factor}", cells),
        "both": (
            f"{number} + {factor}",
            lambda rows: intercept(rows) | slope(rows) | contrasts(rows),
        ),
    }[kind]


def _term(groups: tuple[str, ...], kind: str, number: str, factor: str, correlated=True):
    text, effects = _effects(kind, number, factor)
    bar = "|" if correlated else "||"
    return RandomTerm(f"({text} {bar} {':'.join(groups)})", groups, effects, correlated)


def _draw_random(rng) -> list[RandomTerm]:
    number, factor = str(rng.choice(_NUMBERS)), str(rng.choice(["f", "h"]))
    kind = str(rng.choice(["intercept", "slope", "slope", "contrasts", "cells", "both"]))

    def of(groups, kind, correlated=True):
        return _term(groups, kind, number, factor, correlated)

    layouts = [
        lambda: [of(("g",), kind)],
        lambda: [of(("g",), kind)],
        lambda: [of(("g",), str(rng.choice(["slope", "contrasts", "both"])), False)],
        lambda: [of(("g",), "intercept"), of(("g",), "slope only")],
        lambda: [of(("g",), "intercept"), of(("k",), "intercept")],
        lambda: [of(("g",), str(rng.choice(["slope", "contrasts"]))), of(("k",), "intercept")],
        lambda: [of(("g",), "intercept"), of(("k",), "slope", False)],
        lambda: [of(("s",), "intercept"), of(("s", "g"), "intercept")],
        lambda: [of(("s",), str(rng.choice(["slope", "slope only"]))), of(("s", "g"), "intercept")],
        lambda: [of(("g",), "intercept"), of(("k",), "intercept"), of(("g", "k"), "intercept")],
        lambda: [],
    ]
    return layouts[rng.integers(len(layouts))]()


def _draw_data(rng, n_groups: int, per_group: int, balanced: bool) -> pd.DataFrame:
    """Rows in groups g within s, crossed with k, with factors f and h and numbers."""
    sizes = np.full(n_groups, per_group)
    if not balanced:
        sizes = np.maximum(1, sizes + rng.integers(-2, 3, n_groups))
        sizes[rng.integers(n_groups)] = 1
    g = np.repeat(np.arange(n_groups), sizes)
    time = np.concatenate([np.arange(size) for size in sizes])
    n = len(g)
    f = np.array(["a", "b", "c"])[time % 3 if balanced else rng.integers(0, 3, n)]
    origin = rng.choice([0.0, 30.0, -400.0])
    frame = pd.DataFrame(
        {
            "g": [f"g{v:02d}" for v in g] if rng.random() < 0.5 else g * 3 + 1,
            "s": np.array(["s1", "s2", "s3", "s4"])[g % 4],
            "k": rng.integers(0, 5, n) if not balanced else (time + g) % 5,
            "f": f,
            "h": rng.choice(["no", "yes"], n),
            "x": rng.normal(size=n),
            "z": (origin + rng.normal(size=n)) * rng.choice([1.0, 1e-3, 50.0]),
            "u": rng.uniform(1, 9, n),
            "year": 2010 + rng.integers(0, 10, n),
            "time": time + 1,
            "o": rng.normal(size=n) * 2 + 1,
            "w": np.round(rng.uniform(0.2, 3, n), 3),
        }
    )
    frame["twice"] = 3.0 - 2.0 * frame["x"] if rng.random() < 0.5 else frame["u"] * 4.0
    if rng.random() < 0.15:  # an empty cell
        frame.loc[(frame["f"] == "c") & (frame["h"] == "yes"), "h"] = "no"
    return frame


def _response(case: Case, rng) -> np.ndarray:
    """Values with effects of every size, among them none at all."""
    rows, n = case.data, len(case.data)
    columns = case.fixed_columns(rows)
    columns = (columns - columns.mean(axis=0)) / np.maximum(columns.std(axis=0), 1e-12)
    y = 3.0 + columns @ rng.normal(size=columns.shape[1])
    size = rng.choice([0.0, 0.1, 1.0, 3.0])
    for term in case.random:
        codes = np.unique(group_labels(rows, term.groups), return_inverse=True)[1]
        for column in term.effects(rows).values():
            spread = np.std(column) or 1.0
            y = y + size * rng.normal(size=codes.max() + 1)[codes] * (
                (column - column.mean()) / spread if np.std(column) else column
            )
    noise = rng.normal(size=n)
    if size == 0.0 and case.random and rng.random() < 0.5:  # group means alike: exact zeros
        codes = np.unique(group_labels(rows, case.random[0].groups), return_inverse=True)[1]
        means = np.bincount(codes, noise) / np.bincount(codes)
        noise = noise - 0.9 * means[codes]
    if case.sigma is not None:
        noise = noise * rows["f"].map({"a": 0.5, "b": 1.0, "c": 2.0}).to_numpy()
    if case.weights is not None:
        noise = noise / np.sqrt(rows[case.weights].to_numpy())
    unit = rng.choice([1.0, 1.0, 1.0, 1e-4, 1e5])
    return unit * (y + noise + rng.choice([0.0, 0.0, 100.0]))


def _draw_residual(rng, case: Case) -> Case:
    kind = str(rng.choice(["ar1", "cs", "unstructured", "cells", "cells and ar1"]))
    if kind == "cells":
        return replace(case, sigma="~ f")
    where = {"ar1": "ar1(time | g)", "cs": "cs(g)", "unstructured": "unstructured(time | g)"}
    made = replace(case, residual=where.get(kind, "ar1(time | g)"))
    if kind == "cells and ar1":
        return replace(made, sigma="~ f", random=())
    return replace(made, random=made.random[:1] if kind == "ar1" else ())


def _relationship(rng, data: pd.DataFrame) -> dict:
    """Random covariance of the groups and of two that have no rows, in another order."""
    labels = [*sorted(data["g"].unique()), *(("new1", "new2") if data["g"].dtype == object else ())]
    labels = [labels[i] for i in rng.permutation(len(labels))]
    root = np.tril(rng.normal(size=(len(labels), len(labels))) * 0.4) + np.eye(len(labels))
    A = root @ root.T
    return {"g": pd.DataFrame(A, index=labels, columns=labels)}


def draw_case(seed: int) -> Case:
    """The case of a seed: a model that likelihood identifies."""
    for attempt in itertools.count():
        rng = np.random.default_rng([seed, attempt])
        case = _draw(seed, rng)
        if _identified(case):
            return case


def _draw(seed: int, rng) -> Case:
    special = rng.random()
    structured = special < 0.2
    n_groups = int(rng.integers(10, 13)) if structured else int(rng.integers(5, 10))
    per_group = 3 if structured else int(rng.integers(3, 8))
    data = _draw_data(rng, n_groups, per_group, structured or rng.random() < 0.4)
    intercept, fixed = _draw_fixed(rng)
    case = Case(seed, data, tuple(fixed), tuple(_draw_random(rng)), intercept)
    if structured:
        case = _draw_residual(rng, case)
    elif special < 0.3 and case.random:
        kind = str(rng.choice(["intercept", "intercept", "slope"]))
        terms = (_term(("g",), kind, "x", "f", bool(rng.random() < 0.7)), *case.random[2:])
        case = replace(case, relationship=_relationship(rng, data), random=terms)
    if rng.random() < 0.3:
        case = replace(case, weights="w")
    if rng.random() < 0.2:
        case = replace(case, offset="o")
    data = data.assign(y=_response(case, rng))
    if rng.random() < 0.3:
        for name in rng.choice(["y", "x", "z", "g", "f"], 2, replace=False):
            holes = rng.random(len(data)) < 0.06
            data[name] = data[name].astype(object if name in "gf" else float).mask(holes)
        data["g"] = data["g"].infer_objects()
    if case.weights and rng.random() < 0.3:
        data.loc[rng.random(len(data)) < 0.05, "w"] = 0.0
    return replace(case, data=data)


def _identified(case: Case) -> bool:
    """Enough rows beyond [X Z] for a likelihood that has a maximum, no effect said twice."""
    rows = case.rows
    if len(rows) < 12 or any(rows[f].nunique() < 2 for f in ("f", "h", "k", "s")):
        return False
    model = case.dense
    n, p = len(model.y), model.X.shape[1]
    if model.kind == "unstructured":
        complete = np.bincount(model.group).max() == len(model.names)
        return bool(complete and model.group.max() + 1 >= 10 and p <= 4)
    if any(np.bincount(part.codes).max() < 2 or len(part.levels) < 4 for part in model.parts):
        return False
    one = [part.columns for part in model.parts]
    joint = np.linalg.matrix_rank(basis(np.column_stack([model.X, *one])))
    if joint > n - 5:
        return False
    if len(model.names) > 1:  # every cell has rows that coefficients and effects leave over
        return min(np.bincount(model.cell)) >= p + 5
    return all(part.Z.shape[1] <= 3 for part in model.parts)
