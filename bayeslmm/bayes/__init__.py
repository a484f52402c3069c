"""Priors, the PyMC model a formula stands for, sampling, and the tree of results."""
