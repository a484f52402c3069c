"""Random models: every number of a REML or ML fit against n x n matrices, and said otherwise.

``BAYESLMM_FUZZ_DESIGNS`` and ``BAYESLMM_FUZZ_SEED`` set the number of designs and the first seed
for longer runs; a violation is printed with its seed and formula, and ``draw_case(seed)`` makes
its data again.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.gaussian import single_threaded_blas
from tests.fuzz.cases import Case, draw_case
from tests.fuzz.likelihood_checks import check_fit, check_said, has_maximum
from tests.fuzz.posterior_checks import check_densities, check_draws
from tests.fuzz.transforms import KINDS, say_otherwise

DESIGNS = int(os.environ.get("BAYESLMM_FUZZ_DESIGNS", "200"))
FIRST = int(os.environ.get("BAYESLMM_FUZZ_SEED", "0"))


def violations_of(seed: int) -> tuple[list[str], bool]:
    """What does not agree in the design of a seed, and whether the fit was refused."""
    rng = np.random.default_rng([seed, 99])
    with single_threaded_blas():
        return _violations_of(draw_case(seed), rng)


def _violations_of(case: Case, rng) -> tuple[list[str], bool]:
    found, refused = [], False
    for reml in (True, False):
        method = "REML" if reml else "ML"
        try:
            first = check_fit(case, reml, starts=3, rng=rng)
        except blm.DataError as err:
            refused = True
            found += [f"{method}: {err}"] if has_maximum(case, reml, rng) else []
            continue
        found += [f"{method}: {text}" for text in first.violations]
        for kind in rng.choice(KINDS, 2, replace=False):
            said = say_otherwise(case, str(kind), rng)
            if said is not None:
                found += [f"{method}: {text}" for text in check_said(first, said, reml)]
    return ["\n    ".join([str(case), *found])] if found else [], refused


@pytest.mark.slow
def test_likelihood_fits_are_those_of_dense_matrices_however_they_are_said():
    found, refused = [], 0
    for seed in range(FIRST, FIRST + DESIGNS):
        here, no = violations_of(seed)
        found += here
        refused += no
    assert not found, f"{len(found)} violations:\n" + "\n".join(found)
    assert refused < 0.1 * DESIGNS + 1


def posterior_violations_of(seed: int) -> tuple[list[str], bool]:
    """What changes in a default posterior, and whether importance samples were compared."""
    rng = np.random.default_rng([seed, 98])
    with single_threaded_blas():
        case, found, drawn = draw_case(seed), [], None
        for kind in ("all", "origins", "coding", str(rng.choice(["rows", "labels", "units"]))):
            said = say_otherwise(case, kind, rng, keep_order=True)
            if said is None:
                continue
            found += check_densities(case, said, rng)
            if drawn is None:
                drawn = check_draws(case, said, seed)
                found += drawn or []
    return ["\n    ".join([str(case), *found])] if found else [], drawn is not None


@pytest.mark.slow
def test_default_posteriors_do_not_depend_on_how_a_model_is_said():
    found, compared, seed = [], 0, FIRST
    while compared < DESIGNS and seed < FIRST + 2 * DESIGNS:  # weights may be refused
        here, drawn = posterior_violations_of(seed)
        found += here
        compared += drawn
        seed += 1
    assert not found, f"{len(found)} violations:\n" + "\n".join(found)
    assert compared == DESIGNS
