import numpy as np
from bayeslmm.compiling import kernel


@kernel
def log_density_rows(code, y, trials, weights, eta, phi, score, d_phi):
    total = 0.0
    n = y.shape[0]
    if code == 0:
        for i in range(n):
            x = eta[i]
            e = np.exp(-abs(x))
            l = np.log1p(e)
            s = 1.0 / (1.0 + e)
            p = s if x >= 0 else e * s
            total += weights[i] * (y[i] * x - trials[i] * (l + max(x, 0.0)))
            score[i] = weights[i] * (y[i] - trials[i] * p)
    else:
        for i in range(n):
            e = np.exp(eta[i])
            total += weights[i] * (y[i] * eta[i] - e)
            score[i] = weights[i] * (y[i] - e)
    return total
