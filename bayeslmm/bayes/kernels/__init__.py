"""Compiled log densities of the covariance parameters, one module per engine that has one.

Each module has ``logp``, a C function of points and a table of arrays, and ``N_ARRAYS``, how many
of them are about the density; :mod:`bayeslmm.bayes.kernels.tables` has the others. It is the only
compiled copy of a density: each takes half a minute. All take the same record of priors
(:class:`bayeslmm.bayes.kernels.coordinates.CovariancePrior`) and the record of arrays that the
engine's ``kernel_arguments`` gives. The lines they share stand in each: as one function that finds
the likelihood by the type of the record (``numba.extending.overload``) an evaluation with its
gradient takes 4 to 8 % longer.
"""
