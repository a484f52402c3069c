"""A fit told of more rows, such as the first responses of a new group, without fitting again.

Given the variance parameters theta, coefficients and random effects have an exact normal
distribution from the cross-products of all rows (Bates et al. 2015, eq. 54-56, with the prior of
beta in it), so they are drawn again with the new rows in it. theta keeps its draws, or has
them reweighted by p(y_new | y, theta), the ratio of two marginal likelihoods, with Pareto-smoothed
weights (Vehtari, Simpson, Gelman, Yao and Gabry 2024, J. Mach. Learn. Res. 25(72)).
"""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.bayes.marginal import fixed_obstacle
from bayeslmm.errors import PACKAGE, ModelWarning, SamplingError, SamplingWarning
from bayeslmm.formula.extension import add_rows
from bayeslmm.gaussian import single_threaded_blas, with_prior
from bayeslmm.gaussian.shared import as_system
from bayeslmm.results.estimates import posterior_estimates
from bayeslmm.results.identification import aliased_coefficients
from bayeslmm.results.left_out import log_likelihoods
from bayeslmm.results.smoothing import smoothed_weights
from bayeslmm.results.support import refuse_families

if TYPE_CHECKING:
    from bayeslmm.bayes.conditional import GivenCovariances
    from bayeslmm.protocols import LikelihoodResult, Model, PosteriorResult

__all__ = ["Conditioning", "condition_likelihood", "condition_posterior"]

_K_HAT = 0.7


@dataclass(frozen=True)
class Conditioning:
    """What a fit was told after it was made.

    Attributes
    ----------
    n_rows : int
        Rows added.
    reweighted : bool
        Whether the variance parameters were updated too.
    k_hat, effective_draws : float or None
        Pareto shape of the weights of theta, and the effective number of its draws.
    """

    n_rows: int
    reweighted: bool
    k_hat: float | None = None
    effective_draws: float | None = None


def condition_posterior[Posterior: PosteriorResult](
    fit: Posterior, rows, *, reweight: bool = False, random_seed: int | None = None
) -> Posterior:
    """See :meth:`bayeslmm.PosteriorFit.condition_on`."""
    from bayeslmm.bayes.tree import posterior_dataset

    refuse_families(fit.model, "A prediction given further rows")
    if obstacle := fixed_obstacle(fit.model.design, fit.priors):
        raise SamplingError(
            f"Coefficients cannot be drawn again in closed form ({obstacle}). Fit the model to all "
            "rows together."
        )
    before = fit.conditioning
    if reweight and before is not None and not before.reweighted:
        raise SamplingError(
            f"{before.n_rows} rows were added to this fit with the variance parameters kept, so "
            "that their draws have not seen them. Add all rows at once to the fit it came from."
        )
    model = _extended(fit.model, rows)
    n_rows = model.design.n_rows - fit.model.design.n_rows + (before.n_rows if before else 0)
    chosen, record = None, Conditioning(n_rows, reweight)
    if reweight:
        chosen, record = _resampled(fit, model, record, random_seed)
    values = _redrawn(fit, model, chosen, random_seed)
    posterior = posterior_dataset(model.design, fit.names, values)
    return _assembled(fit, model, posterior, record)


def condition_likelihood(fit: LikelihoodResult, rows) -> LikelihoodResult:
    """A copy of the fit with coefficients and effects predicted from more rows.

    Variance parameters stay at their estimates. For predictions: likelihood, tests and intervals
    of the copy mean nothing.
    """
    from bayeslmm.gaussian import Solution

    refuse_families(fit.model, "A prediction given further rows")
    model = _extended(fit.model, rows)
    twin: Any = copy(fit)
    twin.__dict__.pop("_findings", None)  # those of the fit without the condition
    for name in ("kept", "_curvature", "_kenward_roger", "_effect_covariances"):
        twin.__dict__.pop(name, None)
    twin.model = model
    with single_threaded_blas():
        problem, theta, moments = _given_estimates(fit, model, twin.kept)
    twin._problem = problem
    twin.loglik = float("nan")
    twin._solution = Solution(
        theta=theta,
        beta=moments.beta,
        sigma=fit.sigma,
        vcov=moments.vcov,
        b=moments.b,
        loglik=float("nan"),
        reml=fit.reml,
        Ls=fit._solution.Ls,
    )
    return twin


def _given_estimates(fit: LikelihoodResult, model: Model, kept):
    """The model's problem, the estimates in its coordinates, and what follows from them."""
    from bayeslmm.assembly import prepared_problem, reduce_rows, structured_problem
    from bayeslmm.gaussian import conditional_moments

    if model.design.residual is None:
        problem = prepared_problem(model.design, reduce_rows(model.design, columns=kept))
        absolute = [fit.sigma * L for L in fit._solution.Ls]
        return problem, fit.theta, conditional_moments(with_prior(problem), absolute, fit.sigma)
    problem = structured_problem(model.design, columns=kept)
    theta, x = fit._engine.moved_to(problem, fit._solution)
    return problem, x, problem.solve(theta)


def _extended(model: Model, rows) -> Model:
    """The same model, priors included, with rows added.

    They may determine coefficients that were aliased before, in a cell that was empty.
    """
    twin = model.with_design(add_rows(model.design, rows))
    if model.aliased:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelWarning)  # said when the model was made
            twin.aliased = aliased_coefficients(twin)
    return twin


def _redrawn(fit: PosteriorResult, model: Model, chosen, random_seed) -> dict[str, np.ndarray]:
    """Draws of everything given each theta; ``chosen`` are positions of theta's draws."""
    from bayeslmm.bayes.conditional import posterior_values
    from bayeslmm.bayes.nuts import processors
    from bayeslmm.bayes.streams import seed_of

    with single_threaded_blas():
        values = posterior_values(
            _given(fit, model, chosen),
            model.design,
            fit.names,
            chains=fit.posterior.sizes["chain"],
            random_seed=seed_of(random_seed),
            cores=processors(),
        )
    structured = model.design.residual is not None
    if structured and not all(np.all(np.isfinite(value)) for value in values.values()):
        raise SamplingError("The covariance of all rows is not positive definite at some draws.")
    return values


def _given(fit: PosteriorResult, model: Model, chosen) -> GivenCovariances:
    """The draws of theta, and the model of all rows given each."""
    from bayeslmm.bayes.conditional import GivenCovariances

    posterior, prior = fit.posterior, fixed_prior(model.design, fit.priors)
    n = posterior.sizes["chain"] * posterior.sizes["draw"]
    chosen = slice(None) if chosen is None else chosen
    columns = [posterior[f.sd].to_numpy().reshape(n, -1) for f in fit.names.factors]
    sds = np.concatenate([np.zeros((n, 0)), *columns], axis=1)[chosen]
    theta = posterior_estimates(fit).flat().part(chosen).theta()
    system = as_system(model.problem)
    return GivenCovariances.of(system, prior, sds, theta, model.design.residual)


def _resampled(fit: PosteriorResult, model: Model, record: Conditioning, random_seed):
    """Positions of draws of theta, drawn by p(y_new | y, theta), and the weights' record."""
    log_ratios = _log_ratios(fit, model)
    if not np.all(np.isfinite(log_ratios)):
        raise SamplingError("The likelihood of the new rows is not finite at some draws.")
    (weights,), (k_hat,) = smoothed_weights(log_ratios[None])
    record = replace(record, k_hat=float(k_hat), effective_draws=float(1 / (weights**2).sum()))
    _warn_if_far(record, fit.posterior.sizes["chain"])
    rng = np.random.default_rng(None if random_seed is None else [random_seed, 2])
    n = len(weights)
    at = (rng.random() + np.arange(n)) / n
    chosen = np.minimum(np.searchsorted(np.cumsum(weights), at), n - 1)
    return rng.permutation(chosen), record


def _log_ratios(fit: PosteriorResult, model: Model) -> np.ndarray:
    """log p(y_new | y, theta) of each draw, (m,): the ratio of two marginal likelihoods."""
    prior, theta = fixed_prior(model.design, fit.priors), posterior_estimates(fit).theta()
    after, before = (log_likelihoods(m.problem, prior, theta) for m in (model, fit.model))
    return after - before


def _warn_if_far(record: Conditioning, chains: int) -> None:
    """k-hat is not a number where one draw has all the weight."""
    assert record.k_hat is not None  # of reweighted draws
    assert record.effective_draws is not None
    reason = ""
    if not record.k_hat <= _K_HAT:
        reason = f"k-hat {record.k_hat:.2f}, above {_K_HAT}"
    elif record.effective_draws < 100 * chains:
        reason = f"{record.effective_draws:.0f} effective draws remain, below {100 * chains}"
    if reason:
        warnings.warn(
            f"The new rows move the variance parameters too far for reweighting ({reason}): fit "
            "the model to all rows instead, for example result.model.fit().",
            SamplingWarning,
            skip_file_prefixes=PACKAGE,
        )


def _assembled(fit: Any, model: Model, posterior, record: Conditioning) -> Any:
    from bayeslmm.bayes.tree import posterior_tree

    note = f"then {record.n_rows} rows added, "
    note += "theta kept" if not record.reweighted else f"theta reweighted, k-hat {record.k_hat:.2f}"
    stats = fit.idata["sample_stats"].to_dataset()
    posterior = posterior.assign_coords(chain=fit.posterior["chain"], draw=fit.posterior["draw"])
    tree = posterior_tree(model.design, fit.names, posterior, stats, dict(fit.posterior.attrs))
    # the marginal likelihood was that of the rows before
    info = replace(
        fit.info,
        reason=f"{fit.info.reason}; {note}",
        log_marginal_likelihood=None,
        log_marginal_likelihood_error=None,
    )
    return type(fit)(model, fit.priors.copy(), tree, info, conditioning=record)
