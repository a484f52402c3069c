"""Mixed models of responses that are not Gaussian, around the Gaussian core."""
