"""Residuals of any structure, by a dense factorization of every independent block of rows.

V = blockdiag(V_g), V_g = Z_g Sigma Z_g' + R_g, R_g = D C D with correlations C of a
:class:`~bayeslmm.parts.structures.Structure` and standard deviations D. Blocks of the same design
share one factorization.
"""
