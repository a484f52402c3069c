"""What a user writes; the type checker reads this file, nothing runs it.

The public doors give the types they name, not ``Any``.
"""

from __future__ import annotations

from typing import assert_type

import pandas as pd

import bayeslmm as blm

model = blm.LMM(
    "Reaction ~ Days + (Days | Subject)",
    blm.load_dataset("sleepstudy"),
    priors={"Days": blm.Prior("Normal", mu=0, sigma=10)},
)
assert_type(model, blm.LMM)
assert_type(model.fit(draws=100, random_seed=1), blm.PosteriorFit)
assert_type(model.reml(), blm.LikelihoodFit)
assert_type(model.ml(), blm.LikelihoodFit)
assert_type(model.reml().fixef(), pd.DataFrame)
assert_type(model.reml().sigma, float)
assert_type(model.fit().summary(), pd.DataFrame)
assert_type(model.reml().refit(model.design.y), blm.LikelihoodFit)
assert_type(blm.load("fit.nc"), blm.PosteriorFit)
blm.compare_estimates(model.fit(), model.reml())
