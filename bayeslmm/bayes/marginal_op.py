"""log p(y | covariance parameters) as PyTensor operations, with gradient and numba code.

Both operations map a flat buffer of covariance factors and sigma to the value and its two
derivatives; the pullback of the value is then a product. Where the numerical core runs as one
compiled call, all data are *inputs* of the operation: numba's cache knows an operation by its
class, and would hand one model's data to the next if they were closed over.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch import basic as numba_basic

from bayeslmm.compiling import kernel
from bayeslmm.gaussian import MarginalModel, log_marginal_flat
from bayeslmm.gaussian._criteria import marginal_head
from bayeslmm.gaussian.problem import Values
from bayeslmm.gaussian.symbolic import Layout

__all__ = ["log_marginal_likelihood"]

# not PyTensor's own decorator: what it compiles cannot be called from Python
_N_LAYOUT = len(Layout._fields)
_N_VALUES = len(Values._fields)
_tokens = itertools.count()


class _LogMarginal(Op):
    """Value, derivative in the flat factors, derivative in sigma."""

    def make_node(self, F, sigma, *data):
        F = pt.as_tensor_variable(F)
        sigma = pt.as_tensor_variable(sigma)
        inputs = [F, sigma, *(pt.as_tensor_variable(d) for d in data)]
        return Apply(self, inputs, [pt.dscalar(), pt.dvector(), pt.dscalar()])

    def connection_pattern(self, node):
        return [[True] * 3] * 2 + [[False] * 3] * (len(node.inputs) - 2)

    def infer_shape(self, node, shapes):
        return [(), shapes[0], ()]

    def pullback(self, inputs, outputs, cotangents):
        value = cotangents[0]
        return [
            value * outputs[1],
            value * outputs[2],
            *(disconnected_type() for _ in inputs[2:]),
        ]


class LogMarginalHead(_LogMarginal):
    """Without a dense tail: every array of the prepared problem is an input."""

    __props__ = ()

    def perform(self, node, inputs, outputs):
        F, sigma, *data = inputs
        results = _head(F, float(sigma), *_unflatten(data))
        for storage, result in zip(outputs, results, strict=True):
            storage[0] = np.asarray(result)


class LogMarginalDense(_LogMarginal):
    """With a dense tail, which is LAPACK's: runs in Python, also under numba.

    Parameters
    ----------
    model : MarginalModel
    """

    __props__ = ("token",)

    def __init__(self, model: MarginalModel):
        self.model, self.token = model, next(_tokens)

    def perform(self, node, inputs, outputs):
        F, sigma = inputs
        F = np.asarray(F)
        value, D, d_sigma2 = log_marginal_flat(self.model, F, float(sigma))
        lay = self.model.problem.layout
        results = value, _factor_gradient(D, F, lay.factor_q, lay.f_ptr), 2 * sigma * d_sigma2
        for storage, result in zip(outputs, results, strict=True):
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
def _head(F, sigma, lay, val, numbers, root, target):
    value, D, d_sigma2 = marginal_head(
        lay, val, F, sigma, int(numbers[0]), numbers[1], root, target, numbers[2], True
    )
    G = _factor_gradient(D, F, lay.factor_q, lay.f_ptr)
    return value, G, 2.0 * sigma * d_sigma2


def _flatten(model: MarginalModel) -> list[np.ndarray]:
    """Every array of a model without a dense tail; :func:`_unflatten` is the way back."""
    lay, val, n, sum_log_weights, root, target, log_det = model.kernel_arguments()
    return [*lay, *val, np.array([float(n), sum_log_weights, log_det]), root, target]


def _unflatten(data):
    lay, val = Layout(*data[:_N_LAYOUT]), Values(*data[_N_LAYOUT : _N_LAYOUT + _N_VALUES])
    return lay, val, *data[_N_LAYOUT + _N_VALUES :]


@numba_basic.register_funcify_default_op_cache_key(LogMarginalHead)
def _numba_head(op, node, **kwargs):
    # PyTensor calls with as many arguments as there are inputs: the tuple types are spelled out
    # fmt: off
    @numba_basic.numba_njit
    def log_marginal(
        F, sigma, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16,
        diag, panel, tail, rhs, gram, levels, numbers, root, target,
    ):
        lay = Layout(
            a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16
        )
        val = Values(diag, panel, tail, rhs, gram, levels)
        value, G, d_sigma = _head(F, sigma.item(), lay, val, numbers, root, target)
        return np.asarray(value), G, np.asarray(d_sigma)
    # fmt: on

    return log_marginal


def log_marginal_likelihood(model: MarginalModel, F, sigma):
    """log p(y | theta), a scalar variable.

    Parameters
    ----------
    model : MarginalModel
    F : vector variable
        Flat factors F_k, Sigma_k = F_k F_k', row by row, one grouping factor after the other.
    sigma : scalar variable
    """
    if model.problem.head_only:
        return LogMarginalHead()(F, sigma, *_flatten(model))[0]
    return LogMarginalDense(model)(F, sigma)[0]
