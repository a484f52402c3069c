"""REML and maximum likelihood: the optimum, and inference around it.

This room works on a prepared :class:`bayeslmm.gaussian.Problem` and arrays; it knows no
formula, no pandas and no prior.
"""
