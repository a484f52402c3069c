"""Simulations from the priors, and their posteriors, where effects are sampled.

Of responses that are not Gaussian, and of Student-t residuals and effects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.importance import MAX_K_HAT
from bayeslmm.bayes.kernels.coordinates import natural
from bayeslmm.bayes.laplace_posterior import LaplacePosterior, laplace_posterior
from bayeslmm.bayes.residuals import effect_multipliers
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.whitened_fitting import (
    LowDraws,
    in_formula,
    low_draws,
    whitened_chains,
    whitened_sample,
)
from bayeslmm.bayes.whitening import whitened_posterior
from bayeslmm.errors import SamplingError
from bayeslmm.gaussian import draw_levels
from bayeslmm.parts.parameters import nu_key
from bayeslmm.parts.scales import draw_scales, unconstrain
from bayeslmm.priors.parameters import component_names

if TYPE_CHECKING:
    from bayeslmm.protocols import Model

__all__ = ["ResponseSimulator"]

_TUNE = 250
_PROPOSALS = 2000
#: Effects are part of the chain, and a standard deviation moves more slowly than the rest.
_THIN = 8


@dataclass(frozen=True)
class ResponseSimulator:
    """What stays fixed over simulations: rows, covariates, trials, weights and priors.

    Attributes
    ----------
    model : Model
    laplace : LaplacePosterior
        Of the model's own response.
    method : {"nuts", "importance"}
    n_draws : int
    names : list of str
        Of the parameters ranked.
    """

    model: Model
    laplace: LaplacePosterior
    method: str
    n_draws: int
    names: list[str]

    @classmethod
    def of(cls, model: Model, method: str, n_draws: int) -> ResponseSimulator:
        """Of a model whose priors are proper and known to the compiled density."""
        design = model.design
        names = list(design.coef_names)
        for block in design.blocks:
            names += component_names(block)
            if nu_key(block.name) in model.priors:
                names.append(nu_key(block.name))
        own = {parameter.key: parameter for parameter in model.priors.parameters}
        names += [c.name for of in design.family.parameters for c in own[of.key].components]
        return cls(model, laplace_posterior(design, model.priors), method, n_draws, names)

    def run(self, seed: np.random.SeedSequence) -> tuple[np.ndarray, np.ndarray, bool]:
        """Ranks, true values, and whether importance sampling fell back to NUTS."""
        rng = np.random.default_rng(seed)
        x = self._parameters(rng)
        truth = self._named(self._at(x))[0]
        laplace = self._laplace_of(self._simulated(x, rng))
        importance = self.method == "importance"
        draws = self._weighted(laplace, rng) if importance else None
        fell_back = importance and draws is None
        posterior = self._named(self._sampled(laplace, rng) if draws is None else draws)
        return (posterior < truth).sum(axis=0), truth, fell_back

    def _parameters(self, rng: np.random.Generator) -> np.ndarray:
        """Coordinates of all parameters, from the priors."""
        laplace = self.laplace
        prior, phi = laplace.prior, draw_scales(laplace.phi, 1, rng)[0]
        if laplace.ordered:  # independent ones given that they are in order are sorted ones
            phi = np.sort(phi)
        return np.concatenate(
            [
                unconstrain(prior.scales, draw_scales(prior.scales, 1, rng)[0]),
                np.arctanh(2 * rng.beta(prior.exponent, prior.exponent) - 1),
                laplace.coordinates_of_phi(phi),
                unconstrain(laplace.tails, draw_scales(laplace.tails, 1, rng)[0]),
                unconstrain(laplace.coefficients, draw_scales(laplace.coefficients, 1, rng)[0]),
            ]
        )

    def _at(self, x: np.ndarray) -> LowDraws:
        """The parameters of coordinates x, as one draw."""
        laplace = self.laplace
        m = len(laplace.prior.effects.diagonal)
        sds = natural(x[: laplace.n_covariances], laplace.prior).scalar[:m]
        at = laplace.natural(x)
        return LowDraws(sds[None], at.F[None], at.phi[None], at.beta[None], at.nu[None])

    def _simulated(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        system, at = self.laplace.system, self.laplace.natural(x)
        eta = system.offset + system.X @ at.beta
        for k, (rows, L) in enumerate(zip(system.factors, system.split(at.F), strict=True)):
            b = draw_levels(None, rows.n_levels, L, rng)
            if len(at.nu):
                b = b * effect_multipliers(rng, at.nu[k : k + 1], rows.n_levels)[0]
            eta = eta + (rows.Z * b[rows.codes]).sum(axis=1)
        family, trials = system.family, self.model.design.trials
        with np.errstate(all="ignore"):
            try:
                y = family.draw(rng, eta, at.phi, system.trials)
                wrong = family.check(y, trials)
            except ValueError as err:  # a mean outside of what numpy draws from
                wrong = 0, str(err)
        if wrong:
            raise SamplingError(
                f"The priors simulate responses that {family.name} responses cannot be, such as "
                f"one that {wrong[1]}. Give them less spread, or use another link."
            )
        return y

    def _laplace_of(self, y: np.ndarray) -> LaplacePosterior:
        """The same priors and rows with another response."""
        return replace(self.laplace, system=self.laplace.system.with_response(y), _near={})

    def _weighted(self, laplace: LaplacePosterior, rng) -> LowDraws | None:
        """n_draws by importance sampling; None where its weights cannot be trusted."""
        density = whitened_posterior(laplace, signed=False)
        sample = whitened_sample(density, _PROPOSALS, rng)
        if sample.k_hat > MAX_K_HAT:
            return None
        return low_draws(density, sample.x[sample.resample(self.n_draws, rng)])[0]

    def _sampled(self, laplace: LaplacePosterior, rng) -> LowDraws:
        """n_draws by NUTS, independent for all practical purposes."""
        density = whitened_posterior(laplace)
        sampling = Sampling(
            draws=self.n_draws * _THIN, chains=1, cores=1, random_seed=int(rng.integers(2**31))
        )
        z, _ = whitened_chains(density, sampling, _TUNE)
        return low_draws(density, z[0, ::_THIN])[0]

    def _named(self, draws: LowDraws) -> np.ndarray:
        """Columns in the order of the names, (n, k)."""
        design = self.model.design
        beta, phi, sds, factors = in_formula(self.laplace, self.model.priors, draws)
        columns, start = [beta], 0
        for k, (block, L) in enumerate(zip(design.blocks, factors, strict=True)):
            part = sds[:, start : start + block.n_effects]
            columns.append(part)
            if pairs := block.correlated_pairs():
                unit = L / part[:, :, None]
                R = unit @ unit.transpose(0, 2, 1)
                columns.append(np.stack([R[:, i, j] for i, j in pairs], axis=1))
            if draws.nu.shape[1]:
                columns.append(draws.nu[:, k : k + 1])
            start += block.n_effects
        return np.concatenate([*columns, phi], axis=1)
