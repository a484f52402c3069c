"""Predictions from posterior draws, in blocks of rows.

A prediction has as many numbers per row as there are draws, so that a table of many rows is made
block by block: no array of all draws by all rows is held unless the draws are asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.covariates import missing_part
from bayeslmm.bayes.draws import coefficient_draws, covariance_draws, effect_array
from bayeslmm.bayes.residual_draws import residual_parameters, row_scales
from bayeslmm.bayes.residuals import draw_noise, effect_multipliers, effect_nu, residual_nu
from bayeslmm.bayes.streams import RandomColumns
from bayeslmm.errors import PACKAGE, ModelWarning
from bayeslmm.formula.extension import row_weights
from bayeslmm.results.conditional_residuals import ConditionalResiduals, are_conditional
from bayeslmm.results.estimability import inestimable_text, undetermined
from bayeslmm.results.prediction import (
    check_prediction,
    prediction_rows,
    scale_rows,
)
from bayeslmm.results.tables import block_size, blocks_of, summarize_blocks

if TYPE_CHECKING:
    from bayeslmm.protocols import PosteriorResult

__all__ = ["PosteriorPrediction", "warn_of_priors_alone"]


class PosteriorPrediction:
    """What :meth:`bayeslmm.PosteriorFit.predict` is asked for.

    Random numbers are those of all rows at once, whatever the size of the blocks.

    Attributes
    ----------
    index : pandas.Index
        Labels of the rows.
    shape : tuple of int
        Chains and draws.
    """

    def __init__(
        self,
        fit: PosteriorResult,
        newdata=None,
        random: str = "conditional",
        kind: str = "mean",
        random_seed: int | None = None,
        allow_new_levels: bool = False,
        residuals: str = "new",
    ):
        check_prediction(random, kind)
        self._fit, design, posterior = fit, fit.model.design, fit.posterior
        self.rows, self.index = prediction_rows(design, newdata, random, allow_new_levels)
        self.shape = (posterior.sizes["chain"], posterior.sizes["draw"])
        self._m = self.shape[0] * self.shape[1]
        self._missing = design.modeled if newdata is None else ()
        self._slopes_known = random == "conditional"
        if random == "new" and any(np.any(Z) for c in self._missing for Z in c.Z_slopes):
            raise ValueError(
                'random="new" for the fitted rows is not available where random slopes act on '
                "unknown values of covariates: give newdata."
            )
        if newdata is not None:
            warn_of_priors_alone(fit, self.rows.X, self.index)
        self._width = self._m * max([1, *(Z.shape[1] for Z in self.rows.Z)])
        self._together = block_size(self._width)
        self._beta = coefficient_draws(design, posterior)[1].reshape(self._m, -1)
        rng = np.random.default_rng(random_seed)
        self._effects = [self._factor(k, rng) for k in range(len(self.rows.Z))]
        self._noise = None
        if kind == "response":
            nu = residual_nu(posterior)
            self._noise = RandomColumns(
                rng,
                lambda rng, part, shape: draw_noise(
                    rng, shape, None if nu is None else nu.ravel()[part]
                ),
                self._m,
                len(self.index),
                self._together,
            )
            self._weights = row_weights(design, newdata, len(self.index))
            self._scale = None if design.residual is None else scale_rows(design, newdata)
        self._given = None
        if are_conditional(design, residuals, random):
            eta, c = (v.reshape(self._m, -1) for v in residual_parameters(design, posterior))
            self._given = ConditionalResiduals(design, newdata, eta, c)
            self._fitted = PosteriorPrediction(fit)

    def _factor(self, k: int, rng: np.random.Generator):
        """Draws of a factor's effects: known levels (m, J, q), or None, and new ones, or None."""
        fit, codes = self._fit, self.rows.codes[k]
        block, names = fit.model.design.blocks[k], fit.names.factors[k]
        known = new = None
        if np.any(codes >= 0):
            known = effect_array(fit.posterior, names.b)
            known = known.reshape(self._m, block.n_levels, block.n_effects)
        if np.any(codes < 0):
            Sigma = covariance_draws(fit.model.design, fit.names, fit.posterior)[k]
            roots = _roots(Sigma.reshape(self._m, *Sigma.shape[2:]))
            nu = effect_nu(fit.posterior, names)
            labels = [str(v) for v, c in zip(self.rows.labels[k], codes, strict=True) if c < 0]
            new = _NewEffects(rng, roots, nu, labels, codes < 0, self._together)
        return known, new

    def linear(self, part: slice | np.ndarray) -> np.ndarray:
        """Draws (m, rows) of x'beta + z'b of some of the rows."""
        rows, fit = self.rows, self._fit
        at = np.arange(len(self.index))[part]
        total = self._beta @ rows.X[part].T
        total += rows.offset[part]
        for Z, codes, (known, new) in zip(rows.Z, rows.codes, self._effects, strict=True):
            here = codes[part]
            old, fresh = np.flatnonzero(here >= 0), np.flatnonzero(here < 0)
            if len(old):
                _add_effects(total, old, known[:, here[old]], Z[part])
            if len(fresh):
                _add_effects(total, fresh, new.of_rows(at[fresh]), Z[part])
        if self._missing:
            total += missing_part(
                fit.model.design, fit.names, fit.posterior, random=self._slopes_known, rows=part
            ).reshape(total.shape)
        return total

    def block(self, part: slice) -> np.ndarray:
        """Draws (chains, draws, rows) of some of the rows."""
        total, at = self.linear(part), np.arange(part.start, part.stop)
        noise = None if self._noise is None else self._noise.columns
        if self._given is not None:
            total += self._given.draws(at, self._residuals, noise)
        elif noise is not None:
            scale = row_scales(
                self._fit.model.design,
                self._fit.posterior,
                None if self._scale is None else self._scale[part],
                self._weights[part],
            )
            own = noise(at)
            own *= scale.reshape(self._m, -1)
            total += own
        return total.reshape(*self.shape, -1)

    def _residuals(self, at: np.ndarray) -> np.ndarray:
        """Draws (m, len(at)) of the residuals of rows of the fit."""
        return self._fit.model.design.y[at] - self._fitted.linear(at)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their draws, block by block."""
        for part in blocks_of(len(self.index), self._width):
            yield part, self.block(part)

    def draws(self) -> np.ndarray:
        """All draws (chains, draws, rows)."""
        out = np.empty((*self.shape, len(self.index)))
        for part, values in self.blocks():
            out[..., part] = values
        return out

    def probabilities(self) -> pd.DataFrame:
        """Of ordered categories; see :class:`bayeslmm.results.response_prediction`."""
        raise NotImplementedError

    def means(self) -> np.ndarray:
        """Mean of each row over the draws."""
        out = np.empty(len(self.index))
        for part, values in self.blocks():
            out[part] = values.mean(axis=(0, 1))
        return out

    def table(self, level: float, interval: str) -> pd.DataFrame:
        """Columns ``mean sd lower upper``."""
        return summarize_blocks(
            self.block, self.index, self._width, level=level, interval=interval, diagnostics=False
        )


class _NewEffects:
    """Effects of new levels of one factor; rows with the same label share them.

    Parameters
    ----------
    roots : (m, q, q) array
    nu : array of m degrees of freedom, or None for normal effects
    labels : list of str
        Of the rows that have a new level.
    new : (n,) bool array
        Which rows have.
    together : int
        How many rows are asked for at a time.
    """

    def __init__(self, rng, roots, nu, labels: list[str], new: np.ndarray, together: int):
        codes, levels = pd.factorize(np.array(labels, dtype=object))
        self._code = np.full(len(new), -1)
        self._code[new] = codes
        self._roots, self._q = roots, roots.shape[-1]
        m = len(roots)
        self._z = RandomColumns(
            rng,
            lambda rng, part, shape: rng.standard_normal(shape),
            m,
            len(levels) * self._q,
            together * self._q,
        )
        self._tails = None
        if nu is not None:
            each: np.ndarray = nu.ravel()
            self._tails = RandomColumns(
                rng,
                lambda rng, part, shape: effect_multipliers(rng, each[part], shape[1])[..., 0],
                m,
                len(levels),
                together,
            )

    def of_rows(self, at: np.ndarray) -> np.ndarray:
        """Effects (m, len(at), q) of rows."""
        levels, inverse = np.unique(self._code[at], return_inverse=True)
        columns = (levels[:, None] * self._q + np.arange(self._q)).ravel()
        z = self._z.columns(columns).reshape(len(self._roots), len(levels), self._q)
        b = np.einsum("mab,mjb->mja", self._roots, z)
        if self._tails is not None:
            b *= self._tails.columns(levels)[..., None]
        return b[:, inverse]


def _add_effects(total: np.ndarray, at: np.ndarray, b: np.ndarray, Z: np.ndarray) -> None:
    """Add z'b (m, len(at)) to the columns `at` of total, which are those of the rows of Z."""
    where = slice(None) if len(at) == total.shape[1] else at
    for a in range(Z.shape[1]):
        total[:, where] += b[:, :, a] * Z[at, a]


def warn_of_priors_alone(fit: PosteriorResult, rows: np.ndarray, index) -> None:
    """Warn of combinations of coefficients that the data do not determine."""
    text = inestimable_text(fit.model, undetermined(fit.model, rows), index)
    if text:
        warnings.warn(
            f"{text}. What is shown rests on the priors of single coefficients, which change with "
            "the order of levels; the likelihood fits have no answer (NaN).",
            ModelWarning,
            skip_file_prefixes=PACKAGE,
        )


def _roots(Sigma: np.ndarray) -> np.ndarray:
    """Symmetric roots of (m, q, q) covariance matrices, singular ones included."""
    values, vectors = np.linalg.eigh(Sigma)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
