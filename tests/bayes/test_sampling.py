"""What is asked of a sampler is checked before anything is drawn."""

from __future__ import annotations

import inspect

import pytest

import bayeslmm as blm
from bayeslmm.bayes.sampling import Sampling
from tests.conftest import dataset


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("seed", "random_seed"),
        ("random_state", "random_seed"),
        ("iter", "draws"),
        ("samples", "draws"),
        ("n_draws", "draws"),
        ("warmup", "tune"),
        ("n_cores", "cores"),
        ("core", "cores"),
        ("chain", "chains"),
        ("adapt_delta", "target_accept"),
        ("parametrization", "parameterization"),
    ],
)
def test_another_word_for_an_option_is_an_error_that_says_the_word_here(option, meant):
    model = blm.LMM("Yield ~ 1 + (1 | Batch)", dataset("dyestuff"))
    for method in ("nuts", "importance"):
        with pytest.raises(blm.SamplingError, match=f"no option '{option}'.*called '{meant}'"):
            model.fit(method=method, **{option: 1})


def test_every_word_that_is_suggested_is_an_option_of_fit():
    from bayeslmm.bayes.sampling import _CALLED

    assert set(_CALLED) - {"target_accept", "max_treedepth"} < set(
        inspect.signature(blm.LMM.fit).parameters
    )


def test_options_of_pymc_are_no_other_words():
    import pymc

    theirs = set(inspect.signature(pymc.sample).parameters)
    ours = set(inspect.signature(blm.LMM.fit).parameters)
    options = dict.fromkeys([*(theirs - ours), "target_accept", "max_treedepth", "jitter"])
    assert Sampling(10, options=options).options == options
