"""Likelihood ratio tests, with the boundary taken seriously."""

from __future__ import annotations

import warnings
from itertools import tee
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from bayeslmm.errors import PACKAGE, ModelWarning
from bayeslmm.progress import progress
from bayeslmm.results.intervals import check_n_sims, response_simulator
from bayeslmm.results.printing import returns_table

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.protocols import LikelihoodResult

__all__ = ["basis_change", "likelihood_ratio_test", "same_fixed_space"]

#: Deviances that differ by less through their columns are shown as they are.
_SAME_BASIS = 1e-6


@returns_table
def likelihood_ratio_test(
    fit0: LikelihoodResult,
    fit1: LikelihoodResult,
    *,
    method: str = "auto",
    n_sims: int = 1000,
    random_seed: int | None = None,
    progressbar: bool = True,
) -> pd.DataFrame:
    """Compare two nested likelihood fits to the same rows.

    Parameters
    ----------
    fit0, fit1 : LikelihoodResult
        In either order; the one with fewer parameters is the null model. REML fits that
        differ in their fixed effects are refitted by maximum likelihood, with a warning that
        says so.
    method : {"auto", "chi2", "mixture", "bootstrap"}
        Reference distribution: chi-squared; the equal mixture of chi-squared with q and q + 1
        degrees of freedom where one effect with its q covariances is tested at its boundary (Self
        and Liang 1987; Stram and Lee 1994); or simulation from the null model. ``"auto"`` takes the
        mixture where it holds and chi-squared otherwise.
    n_sims, random_seed, progressbar
        For the bootstrap.

    Returns
    -------
    pandas.DataFrame
        A row per model: ``n_parameters loglik deviance aic bic statistic df p reference``.
        Restricted likelihoods are those for the columns of the null model's fixed effects.

    Raises
    ------
    ValueError
        If the fits are not of the same rows and response, or not nested.

    Warns
    -----
    ModelWarning
        If fits are refitted, or the reference distribution is only approximate.

    References
    ----------
    - Self and Liang (1987), Journal of the American Statistical Association 82(398);
      https://doi.org/10.1080/01621459.1987.10478472
    - Stram and Lee (1994), Biometrics 50(4); https://doi.org/10.2307/2533455

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> small = blm.LMM("Reaction ~ Days + (1 | Subject)", data).reml()
    >>> large = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    >>> blm.likelihood_ratio_test(small, large)["statistic"].round(2).iloc[1]
    np.float64(42.84)
    """
    if method not in ("auto", "chi2", "mixture", "bootstrap"):
        raise ValueError(
            f'method must be "auto", "chi2", "mixture" or "bootstrap", not {method!r}.'
        )
    for fit in (fit0, fit1):
        if not hasattr(fit, "loglik"):
            raise ValueError("likelihood_ratio_test compares two fits by reml() or ml().")
    if method == "bootstrap":
        check_n_sims(n_sims)
    null, full = sorted((fit0, fit1), key=lambda fit: fit.n_parameters)
    _refuse_incomparable(null, full)
    null, full = _comparable_method(null, full)
    change = basis_change(null, full)
    if abs(change) > _SAME_BASIS:
        warnings.warn(
            "A restricted likelihood depends on the columns that span the fixed effects: that of "
            f"{full.design.formula.text!r} is given for the columns of "
            f"{null.design.formula.text!r}.",
            ModelWarning,
            skip_file_prefixes=PACKAGE,
        )
    statistic = max(null.deviance - full.deviance + change, 0.0)
    df = full.n_parameters - null.n_parameters
    mixture = _mixture_order(null, full)
    p, reference = _p_value(statistic, df, method, mixture)
    if method == "bootstrap":
        p = _bootstrap_p(null, full, statistic, n_sims, random_seed, progressbar)
        reference = f"bootstrap of {n_sims}"
    elif mixture is None and _adds_variances(null.design, full.design) and method == "auto":
        warnings.warn(
            "More than one variance is tested at its boundary, where chi-squared is too "
            'conservative: method="bootstrap" gives the right reference.',
            ModelWarning,
            skip_file_prefixes=PACKAGE,
        )
    rows = [
        (fit.n_parameters, fit.loglik + by / 2, fit.deviance - by, fit.aic - by, fit.bic - by)
        for fit, by in ((null, 0.0), (full, change))
    ]
    columns = ["n_parameters", "loglik", "deviance", "aic", "bic"]
    names = [fit.design.formula.text for fit in (null, full)]
    table = pd.DataFrame(rows, columns=columns, index=pd.Index(names, name="model"))
    table["statistic"], table["df"] = [np.nan, statistic], [np.nan, float(df)]
    table["p"], table["reference"] = [np.nan, p], ["", reference]
    return table


def _p_value(statistic: float, df: int, method: str, mixture: int | None) -> tuple[float, str]:
    if method == "mixture" and mixture is None:
        raise ValueError(
            "The mixture holds where exactly one random effect with its covariances is added "
            'and nothing else changes. Use method="bootstrap".'
        )
    if method in ("auto", "mixture") and mixture is not None:
        lower = chdtrc(mixture, statistic) if mixture > 0 else float(statistic <= 0)
        p = 0.5 * lower + 0.5 * chdtrc(mixture + 1, statistic)
        return float(p), f"mixture of chi2({mixture}) and chi2({mixture + 1})"
    return float(chdtrc(df, statistic)), f"chi2({df})"


def _refuse_incomparable(null: LikelihoodResult, full: LikelihoodResult) -> None:
    a, b = null.design, full.design
    same = a.n_rows == b.n_rows and np.array_equal(a.y - a.offset, b.y - b.offset)
    if not same:
        raise ValueError(
            f"The fits are not of the same response and rows in the same order ({a.n_rows} and "
            f"{b.n_rows} rows). Rows with missing values may have been left out of one of them."
        )
    wa = np.ones(a.n_rows) if a.weights is None else a.weights
    wb = np.ones(b.n_rows) if b.weights is None else b.weights
    if not np.array_equal(wa, wb):
        raise ValueError("The fits have different weights.")
    if a.family != b.family:
        raise ValueError(
            f"The fits have different families or links ({a.family.name}, {a.family.link.name} and "
            f"{b.family.name}, {b.family.link.name}): compare them by AIC."
        )
    if null._engine.describe() != full._engine.describe():
        raise ValueError(
            "The likelihoods of the fits are not approximated alike: use the same n_quadrature."
        )
    if null.n_parameters == full.n_parameters:
        raise ValueError("Both fits have the same number of parameters: they are not nested.")
    X0, X1 = a.X[:, null.kept], b.X[:, full.kept]
    if not _spans(X1, X0) or not _random_nested(a, b) or not residual_nested(a, b):
        raise ValueError(
            f"{a.formula.text!r} is not nested in {b.formula.text!r}: compare them by AIC or LOO."
        )


def residual_nested(a: Design, b: Design) -> bool:
    """Whether the residual structure of `a` is that of `b` or a simpler one."""
    kind_a, scale_a, groups_a = _residual_parts(a)
    kind_b, scale_b, groups_b = _residual_parts(b)
    if not _spans(scale_b, scale_a):
        return False
    if kind_a == "independent":
        return True
    same_groups = np.array_equal(groups_a, groups_b)
    return same_groups and (kind_a == kind_b or kind_b == "unstructured")


def _residual_parts(design: Design):
    if design.residual is None:
        return "independent", np.ones((design.n_rows, 1)), None
    rows = design.residual.rows
    return design.residual.kind, rows.scale, rows.group


def _spans(X: np.ndarray, columns: np.ndarray) -> bool:
    if columns.shape[1] == 0:
        return True
    if X.shape[1] == 0:
        return False
    rest = columns - X @ np.linalg.lstsq(X, columns, rcond=None)[0]
    return bool(np.all(np.linalg.norm(rest, axis=0) <= 1e-7 * np.linalg.norm(columns, axis=0)))


def _random_nested(a: Design, b: Design) -> bool:
    """Whether every random effect of `a` is among those of `b`, as correlated or more."""
    blocks = {frozenset(block.factor.columns): block for block in b.blocks}
    for block in a.blocks:
        other = blocks.get(frozenset(block.factor.columns))
        if other is None or not _spans(other.Z, block.Z):
            return False
        free = {
            frozenset((other.effects[i], other.effects[j])) for i, j in other.correlated_pairs()
        }
        shared = set(other.effects)
        for i, j in block.correlated_pairs():
            pair = frozenset((block.effects[i], block.effects[j]))
            if pair <= shared and pair not in free:
                return False
    return True


def basis_change(one: LikelihoodResult, other: LikelihoodResult) -> float:
    """What REML deviances differ by because the same fixed space has other columns.

    The restricted likelihood depends on the columns of X through log|X'V^-1X|: with X1 = X0 B
    it changes by 2 log|det B|. Add it to the difference of the deviances, `one` minus `other`.
    """
    if not (one.reml and other.reml):
        return 0.0
    return 2.0 * (other.column_space.log_volume - one.column_space.log_volume)


def same_fixed_space(null: LikelihoodResult, full: LikelihoodResult) -> bool:
    """Whether the fixed effects of two fits span the same space, in whatever columns."""
    X0, X1 = null.design.X[:, null.kept], full.design.X[:, full.kept]
    return X0.shape == X1.shape and _spans(X1, X0) and _spans(X0, X1)


def _comparable_method(null: LikelihoodResult, full: LikelihoodResult):
    """Refit by ML where REML likelihoods cannot be compared."""
    if null.reml and full.reml and same_fixed_space(null, full):
        return null, full
    if null.reml or full.reml:
        why = "with different fixed effects" if null.reml and full.reml else "and ML fits"
        warnings.warn(
            f"REML fits {why} cannot be compared: refitted by maximum likelihood.",
            ModelWarning,
            skip_file_prefixes=PACKAGE,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        return tuple(fit.model.ml() if fit.reml else fit for fit in (null, full))


def _added_effects(a: Design, b: Design) -> list[tuple[str, str, int]]:
    """Factor, effect and covariances with others of each random effect only `b` has."""
    have = {(frozenset(k.factor.columns), e) for k in a.blocks for e in k.effects}
    added = []
    for block in b.blocks:
        for part in block.pattern:
            for i in part:
                if (frozenset(block.factor.columns), block.effects[i]) not in have:
                    added.append((block.name, block.effects[i], len(part) - 1))
    return added


def _adds_variances(a: Design, b: Design) -> bool:
    return bool(_added_effects(a, b))


def _mixture_order(null: LikelihoodResult, full: LikelihoodResult) -> int | None:
    """q where exactly one effect with q covariances is added and nothing else changes."""
    a, b = null.design, full.design
    added = _added_effects(a, b)
    extra = sum(_n_covariances(block) for block in b.blocks)
    extra -= sum(_n_covariances(block) for block in a.blocks)
    if (a.residual is None) != (b.residual is None) or not residual_nested(b, a):
        return None
    if len(added) != 1 or extra != added[0][2] + 1:
        return None
    if len(null.kept) != len(full.kept):
        return None
    return added[0][2]


def _n_covariances(block) -> int:
    return sum(len(part) * (len(part) + 1) // 2 for part in block.pattern)


def _bootstrap_p(
    null: LikelihoodResult,
    full: LikelihoodResult,
    statistic: float,
    n_sims: int,
    random_seed: int | None,
    progressbar: bool,
) -> float:
    """Share of simulations from the null model with a statistic at least as large."""
    rng = np.random.default_rng(random_seed)
    simulated, larger, change = response_simulator(null), 0, basis_change(null, full)
    for_null, for_full = tee(simulated(rng) for _ in range(n_sims))
    pairs = zip(null.reestimates(for_null), full.reestimates(for_full), strict=True)
    for small, large in progress(pairs, "Bootstrap", show=progressbar, total=n_sims):
        larger += small.deviance - large.deviance + change >= statistic
    return (larger + 1) / (n_sims + 1)
