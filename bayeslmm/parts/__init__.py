"""What a model is made of, apart from any data: priors, covariance patterns, structures."""
