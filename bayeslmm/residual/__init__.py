"""Models whose residuals are correlated or have unequal variances.

V = blockdiag(V_g) over independent blocks of rows, V_g = Z_g Sigma Z_g' + R_g, R_g = D C D with
correlations C of a :class:`~bayeslmm.residual.structures.Structure` and standard deviations D.
Each block is factorized densely; blocks of the same design share one factorization. numpy, scipy
and numba only; knows no formula, no PyMC, no pandas.
"""
