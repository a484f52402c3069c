"""log p(y | covariance parameters) as PyTensor operations, with gradient and numba code.

Both operations map flat covariance factors, eta and c (:class:`bayeslmm.gaussian.system.Theta`) to
the value and its derivatives; the pullback of the value is then a product. Where residuals have one
variance and there is no dense tail, all data are *inputs* of the operation: numba's cache knows an
operation by its class, and would hand one model's data to the next if they were closed over.
"""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch import basic as numba_basic

from bayeslmm.addresses import flat_arrays
from bayeslmm.compiling import fingerprint, kernel, use_compiled
from bayeslmm.gaussian import FixedPrior
from bayeslmm.gaussian._coefficients import CoefficientPrior
from bayeslmm.gaussian._criteria import marginal_head
from bayeslmm.gaussian.problem import Values
from bayeslmm.gaussian.symbolic import Layout
from bayeslmm.gaussian.system import System, Theta

__all__ = ["log_marginal_likelihood"]

use_compiled()  # PyTensor's own code calls the kernels

# not PyTensor's own decorator: what it compiles cannot be called from Python
_N_LAYOUT = len(Layout._fields)
_N_VALUES = len(Values._fields)
_tokens = itertools.count()


class _LogMarginal(Op):
    """Value, and derivatives in the flat factors, in eta and in c."""

    def make_node(self, F, eta, c, *data):
        inputs = [pt.as_tensor_variable(v) for v in (F, eta, c, *data)]
        return Apply(self, inputs, [pt.dscalar(), *(pt.dvector() for _ in range(3))])

    def connection_pattern(self, node):
        return [[True] * 4] * 3 + [[False] * 4] * (len(node.inputs) - 3)

    def infer_shape(self, node, shapes):
        return [(), *shapes[:3]]

    def pullback(self, inputs, outputs, cotangents):
        slopes = [cotangents[0] * slope for slope in outputs[1:]]
        return [*slopes, *(disconnected_type() for _ in inputs[3:])]


class LogMarginalHead(_LogMarginal):
    """One residual variance, no dense tail: every array of the problem is an input."""

    __props__ = ()

    def perform(self, node, inputs, outputs):
        F, eta, _, *data = inputs
        for storage, result in zip(outputs, _head(F, eta, *_unflatten(data)), strict=True):
            storage[0] = np.asarray(result)


class LogMarginalOf(_LogMarginal):
    """Any system: runs in Python, also under numba.

    Parameters
    ----------
    system : System
    prior : CoefficientPrior
        Of the coefficients, see :meth:`bayeslmm.gaussian.system.System.prior`.
    """

    __props__ = ("token",)

    def __init__(self, system: System, prior: CoefficientPrior):
        self.system, self.prior, self.token = system, prior, next(_tokens)

    def perform(self, node, inputs, outputs):
        F, eta, c = (np.ascontiguousarray(v, dtype=float) for v in inputs)
        value, d_Sigma, d_eta, d_c, _ = self.system.evaluate(Theta(F, eta, c), self.prior)
        pairs = zip(self.system.split(d_Sigma), self.system.split(F), strict=True)
        G = np.concatenate([np.zeros(0), *((2.0 * D @ L).ravel() for D, L in pairs)])
        for storage, result in zip(outputs, (value, G, d_eta, d_c), strict=True):
            storage[0] = np.asarray(result)


@kernel
def _factor_gradient(D, F, q, start):
    """dl/dF = 2 (dl/dSigma) F, factor by factor."""
    G = np.zeros(F.shape[0])
    for k in range(q.shape[0]):
        for a in range(q[k]):
            for b in range(q[k]):
                for c in range(q[k]):
                    at = start[k] + c * q[k] + b
                    G[start[k] + a * q[k] + b] += 2.0 * D[start[k] + a * q[k] + c] * F[at]
    return G


@kernel
def _head(F, eta, lay, val, n, sum_log_weights, prior):
    sigma = np.exp(eta[0])
    value, D, d_sigma2, _ = marginal_head(lay, val, F, sigma, n[0], sum_log_weights[0], prior, True)
    G = _factor_gradient(D, F, lay.factor_q, lay.f_ptr)
    return value, G, np.full(1, 2.0 * sigma * sigma * d_sigma2), np.empty(0)


def _unflatten(data):
    """Records of the arrays that :func:`flat_arrays` makes of the engine's arguments."""
    lay, val = Layout(*data[:_N_LAYOUT]), Values(*data[_N_LAYOUT : _N_LAYOUT + _N_VALUES])
    n, sum_log_weights, root, target, log_det, *rest = data[_N_LAYOUT + _N_VALUES :]
    prior = CoefficientPrior(root, target, log_det[0], *rest)
    return lay, val, n, sum_log_weights, prior


@numba_basic.register_funcify_default_op_cache_key(LogMarginalHead)
def _numba_head(op, node, **kwargs):
    # PyTensor calls with as many arguments as there are inputs: the tuple types are spelled out
    # fmt: off
    @numba_basic.numba_njit
    def log_marginal(
        F, eta, c, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16,
        diag, panel, tail, rhs, gram, levels, n, sum_log_weights, root, target, log_det,
        known, basis, pins, shrunk,
    ):
        lay = Layout(
            a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16
        )
        val = Values(diag, panel, tail, rhs, gram, levels)
        prior = CoefficientPrior(root, target, log_det[0], known, basis, pins, shrunk)
        value, G, d_eta, d_c = _head(F, eta, lay, val, n, sum_log_weights, prior)
        return np.asarray(value), G, d_eta, d_c
    # fmt: on

    # kernels that were edited are not to be found in the cache of PyTensor
    version = int(hashlib.sha256(fingerprint().encode()).hexdigest()[:15], 16)
    return log_marginal, version


def log_marginal_likelihood(system: System, fixed: FixedPrior, F, eta, c):
    """log p(y | theta), a scalar variable.

    Parameters
    ----------
    system : System
    fixed : FixedPrior
        Of the coefficients.
    F : vector variable
        Flat factors F_k, Sigma_k = F_k F_k', row by row, one grouping factor after the other.
    eta, c : vector variables
        Of the residuals.
    """
    prior = system.prior(fixed)
    arguments = system.kernel_arguments(prior) if system.engine == "shared" else None
    if arguments is not None:
        return LogMarginalHead()(F, eta, c, *flat_arrays(arguments))[0]
    return LogMarginalOf(system, prior)(F, eta, c)[0]
