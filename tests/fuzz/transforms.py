"""The same model said otherwise: rows, labels, origins and units; and what has to come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from tests.fuzz.cases import Case
from tests.fuzz.dense import DenseModel, State

__all__ = ["KINDS", "Said", "say_otherwise"]

KINDS = ("rows", "labels", "origins", "units", "response", "coding", "all")


@dataclass(frozen=True)
class Said:
    """A case said otherwise, and how parameters of the first go over to it."""

    case: Case
    kind: str
    scale: float
    maps: tuple[np.ndarray, ...]  # Z' = Z T of each part
    cells: np.ndarray  # position of the new cells among the old
    order: np.ndarray  # position of the new rows among the old

    def state(self, state: State) -> State:
        """The same covariance of the rows, in the parameters of the new case."""
        inverses = [np.linalg.inv(T) for T in self.maps]
        Sigmas = tuple(T @ Sigma @ T.T for T, Sigma in zip(inverses, state.Sigmas, strict=True))
        return State(Sigmas, state.sds[self.cells], state.corr).scaled(self.scale)

    def loglik_change(self, model: DenseModel, reml: bool) -> float:
        """Log-likelihood of the new case less that of the old, both with orthonormal columns."""
        n, p = model.X.shape
        return -(n - p if reml else n) * np.log(abs(self.scale))


def say_otherwise(case: Case, kind: str, rng, *, keep_order: bool = False) -> Said | None:
    """A case said otherwise; None where that would be another model, such as a slope without
    intercept of a covariate that is shifted.

    Parameters
    ----------
    keep_order : bool
        Whether levels that random effects are coded by stay in their order (the first is the
        baseline, whose variance is that of the intercept).
    """
    data, scale, relationship = case.data.copy(), 1.0, case.relationship
    every = kind == "all"
    if kind == "origins" or every:
        _move(data, rng, shift=True, stretch=every)
    if kind == "units":
        _move(data, rng, shift=False, stretch=True)
    if kind == "response" or every:
        scale = float(rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(-3, 3))
        shift = 0.0 if case.offset or not _has_constant(case) else rng.choice([0.0, 1e3])
        data["y"] = scale * (data["y"].astype(float) + shift * data["y"].astype(float).std())
        data["o"] = scale * data["o"]
    if kind == "labels" or every:
        bars = " ".join(term.text.partition("|")[0] for term in case.random).replace("(", " ")
        kept = [name for name in ("f", "h") if keep_order and name in bars.split()]
        relationship = _relabel(data, rng, kept, relationship)
    if kind == "rows" or every:
        data = data.iloc[rng.permutation(len(data))]
    made = replace(case, data=data, relationship=relationship)
    if kind == "coding":
        made = _recoded(made)
        if made.formula == case.formula:
            return None
    return _matched(case, made, kind, scale)


def _has_constant(case: Case) -> bool:
    X = case.dense.X
    return X.shape[1] > 0 and np.ptp(X[:, 0]) < 1e-12


def _move(data: pd.DataFrame, rng, *, shift: bool, stretch: bool) -> None:
    for name in ("x", "z", "u", "year"):
        values = data[name].astype(float)
        b = float(rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(-2, 2)) if stretch else 1.0
        a = float(rng.choice([-30.0, 3.0, 10.0])) * float(values.std()) if shift else 0.0
        if name == "u":
            a, b = 0.0, abs(b)  # its logarithm is taken
        data[name] = b * (values + a)


def _recoded(case: Case) -> Case:
    """Other columns for the same fixed part: cell means, orthogonal polynomials, nesting."""
    fixed = []
    for term in case.fixed:
        text, (first, *rest) = term.text, term.text.split("*")
        if rest and first in "fh":
            sizes = range(1, len(rest) + 1)
            inside = [":".join(some) for size in sizes for some in combinations(rest, size)]
            text = " + ".join([first, *(f"{first}:{some}" for some in inside)])
        elif "**2" in text:
            text = f"poly({text.partition(' ')[0]}, 2)"
        fixed.append(replace(term, text=text))
    cells = any(term.text.split("*")[0].split(" ")[0] == "f" for term in case.fixed)
    return replace(case, fixed=tuple(fixed), intercept=case.intercept != cells)


def _relabel(data: pd.DataFrame, rng, kept: list[str], relationship):
    for name in ("g", "s", "k", "f", "h"):
        labels = sorted(data[name].dropna().unique())
        if relationship is not None and name in relationship:
            labels = list(relationship[name].index)
        order = np.arange(len(labels)) if name in kept else rng.permutation(len(labels))
        new = {label: f"{name.upper()}{i:02d}" for label, i in zip(labels, order, strict=True)}
        data[name] = data[name].map(new)
        if relationship is not None and name in relationship:
            frame = relationship[name].rename(index=new, columns=new)
            some = rng.permutation(len(frame))
            relationship = {name: frame.iloc[some, some]}
    return relationship


def _matched(old: Case, new: Case, kind: str, scale: float) -> Said | None:
    one, two = old.dense, new.dense
    order = old.rows.index.get_indexer(new.rows.index)
    if two.X.shape[1] != one.X.shape[1] or len(one.parts) != len(two.parts):
        return None
    X = one.X[order]
    if X.size and np.abs(two.X - X @ (X.T @ two.X)).max() > 1e-8:
        return None
    maps = []
    for a, b in zip(one.parts, two.parts, strict=True):
        Z = a.Z[order]
        size = a.size
        T = np.linalg.lstsq(Z / size, b.Z / b.size, rcond=1e-13)[0] * b.size / size[:, None]
        if Z.shape != b.Z.shape or np.abs(Z @ T - b.Z).max() > 1e-7 * b.size.max():
            return None
        maps.append(T)
    cells = np.zeros(len(two.names), dtype=int)
    cells[two.cell] = one.cell[order]
    return Said(new, kind, scale, tuple(maps), cells, order)
