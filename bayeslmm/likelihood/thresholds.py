"""Where searches for an optimum stop, and what counts as a zero variance.

One list for the search in Python (``optimize``, ``boundary``) and the compiled one (``_descent``,
``_settling``), which keep the same rules. Kernels take the values in as they are compiled.
"""

#: Quasi-Newton steps at most, and the relative fall of the criterion and the slope that end them.
MOST_ITERATIONS = 2000
SMALLEST_CHANGE = 1e-13
SMALLEST_SLOPE = 1e-5
#: A relative standard deviation below this, over the root of the levels, is looked at closely.
TENDS_TO_ZERO = 0.1
#: An eigenvalue of a (scaled, relative) covariance matrix below this may be an exact zero.
SMALL = 1e-2
#: Below this it is tried whatever the criterion says before the rest has been fitted again.
NEARLY_ZERO = 1e-5
#: A criterion that rises by more than this when small eigenvalues vanish says that they are not 0.
CLEARLY_WORSE = 2.0
#: The criterion may rise by this, for rounding, when an eigenvalue is set to exactly zero.
SAME = 1e-9
#: A slope inward counts as negative below this share of the slopes' size.
FLAT = 1e-8
#: Rows of a scaled factor shorter than this are zero.
ZERO_ROW = 1e-6
#: Newton's steps take a Hessian by differences, one evaluation per parameter.
MOST_PARAMETERS = 60
MAX_ROUNDS = 8
#: A residual standard deviation this small beside the response's is rounding error.
PERFECT = 1e-7
