"""From a pedigree to the inverse of its additive relationship matrix."""

from __future__ import annotations

from collections import Counter

import numpy as np

from bayeslmm.errors import DataError
from bayeslmm.formula.random import plain_label
from bayeslmm.relationship.matrix import RelationshipMatrix

__all__ = ["pedigree_relationship"]

#: How an unknown parent may be written, besides a missing value.
_UNKNOWN = (0, "0", "", ".", "NA")


def pedigree_relationship(
    pedigree, *, id: str = "id", sire: str = "sire", dam: str = "dam", monoecious: bool = False
) -> RelationshipMatrix:
    """The additive (numerator) relationship of a pedigree, as its sparse inverse.

    Parameters
    ----------
    pedigree : data frame
        One row per individual, in any order. Parents without a row of their own become founders:
        unrelated and not inbred.
    id, sire, dam : str
        Names of the columns. An unknown parent is missing, 0, ``""`` or ``"."``.
    monoecious : bool
        Allow an individual to be a sire and a dam, and to be both parents of one offspring
        (plants, selfing).

    Returns
    -------
    RelationshipMatrix
        For ``blm.LMM(..., relationship={"id": ...})``, with ``inbreeding`` and ``to_frame()``.

    Raises
    ------
    DataError
        If a column is missing, an individual occurs twice, is its own ancestor, or is both a
        sire and a dam.

    Notes
    -----
    With P the matrix that takes half of each parent and D the Mendelian sampling variances, A^-1 =
    (I - P)' D^-1 (I - P) (Henderson 1976; Quaas 1976); inbreeding after Meuwissen and Luo (1992).

    References
    ----------
    - Henderson (1976), Biometrics 32(1), 69-83; https://doi.org/10.2307/2529339
    - Quaas (1976), Biometrics 32(4), 949-953
    - Meuwissen and Luo (1992), Genetics Selection Evolution 24(4), 305-313;
      https://doi.org/10.1186/1297-9686-24-4-305

    Examples
    --------
    >>> import bayeslmm as blm
    >>> pedigree = {"id": [3, 4, 5], "sire": [1, 1, 4], "dam": [2, None, 3]}
    >>> A = blm.pedigree_relationship(pedigree)
    >>> A.to_frame().loc[5, [3, 4, 5]].round(6).tolist()
    [0.625, 0.625, 1.125]
    """
    from scipy import sparse

    from bayeslmm.relationship._inbreeding import inbreeding

    labels, parents = _individuals(pedigree, (id, sire, dam))
    if not monoecious:
        _refuse_both(labels, parents)
    order = _parents_first(labels, parents)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    parents = parents[order]
    parents = np.where(parents >= 0, place[parents], -1)
    first = np.zeros(1, dtype=np.int64)
    F, D = inbreeding(
        np.concatenate((first, parents[:, 0] + 1)), np.concatenate((first, parents[:, 1] + 1))
    )
    F, D = F[1:], D[1:]
    if np.any(D <= 1e-12):
        who = labels[order[int(np.argmin(D))]]
        raise DataError(
            f"{who!r} descends from completely inbred parents, so that its value is known from "
            "theirs and the relationship matrix is singular: merge the lines' individuals."
        )
    n = len(order)
    rows = [np.arange(n)]
    columns = [np.arange(n)]
    values = [np.ones(n)]
    for parent in parents.T:
        known = np.flatnonzero(parent >= 0)
        rows.append(known)
        columns.append(parent[known])
        values.append(np.full(len(known), -0.5))
    index = (np.concatenate(rows), np.concatenate(columns))
    step = sparse.coo_array((np.concatenate(values), index), shape=(n, n)).tocsr()
    precision = step.T @ sparse.diags_array(1.0 / D) @ step
    return RelationshipMatrix([labels[i] for i in order], precision=precision, inbreeding=F)


def _individuals(pedigree, names: tuple[str, str, str]) -> tuple[list, np.ndarray]:
    """Labels, and positions (n, 2) of sire and dam among them, -1 where unknown."""
    from bayeslmm.formula.columns import as_frame, missing_in

    frame = as_frame(pedigree)
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise DataError(
            f"The pedigree has no column {absent[0]!r}; it has "
            f"{', '.join(map(str, frame.columns))}. "
            'Name them: blm.pedigree_relationship(pedigree, id="...", sire="...", dam="...").'
        )
    columns = []
    for name in names:
        column = frame[name].astype(object)
        unknown = missing_in(column)
        found = [None if u else plain_label(v) for v, u in zip(column, unknown, strict=True)]
        columns.append([None if v in _UNKNOWN and v is not False else v for v in found])
    own, *parental = columns
    if None in own:
        raise DataError(
            f"The pedigree has no label in row {own.index(None)} of {names[0]!r} (0, empty and "
            "missing stand for an unknown individual)."
        )
    for label, count in Counter(own).items():
        if count > 1:
            raise DataError(f"{label!r} has two rows in the pedigree: keep one.")
    known = dict.fromkeys(label for column in columns for label in column if label is not None)
    labels = list(known)
    position = {label: i for i, label in enumerate(labels)}
    _refuse_mixed(labels)
    parents = np.full((len(labels), 2), -1, dtype=np.int64)
    for j, column in enumerate(parental):
        parents[: len(own), j] = [-1 if label is None else position[label] for label in column]
    for j, name in enumerate(names[1:]):
        itself = np.flatnonzero(parents[:, j] == np.arange(len(labels)))
        if len(itself):
            raise DataError(f"{labels[itself[0]]!r} is its own {name} in the pedigree.")
    return labels, parents


def _refuse_mixed(labels: list) -> None:
    """1 and "1" would be two individuals."""
    text = {label for label in labels if isinstance(label, str)}
    for label in labels:
        if not isinstance(label, str) and str(label) in text:
            raise DataError(
                f"The pedigree has the individual {label!r} as a number and as text: convert the "
                "columns to one type."
            )


def _refuse_both(labels: list, parents: np.ndarray) -> None:
    sires = set(parents[parents[:, 0] >= 0, 0].tolist())
    both = sires & set(parents[parents[:, 1] >= 0, 1].tolist())
    if both:
        shown = ", ".join(repr(labels[i]) for i in sorted(both)[:5])
        raise DataError(
            f"{shown} is a sire and a dam in the pedigree. Correct it, or pass monoecious=True "
            "where one individual can be both."
        )


def _parents_first(labels: list, parents: np.ndarray) -> np.ndarray:
    """Order in which parents come before their offspring.

    Raises
    ------
    DataError
        If somebody is an ancestor of its own.
    """
    n = len(labels)
    waiting = (parents >= 0).sum(axis=1)
    offspring: list[list[int]] = [[] for _ in range(n)]
    for i, pair in enumerate(parents.tolist()):
        for parent in pair:
            if parent >= 0:
                offspring[parent].append(i)
    ready = [i for i in range(n) if waiting[i] == 0]
    at = 0
    while at < len(ready):
        for child in offspring[ready[at]]:
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)
        at += 1
    if len(ready) < n:
        raise DataError(f"The pedigree has a cycle: {_cycle(labels, parents, waiting)}.")
    return np.array(ready, dtype=np.int64)


def _cycle(labels: list, parents: np.ndarray, waiting: np.ndarray) -> str:
    """One cycle, in words: from an individual up to itself."""
    at = int(np.flatnonzero(waiting > 0)[0])
    path: list[int] = []
    while at not in path:
        path.append(at)
        at = next(int(p) for p in parents[at] if p >= 0 and waiting[p] > 0)
    loop = [*path[path.index(at) :], at]
    return " descends from ".join(repr(labels[i]) for i in loop)
