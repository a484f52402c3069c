"""Known covariance between levels: pedigrees and labelled matrices, matched to grouping factors."""
