"""log p(y | covariance parameters) of structured residuals as a PyTensor operation."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from bayeslmm.bayes.hierarchical import coords, flat_covariance_root
from bayeslmm.bayes.marginal import fixed_obstacle, fixed_prior
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.residual_model import residual_parts
from bayeslmm.errors import PriorError
from bayeslmm.formula import Design
from bayeslmm.gaussian import FixedPrior
from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import pymc as pm

__all__ = ["BlockLogMarginal", "residual_marginal_model"]

_tokens = itertools.count()


class BlockLogMarginal(Op):
    """Value, and derivatives in the flat factors, in eta and in c; runs in Python.

    Parameters
    ----------
    problem : StructuredProblem
    prior : FixedPrior
        Of the coefficients.
    """

    __props__ = ("token",)

    def __init__(self, problem: StructuredProblem, prior: FixedPrior):
        self.problem, self.root, self.token = problem, problem.prior(prior), next(_tokens)

    def make_node(self, F, eta, c):
        inputs = [pt.as_tensor_variable(v) for v in (F, eta, c)]
        return Apply(self, inputs, [pt.dscalar(), *(pt.dvector() for _ in inputs)])

    def infer_shape(self, node, shapes):
        return [(), *shapes]

    def perform(self, node, inputs, outputs):
        F, eta, c = (np.ascontiguousarray(v, dtype=float) for v in inputs)
        value, d_Sigma, d_eta, d_c = self.problem.evaluate(Theta(F, eta, c), self.root)
        G = [
            (2.0 * D @ L).ravel()
            for D, L in zip(self.problem.split(d_Sigma), self.problem.split(F), strict=True)
        ]
        results = value, np.concatenate([*G, np.zeros(0)]), d_eta, d_c
        for storage, result in zip(outputs, results, strict=True):
            storage[0] = np.asarray(result)

    def pullback(self, inputs, outputs, cotangents):
        return [cotangents[0] * slope for slope in outputs[1:]]


def residual_marginal_model(
    design: Design, priors: Priors, names: ModelNames, problem: StructuredProblem
) -> pm.Model:
    """Covariance parameters alone; coefficients and effects integrated out.

    Raises
    ------
    PriorError
        If a coefficient's prior is neither normal nor flat.
    """
    import pymc as pm

    if obstacle := fixed_obstacle(design, priors):
        raise PriorError(f"There is no marginal model: {obstacle}.")
    maps = priors.effect_maps()
    operation = BlockLogMarginal(maps.applied(problem), fixed_prior(design, priors))
    with pm.Model(coords=coords(design, names)) as result:
        parts = [pt.zeros(0)]
        for block, factor, K in zip(design.blocks, names.factors, maps.matrices, strict=True):
            parts.append(flat_covariance_root(block, factor, priors, K))
        eta, c = residual_parts(design, priors)
        c = pt.zeros(0) if c is None else pt.atleast_1d(c).ravel()
        pm.Potential("log_marginal", operation(pt.concatenate(parts), eta, c)[0])
    return result
