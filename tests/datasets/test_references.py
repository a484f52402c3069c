"""The data are those from which others' numbers come: lme4, glmmTMB and clmm.

At a reference's estimates the Laplace approximation, made here with dense matrices, is the
reference's log-likelihood. One count that is one more, or one row in another group, moves it by
more than the tolerance, mostly by 0.1 or more.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, gammaln, log_expit

from tests.conftest import DATA, dataset, quietly

REFERENCES = json.loads((DATA / "glmer.json").read_text())


def _binomial(y, trials):
    constant = gammaln(trials + 1) - gammaln(y + 1) - gammaln(trials - y + 1)

    def terms(eta):
        p = expit(eta)
        value = constant + y * log_expit(eta) + (trials - y) * log_expit(-eta)
        return value, y - trials * p, -trials * p * (1 - p)

    return terms


def _poisson(y):
    def terms(eta):
        mu = np.exp(eta)
        return y * eta - mu - gammaln(y + 1), y - mu, -mu

    return terms


def _negative_binomial(y, alpha):
    constant = gammaln(y + alpha) - gammaln(alpha) - gammaln(y + 1)

    def terms(eta):
        p = expit(eta - np.log(alpha))
        value = constant + y * np.log(p) + alpha * np.log1p(-p)
        return value, y - (y + alpha) * p, -(y + alpha) * p * (1 - p)

    return terms


def _ordinal(y, threshold):
    cuts = np.concatenate([[-np.inf], threshold, [np.inf]])

    def terms(eta):
        above, below = expit(cuts[y + 1] - eta), expit(cuts[y] - eta)
        value = np.log(above - below)
        return value, above + below - 1, -above * (1 - above) - below * (1 - below)

    return terms


def _terms(reference, data):
    family, response = reference["family"], reference["formula"].split()[0]
    if family == "ordinal":
        return _ordinal(data[response].cat.codes.to_numpy(), reference["threshold"])
    y = data[response].to_numpy(float)
    if family in ("bernoulli", "binomial"):
        return _binomial(y, data["size"].to_numpy(float) if family == "binomial" else 1.0)
    return _poisson(y) if family == "poisson" else _negative_binomial(y, reference["alpha"])


def _covariance(reference, factor, n_effects):
    names, Sigma = [], np.zeros((n_effects, n_effects))
    for row in reference["varcorr"]:
        if row["grp"] == factor:
            if "var2" not in row:
                names.append(row["var1"])
            i, j = names.index(row["var1"]), names.index(row.get("var2", row["var1"]))
            Sigma[i, j] = Sigma[j, i] = row["vcov"]
    return Sigma


def _columns(block, root):
    """Dense columns of standardized effects, shape (rows, levels * effects)."""
    own = np.eye(block.n_levels)[block.codes]
    return (own[:, :, None] * (block.Z @ root)[:, None, :]).reshape(len(own), -1)


def _laplace(reference, data):
    """Log-likelihood at the reference's estimates, and the modes of the effects by factor."""
    rhs = reference["formula"].split("~")[1]
    # the design only: any numbers will do as response of a Gaussian model
    design = quietly(f"number ~ {rhs}", data.assign(number=np.arange(len(data)))).design
    beta = np.array(list(reference["coef"].values()))
    # thresholds are in place of the intercept
    fixed = design.X[:, design.X.shape[1] - len(beta) :] @ beta
    roots = {
        block.name: np.linalg.cholesky(_covariance(reference, block.name, block.n_effects))
        for block in design.blocks
    }
    Z = np.hstack([_columns(block, roots[block.name]) for block in design.blocks])
    terms, u, step = _terms(reference, data), np.zeros(Z.shape[1]), np.inf
    while np.max(np.abs(step)) > 1e-9:
        value, slope, curvature = terms(fixed + Z @ u)
        precision = np.eye(u.size) - (Z.T * curvature) @ Z
        step = np.linalg.solve(precision, Z.T @ slope - u)
        u = u + step
    loglik = value.sum() - u @ u / 2 - np.linalg.slogdet(precision)[1] / 2
    ends = np.cumsum([block.n_levels * block.n_effects for block in design.blocks])[:-1]
    modes = {
        block.name: part.reshape(block.n_levels, -1) @ roots[block.name].T
        for block, part in zip(design.blocks, np.split(u, ends), strict=True)
    }
    return loglik, modes


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: r["name"])
def test_the_log_likelihood_at_the_reference_is_the_reference(reference):
    loglik, modes = _laplace(reference, dataset(reference["data"]))
    assert len(dataset(reference["data"])) == reference["nobs"]
    # lme4 stops its iterations for the modes early and is off by up to 4e-4, the others by 4e-6
    tolerance = 5e-4 if reference["software"].startswith("lme4") else 5e-6
    assert loglik == pytest.approx(reference["loglik"], abs=tolerance)
    for factor, expected in reference.get("ranef", {}).items():
        np.testing.assert_allclose(modes[factor][:, 0], expected, atol=1e-6)
