"""Grouping factors whose levels are related by a known covariance.

Importing the room registers what its problems do in their own way with the generic functions of
the core (``eliminate``, ``effect_variance``, ``variance_derivative_terms``).
"""

from bayeslmm.gaussian.related import coupled_derivatives, coupled_factor, rotated_factor

__all__ = ["coupled_derivatives", "coupled_factor", "rotated_factor"]
