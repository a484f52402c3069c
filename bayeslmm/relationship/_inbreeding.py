"""Inbreeding coefficients without the relationship matrix."""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel


@kernel
def inbreeding(sire, dam):
    """Inbreeding coefficients and Mendelian sampling variances.

    Parameters
    ----------
    sire, dam : (n + 1,) int arrays
        Parents of individuals 1 to n, 0 where unknown; parents come before their offspring.
        Element 0 is not used.

    Returns
    -------
    F, D : (n + 1,) arrays
        F[0] = -1 stands for an unknown parent.  D is the variance of an individual's value given
        its parents', over the additive variance.

    Notes
    -----
    Meuwissen and Luo (1992), Genetics Selection Evolution 24, 305-313: A = T D T', and the
    diagonal element of an individual is summed over its ancestors, youngest first.
    """
    n = sire.shape[0] - 1
    F = np.zeros(n + 1)
    D = np.zeros(n + 1)
    share = np.zeros(n + 1)
    older = np.zeros(n + 1, np.int64)
    F[0] = -1.0
    for i in range(1, n + 1):
        D[i] = 0.5 - 0.25 * (F[sire[i]] + F[dam[i]])
        if sire[i] == 0 or dam[i] == 0:
            continue
        if i > 1 and sire[i] == sire[i - 1] and dam[i] == dam[i - 1]:
            F[i] = F[i - 1]
            continue
        total = -1.0
        share[i] = 1.0
        j = i
        while j != 0:
            k = j
            half = 0.5 * share[k]
            young = max(sire[k], dam[k])
            old = min(sire[k], dam[k])
            if young > 0:
                while older[k] > young:
                    k = older[k]
                share[young] += half
                if young != older[k]:
                    older[young] = older[k]
                    older[k] = young
                if old > 0:
                    while older[k] > old:
                        k = older[k]
                    share[old] += half
                    if old != older[k]:
                        older[old] = older[k]
                        older[k] = old
            total += share[j] * share[j] * D[j]
            share[j] = 0.0
            k = j
            j = older[j]
            older[k] = 0
        F[i] = total
    return F, D
