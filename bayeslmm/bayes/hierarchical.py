"""The hierarchical PyMC model a formula stands for.

y_i ~ Normal(x_i' beta + sum_k z_ik' b_k[level of i] + offset_i, sigma / sqrt(w_i)), with
b_kj ~ Normal(0, Sigma_k). In the non-centered form b_kj = F_k u_kj, u_kj ~ Normal(0, I) and
Sigma_k = F_k F_k' (Papaspiliopoulos, Roberts and Skold 2007, Statistical Science 22(1));
F_k = diag(sd_k) L_k, with L_k the Cholesky factor of the correlations, which has an LKJ prior
(Lewandowski, Kurowicka and Joe 2009, Journal of Multivariate Analysis 100(9)). Residuals or random
effects may be Student-t instead; sigma and Sigma_k are then their scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.covariates import add_covariates, covariate_coords, covariate_dims
from bayeslmm.bayes.laplace_posterior import whitened_obstacle
from bayeslmm.bayes.names import FactorNames, ModelNames
from bayeslmm.bayes.residual_model import structured_response
from bayeslmm.bayes.response_model import family_response
from bayeslmm.bayes.responses import response_coords, response_variables
from bayeslmm.bayes.shrinkage import scale_variables, shrunk_coefficients
from bayeslmm.bayes.variables import positive, stacked
from bayeslmm.errors import SamplingError
from bayeslmm.formula import Design
from bayeslmm.formula.random import RandomBlock
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.patterns import pair_labels, pair_values
from bayeslmm.parts.prior import Prior
from bayeslmm.priors.shrinkage import Shrinkage
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import pymc as pm

#: Related levels for which a dense root is made.
_MAX_DENSE_LEVELS = 3000

__all__ = [
    "coords",
    "covariance_roots",
    "flat_covariance_root",
    "hierarchical_model",
    "positive",
    "posterior_variables",
    "refuse_two_valued",
]


def hierarchical_model(
    design: Design, priors: Priors, names: ModelNames, *, centered: bool = False
) -> pm.Model:
    """Build the model, with all random effects in it.

    Parameters
    ----------
    design : Design
    priors : Priors
    names : ModelNames
    centered : bool
        Draw b from its distribution directly instead of scaling standardized effects.

    Returns
    -------
    pymc.Model
        Variables ``beta`` (coef), ``sigma`` and, for every grouping factor g, ``sd_g``
        (g_effect), ``corr_g`` (g_effect_pair) where it has correlations, and ``b_g``
        (g, g_effect). The free variable behind ``beta`` is ``beta_centered``, the combinations
        of :meth:`bayeslmm.priors.table.Priors.combinations`: the intercept at the predictors'
        means, each later column with the earlier ones taken out. Where the effects of a factor
        have their prior at the means of the covariates, the free standard deviations are
        ``sd_g_centered``. Student-t residuals add
        ``nu``, Student-t random effects ``nu_g``. Correlated residuals make one multivariate
        normal per size of their groups.

    Raises
    ------
    SamplingError
        If random effects are Student-t and the model centered.
    """
    import pymc as pm

    heavy = [block.name for block in design.blocks if priors.of("effects_nu", block.name)]
    if centered and heavy:
        raise SamplingError(
            f"Student-t random effects ({heavy[0]}) are sampled non-centered only: use "
            'parameterization="noncentered".'
        )
    if priors.shrinkage is not None and design.residual is not None:
        raise SamplingError(
            f"{priors.shrinkage.prior!r} beside residual structures is sampled by the marginal "
            "posterior only, which is the default: there is no PyMC model of both."
        )
    with pm.Model(coords=coords(design, names)) as model:
        sigma = positive("sigma", [priors["sigma"]], dims=None) if priors.shrinkage else None
        mu, beta = _fixed_part(design, priors, sigma)
        effects = []
        maps = priors.effect_maps().matrices
        for block, block_names, K in zip(design.blocks, names.factors, maps, strict=True):
            b = _random_effects(block, block_names, priors, K, centered=centered)
            mu = mu + (block.Z * b[block.codes]).sum(axis=-1)
            effects.append(b)
        if design.modeled:
            refuse_two_valued(design, priors)
            mu = mu + add_covariates(design, priors, beta, effects)
        if not design.family.gaussian:
            family_response(design, priors, names, mu, beta)
            return model
        if design.residual is not None:
            structured_response(design, priors, names, mu)
            return model
        if sigma is None:
            sigma = positive("sigma", [priors["sigma"]], dims=None)
        scale = sigma if design.weights is None else sigma / np.sqrt(design.weights)
        # as data, so that the compiled model serves other responses of the same design
        y = pm.Data(names.data, design.y, dims="obs")
        if "nu" in priors:
            nu = positive("nu", [priors["nu"]], dims=None)
            pm.StudentT(names.response, nu=nu, mu=mu, sigma=scale, observed=y, dims="obs")
        else:
            pm.Normal(names.response, mu=mu, sigma=scale, observed=y, dims="obs")
    return model


def refuse_two_valued(design: Design, priors: Priors) -> None:
    """Refuse unknowns that gradients cannot move.

    Raises
    ------
    SamplingError
        If a covariate with unknown values has two, saying why the compiled density does not have
        the model either where that is so.
    """
    for covariate in design.modeled:
        if covariate.values is not None:
            obstacle = whitened_obstacle(design, priors)
            advice = ': use parameterization="auto" or "whitened"'
            if obstacle:
                advice = f", and the compiled density does not have this model: {obstacle}"
            raise SamplingError(
                f"The missing values of {covariate.name!r} are one of two, which PyMC's sampler "
                f"cannot move between{advice}."
            )


def posterior_variables(design: Design, names: ModelNames, priors: Priors) -> list[str]:
    """The variables every posterior has, whatever made it."""
    variables = ["beta"] if design.coef_names else []
    variables += response_variables(design)
    if "nu" in priors:
        variables.append("nu")
    for block, factor in zip(design.blocks, names.factors, strict=True):
        variables.append(factor.sd)
        if priors.of("effects_nu", block.name):
            variables.append(factor.nu)
        if block.correlated_pairs():
            variables.append(factor.corr)
        variables.append(factor.b)
    variables += scale_variables(priors.shrinkage)
    for covariate in design.modeled:
        variables += covariate_dims(covariate)
    return variables


def coords(design: Design, names: ModelNames) -> dict:
    """Labels of coefficients, rows, levels and effects."""
    labels = {"coef": list(design.coef_names), "obs": np.arange(design.n_rows)}
    labels |= {dim: list(values) for dim, values in response_coords(design).items()}
    for block, factor in zip(design.blocks, names.factors, strict=True):
        labels[factor.dim] = list(block.levels)
        labels[factor.effect_dim] = list(block.effects)
        if pairs := block.correlated_pairs():
            labels[factor.pair_dim] = pair_labels(block.effects, pairs)
    for covariate in design.modeled:
        labels |= covariate_coords(covariate)
    return labels


def _fixed_part(design: Design, priors: Priors, sigma):
    """X beta + offset, sampled in the combinations that the priors are about; beta."""
    import pymc as pm
    import pytensor.tensor as pt

    if not design.coef_names:
        return pt.as_tensor_variable(design.offset), pt.zeros(0)
    X, A = design.X, priors.combinations()
    chosen = [priors[coef_key(name)] for name in design.coef_names]
    if (together := priors.shrinkage) is not None:
        centered = _some_shrunk(chosen, together, sigma)
        back = np.linalg.inv(A)
        beta = pm.Deterministic("beta", pt.dot(back, centered), dims="coef")
        return pt.dot(X @ back, centered) + design.offset, beta
    if np.array_equal(A, np.eye(len(A))):
        beta = stacked("beta", chosen, dims="coef")
        return pt.dot(X, beta) + design.offset, beta
    centered = stacked("beta_centered", chosen, dims="coef")
    back = np.linalg.inv(A)
    beta = pm.Deterministic("beta", pt.dot(back, centered), dims="coef")
    return pt.dot(X @ back, centered) + design.offset, beta


def _some_shrunk(chosen: list[Prior], together: Shrinkage, sigma):
    """The combinations that the priors are about, of which some share a prior."""
    import pymc as pm
    import pytensor.tensor as pt

    at, others = np.flatnonzero(together.mask), np.flatnonzero(~together.mask)
    values = pt.zeros(len(chosen))[at].set(shrunk_coefficients(together, sigma))
    if not len(others):
        return values
    pm.modelcontext(None).add_coord("coef_other", [str(j) for j in others])
    own = stacked("beta_other", [chosen[j] for j in others], dims="coef_other")
    return values[others].set(own)


def _random_effects(
    block: RandomBlock, names: FactorNames, priors: Priors, K: np.ndarray | None, *, centered: bool
):
    """b, shape (levels, effects)."""
    import pymc as pm
    import pytensor.tensor as pt

    factors = covariance_roots(block, names, priors, K)
    shape = (block.n_levels, block.n_effects)
    order = np.argsort([i for part in block.pattern for i in part])
    root = _levels_root(block, centered=centered)
    if not centered:
        if root is None or root.shape[0] == root.shape[1]:
            z = pm.Normal(names.z, 0.0, 1.0, dims=(names.dim, names.effect_dim))
            if priors.of("effects_nu", block.name):
                z = z * _heavy_tails(block, names, priors)
        else:  # fewer independent values than levels: clones, twins
            z = pm.Normal(names.z, 0.0, 1.0, shape=(root.shape[1], shape[1]))
        if root is not None:
            z = pt.dot(root, z)
    columns = []
    for number, part in enumerate(block.pattern):
        at = list(part)
        factor, single = factors[number], len(at) == 1
        if not centered:
            raw = z[:, at]
            columns.append(raw * factor if single else pt.dot(raw, factor.T))
            continue
        name = names.b if len(block.pattern) == 1 else f"{names.b}_{number}"
        dims = (names.dim, names.effect_dim) if len(block.pattern) == 1 else None
        size = (shape[0], len(at))
        if root is not None:
            factor = factor[None, None] if single else factor
            zeros = np.zeros(size)
            # K F is not triangular, which a factor has to be
            spread = {"colchol": factor} if K is None else {"colcov": pt.dot(factor, factor.T)}
            columns.append(
                pm.MatrixNormal(name, zeros, rowchol=root, **spread, dims=dims, shape=size)
            )
        elif single:
            columns.append(pm.Normal(name, 0.0, factor, dims=dims, shape=size))
        else:
            zero = np.zeros(len(at))
            spread = {"chol": factor} if K is None else {"cov": pt.dot(factor, factor.T)}
            columns.append(pm.MvNormal(name, zero, **spread, dims=dims, shape=size))
    if centered and len(block.pattern) == 1:
        return columns[0]
    b = columns[0] if len(columns) == 1 else pt.concatenate(columns, axis=1)[:, order]
    return pm.Deterministic(names.b, b, dims=(names.dim, names.effect_dim))


def _levels_root(block: RandomBlock, *, centered: bool) -> np.ndarray | None:
    """A dense root of the covariance between levels, lower triangular where it is centered.

    Raises
    ------
    SamplingError
        If it is too large to be dense, or singular where it must not be.
    """
    if block.relationship is None:
        return None
    if block.n_levels > _MAX_DENSE_LEVELS:
        raise SamplingError(
            f"{block.name!r} has {block.n_levels} related levels: the hierarchical model would "
            f"hold a dense matrix of them (at most {_MAX_DENSE_LEVELS}). Use "
            'parameterization="marginal", which keeps the relationship sparse.'
        )
    if not centered:
        return block.relationship.dense_root
    try:
        return np.linalg.cholesky(block.relationship.dense())
    except np.linalg.LinAlgError:
        raise SamplingError(
            f"The relationship of {block.name!r} is singular (clones, twins), so that its effects "
            'have no density: use parameterization="noncentered" or "marginal".'
        ) from None


def _heavy_tails(block: RandomBlock, names: FactorNames, priors: Priors):
    """What turns normal effects into Student-t ones: tau_j^-1/2, shape (levels, 1).

    With tau_j ~ Gamma(nu/2, nu/2), F z_j / sqrt(tau_j) is multivariate t with scale matrix FF'
    and nu degrees of freedom (Lange, Little and Taylor 1989, JASA 84(408), eq. 2).
    """
    import pymc as pm

    nu = positive(names.nu, priors.of("effects_nu", block.name), dims=None)
    tau = pm.Gamma(names.tau, alpha=nu / 2, beta=nu / 2, dims=names.dim)
    return tau[:, None] ** -0.5


def covariance_roots(
    block: RandomBlock, names: FactorNames, priors: Priors, K: np.ndarray | None
) -> list:
    """Per sub-block a root of the covariance of the formula's effects.

    A number for a single effect, otherwise a matrix, lower triangular where there is no K. Adds the
    standard deviations and correlations to the model.
    """
    import pytensor.tensor as pt

    roots = _own_roots(block, names, priors, K)
    if K is None:
        return roots
    return [
        root if len(part) == 1 else pt.dot(K[np.ix_(part, part)], root)
        for part, root in zip(block.pattern, roots, strict=True)
    ]


def flat_covariance_root(
    block: RandomBlock, names: FactorNames, priors: Priors, K: np.ndarray | None
):
    """Lower triangular root of the covariance of the effects that the priors are about, flat."""
    import pytensor.tensor as pt

    return _whole(block, _own_roots(block, names, priors, K), pt).ravel()


def _own_roots(block: RandomBlock, names: FactorNames, priors: Priors, K: np.ndarray | None):
    """Roots of what the priors are about; standard deviations and correlations of the formula's."""
    import pymc as pm
    import pytensor.tensor as pt

    chosen = priors.of("sd", block.name)
    sd = positive(names.sd if K is None else f"{names.sd}_centered", chosen, names.effect_dim)
    several = sum(len(part) > 1 for part in block.pattern) > 1
    chols = []
    for number, part in enumerate(block.pattern):
        if len(part) == 1:
            chols.append(pt.ones(()))
            continue
        eta = priors.of("corr", block.name)[0].parameters["eta"]
        name = f"chol_{names.corr}" + (f"_{number}" if several else "")
        chols.append(pm.LKJCorr(name, n=len(part), eta=eta))
    roots = [
        sd[part[0]] if len(part) == 1 else sd[list(part)][:, None] * chol
        for part, chol in zip(block.pattern, chols, strict=True)
    ]
    unit = _whole(block, chols, pt)
    if K is not None:
        carried = pt.dot(K, _whole(block, roots, pt))
        sd = pt.sqrt((carried**2).sum(axis=1))
        pm.Deterministic(names.sd, sd, dims=names.effect_dim)
        unit = carried / sd[:, None]
    if pairs := block.correlated_pairs():
        corr = pair_values(pt.dot(unit, unit.T), pairs)
        pm.Deterministic(names.corr, corr, dims=names.pair_dim)
    return roots


def _whole(block: RandomBlock, roots: list, pt):
    """One matrix of the sub-blocks' roots."""
    whole = pt.zeros((block.n_effects, block.n_effects))
    for part, root in zip(block.pattern, roots, strict=True):
        rows, columns = np.ix_(part, part)
        whole = whole[rows, columns].set(root[None, None] if len(part) == 1 else root)
    return whole
