"""Compiled log densities of the covariance parameters, one module per engine that has one.

Each module has ``density`` and ``densities`` (at one x and at rows of X), and ``logp``, the same as
a C function of a table of arrays, with ``N_ARRAYS``, its length. All take the same record of priors
(:class:`bayeslmm.bayes.kernels.coordinates.CovariancePrior`) and the record of arrays that the
engine's ``kernel_arguments`` gives. The lines they share stand in each: as one function that finds
the likelihood by the type of the record (``numba.extending.overload``) an evaluation with its
gradient takes 4 to 8 % longer.
"""
