"""Everything that is compiled, compiled once: small fits of every kind, for their caches.

``bayeslmm compile`` does it at once; :mod:`bayeslmm.background` starts it as a process of its own.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable

import numpy as np

from bayeslmm.background import finished
from bayeslmm.compiling import mark_complete, use_compiled
from bayeslmm.likelihood.optimize import ProfiledSearch
from bayeslmm.progress import progress

__all__ = ["PARTS", "compile_all"]

_SHORT = {"draws": 50, "tune": 50, "chains": 1, "random_seed": 1, "progressbar": False}


def _common() -> list[Callable]:
    """Fits of the models most people begin with; then of what they share."""
    from bayeslmm import LMM, load_dataset

    sleep, machines = load_dataset("sleepstudy"), load_dataset("machines")
    crossed = "diameter ~ 1 + (1 | plate) + (1 | sample)"
    return [
        lambda: _both(LMM("Reaction ~ Days + (Days | Subject)", sleep)),
        lambda: _both(LMM("Reaction ~ Days + (1 | Subject)", sleep), "importance"),
        lambda: _both(LMM(crossed, load_dataset("penicillin"))),
        mark_complete,
        lambda: _many(LMM("Reaction ~ Days + (1 | Subject)", sleep)),
        lambda: mark_complete("search"),
        lambda: _both(LMM("score ~ Machine + (Machine | Worker)", machines)),
    ]


def _others() -> list[Callable]:
    """Fits of residual structures, unequal variances, relatives, and many crossed levels."""
    from bayeslmm import LMM, load_dataset, pedigree_relationship

    sleep, flock = load_dataset("sleepstudy"), load_dataset("flock")
    days = sleep.assign(day=sleep["Days"].astype(str))
    own, ar1 = "Reaction ~ Days + (1 | Subject)", "ar1(Days | Subject)"
    kin = {"id": pedigree_relationship(load_dataset("flock_pedigree"))}
    achieved, rated = load_dataset("mathachieve"), load_dataset("insteval")
    return [
        lambda: _both(LMM(own, sleep, residual=ar1)),
        lambda: _both(LMM("MathAch ~ SES + (1 | School)", achieved, sigma="~ Sex")),
        lambda: _both(LMM("weight ~ sex + (1 | id)", flock, relationship=kin), "importance"),
        lambda: _both(LMM(f"{own} + (1 | day)", days, residual=ar1), "importance"),
        lambda: LMM("y ~ service + (1 | s) + (1 | d)", rated).reml().summary(),
    ]


def _responses() -> list[Callable]:
    """Fits of responses that are not Gaussian, whose kernels serve every family."""
    from bayeslmm import MixedModel, load_dataset

    counts = "incidence of size ~ period + (1 | herd)"
    ticks = "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)"
    cows, grouse = load_dataset("cbpp"), load_dataset("grouseticks")
    return [
        lambda: _fits(MixedModel(counts, cows, family="binomial"), "importance"),
        lambda: _fits(MixedModel(ticks, grouse, family="negativebinomial"), "nuts"),
    ]


def _fits(model, method: str) -> None:
    fit = model.ml()
    fit.summary()
    fit.predict()
    post = model.fit(method=method, **_SHORT)
    post.summary()
    post.loo(exact=False, progressbar=False)


def _both(model, method: str = "nuts") -> None:
    fit = model.reml()
    fit.summary()
    fit.ranef()
    post = model.fit(method=method, **_SHORT)
    post.summary()


def _many(model) -> None:
    model.reml().refit_many(np.tile(model.design.y[:, None], 100), progressbar=False)
    ProfiledSearch(model.problem, True).by_compiled(None)


#: What can be compiled by itself, in the order in which it is worth it.
PARTS: dict[str, Callable[[], list[Callable]]] = {
    "common": _common, "responses": _responses, "others": _others,
}  # fmt: skip


def compile_all(progressbar: bool = False, parts: Iterable[str] = tuple(PARTS)) -> None:
    """Compile and cache what fits of every kind need.

    Parameters
    ----------
    progressbar : bool
    parts : iterable of str
        Of :data:`PARTS`: two processes share them out.
    """
    use_compiled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = [step for part in parts for step in PARTS[part]()]
        for step in progress(steps, "Compiling", show=progressbar):
            step()


def _main() -> None:
    if hasattr(os, "nice"):
        os.nice(19)
    try:
        compile_all()
    finally:
        finished()


if __name__ == "__main__":
    _main()
