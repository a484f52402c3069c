"""The equation of a response that is not Gaussian: its distribution, link and linear predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bayeslmm.errors import DataError
from bayeslmm.results.equation_writers import Line, Writer

__all__ = ["refuse_marginal_form", "response_lines"]


def refuse_marginal_form(family: str) -> None:
    """Means and variances with the effects integrated out are integrals without a closed form.

    Raises
    ------
    DataError
    """
    raise DataError(
        f'The marginal form of the equation is not available with family="{family}": with the '
        "random effects integrated out the mean is no longer the inverse link of a sum. Use "
        'form="conditional".'
    )


def response_lines(w: Writer, predictor: list[str]) -> Iterator[Line]:
    """The response given its mean, and the mean as the inverse link of the predictor.

    Parameters
    ----------
    w : Writer
    predictor : list of str
        Terms of the linear predictor.
    """
    design, family = w.design, w.design.family
    predictor = predictor or ["0"]
    response = w.value(design.response, "i")
    if family.name == "ordinal":
        eta, threshold = w.indexed("eta", ["i"]), w.indexed("c", ["k"])
        below = w.probability(f"{response} {w.at_most} k")
        counted = w.counted("k", len(design.categories) - 1)
        yield _linked(w, below), "=", [f"{threshold} - {eta}{counted}"]
        yield eta, "=", predictor
        return
    mu = w.indexed("mu", ["i"])
    if family.name == "lognormal":
        yield w.log(response), "~", [w.normal(mu, w.squared(w.greek("sigma")))]
        yield mu, "=", predictor
        return
    if design.categories:  # of which the second is the event
        response = w.indicator(f"{response} = {w.name(design.categories[1])}")
    yield response, "~", [_distribution(w, mu)]
    if family.name == "negativebinomial":
        yield w.var(response), "=", [mu, w.ratio(w.square(mu), w.greek("alpha"))]
    yield _linked(w, mu), "=", predictor


def _linked(w: Writer, mu: str) -> str:
    """g(mu)."""
    link = w.design.family.link.name
    if link == "identity":
        return mu
    if link == "log":
        return w.log(mu)
    return w.power(mu, "-1") if link == "inverse" else w.function(link, mu)


def _distribution(w: Writer, mu: str) -> str:
    alpha, kappa = w.greek("alpha"), w.greek("kappa")
    trials = w.design.formula.trials
    size = w.value(trials, "i") if trials else "1"
    written: dict[str, Callable[[], str]] = {
        "bernoulli": lambda: w.function("Bernoulli", mu),
        "binomial": lambda: w.function("Binomial", size, mu),
        "poisson": lambda: w.function("Poisson", mu),
        "negativebinomial": lambda: w.function("NegativeBinomial", mu, alpha),
        "gamma": lambda: w.gamma(alpha, w.ratio(alpha, mu)),
        "beta": lambda: w.function("Beta", w.times(mu, kappa), w.times(f"(1 - {mu})", kappa)),
    }
    name = w.design.family.name
    if not name.startswith("zero_inflated_"):
        return written[name]()
    counts, zero = written[name.removeprefix("zero_inflated_")](), w.name("zi")
    at_zero = w.times(zero, w.indexed("delta", ["0"]))  # all its mass there
    return f"{at_zero} + {w.times(f'(1 - {zero})', counts)}"
