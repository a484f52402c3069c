"""Reanalysis of one effect: other priors, Bayes factors, sensitivity, design."""
