"""The priors of a design: defaults, what they are about, and whether the posterior is proper."""
