"""The joint density as a C function, which is compiled when this module is imported.

See :mod:`bayeslmm.bayes.kernels.joint`.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from bayeslmm.bayes.kernels.joint import N_JOINT, read_joint, whitened
from bayeslmm.bayes.kernels.tables import LOGP
from bayeslmm.compiling import c_function

__all__ = ["logp"]


@c_function(LOGP)
def logp(n_dim, z, out, value, user_data):
    """Log density and gradient in z."""
    t = carray(user_data, (3 * N_JOINT,), np.int64)
    gradient, total = carray(out, (n_dim,)), carray(value, (1,))
    total[0] = whitened(carray(z, (n_dim,)), read_joint(t, 0), gradient)
    fine = np.isfinite(total[0])
    for i in range(gradient.shape[0]):
        fine = fine and np.isfinite(gradient[i])
    return 0 if fine else 3
