"""Models and fits go to other processes and are copied, whatever their formula calls."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.conftest import quietly

N = 60


def data() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "g": np.repeat(np.arange(10), 6),
            "s": np.arange(N) % 7,
            "t": np.tile(np.arange(6), 10),
            "x": rng.uniform(1, 5, N),
            "f": np.tile(["a", "b"], N // 2),
            "h": np.repeat(["u", "v"], N // 2),
        }
    )
    noise = rng.normal(size=10)[frame["g"]] + rng.normal(size=N)
    return frame.assign(y=frame["x"] + noise)


def double(values):
    return 2 * values


def missing() -> pd.DataFrame:
    frame = data()
    frame.loc[3, "x"] = np.nan
    return frame


def relationship() -> pd.DataFrame:
    return pd.DataFrame(np.eye(10) + 0.1, index=range(10), columns=range(10))


MODELS = {
    "calls": ("y ~ log(x) + np.log(x) + I(x**2) + C(t) + C(x > 3) + offset(x/10) + (1 | g)", {}),
    "states": ("y ~ poly(x, 2) + bs(t, df=4) + center(x):f + cr(x, df=4) + (scale(x) || g)", {}),
    "response": ("np.log(y + 100) ~ x + (1 | g) + (1 | s)", {}),
    "contrasts": ("y ~ C(f, Sum) + S(h) + T(f):x + np.where(x > 2, 1, 0) + (1 | g)", {}),
    "group means": ("y ~ within(x, g) + between(x, g) + (1 | g)", {}),
    "function": ("y ~ double(x) + (1 | g)", {"namespace": {"double": double}}),
    "correlated": ("y ~ log(x) + (1 | g)", {"residual": "ar1(t | g)"}),
    "unstructured": ("y ~ log(x)", {"residual": "unstructured(t | g)"}),
    "sigma": ("y ~ log(x) + (1 | g)", {"sigma": "~ f"}),
    "log-linear sigma": ("y ~ x + (1 | g)", {"sigma": "~ log(x)"}),
    "relationship": ("y ~ log(x) + (1 | g)", {"relationship": {"g": relationship()}}),
    "student": ("y ~ log(x) + (1 | g)", {"family": "student", "random": "student"}),
    "modeled": ("y ~ x + log(s + 1) + (1 | g)", {"missing": "model"}),
}


def made(kind: str) -> blm.LMM:
    formula, options = MODELS[kind]
    return quietly(formula, missing() if kind == "modeled" else data(), **options)


def copies(thing) -> list:
    cloudpickle = pytest.importorskip("cloudpickle")
    return [
        pickle.loads(pickle.dumps(thing)),
        pickle.loads(cloudpickle.dumps(thing)),
        copy.deepcopy(thing),
    ]


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_survives_pickling_and_copying(kind):
    model = made(kind)
    new = data().assign(x=lambda d: d["x"] + 0.25)
    expected = model.design.evaluate(new)
    for other in copies(model):
        assert repr(other) == repr(model)
        np.testing.assert_array_equal(other.design.evaluate(new).X, expected.X)
        assert other.design.blocks == () or other.design.blocks[0].levels == tuple(range(10))


@pytest.mark.parametrize("kind", [k for k in MODELS if k not in ("student", "modeled")])
def test_a_likelihood_fit_survives_pickling_and_copying(kind):
    fit = made(kind).reml()
    table, prediction = fit.fixef(), fit.predict(data())
    for other in copies(fit):
        pd.testing.assert_frame_equal(other.fixef(), table)
        np.testing.assert_array_equal(other.predict(data()), prediction)
        assert other.loglik == fit.loglik


@pytest.mark.parametrize("kind", ["calls", "correlated", "sigma", "relationship"])
@pytest.mark.filterwarnings("ignore::bayeslmm.SamplingWarning")
def test_a_posterior_survives_pickling_and_copying(kind):
    fit = made(kind).fit(draws=20, tune=20, chains=1, random_seed=1, progressbar=False)
    table = fit.summary()
    for other in copies(fit):
        pd.testing.assert_frame_equal(other.summary(), table)
        assert other.info == fit.info
        assert repr(other.priors) == repr(fit.priors)


def sources(tmp_path) -> dict:
    frame = data()
    frame.to_parquet(tmp_path / "data.parquet")
    frame.to_csv(tmp_path / "data.csv")
    found = {"frame": frame, "parquet": tmp_path / "data.parquet", "csv": tmp_path / "data.csv"}
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.dataset as dataset

    found |= {"table": arrow.Table.from_pandas(frame), "dataset": dataset.dataset(found["parquet"])}
    found["polars"] = pytest.importorskip("polars").DataFrame(frame.to_dict("list")).lazy()
    found["duckdb"] = pytest.importorskip("duckdb").from_df(frame)
    return found


@pytest.mark.parametrize(
    "kind", ["frame", "parquet", "csv", "table", "dataset", "polars", "duckdb"]
)
def test_a_model_of_rows_in_batches_survives_pickling_and_copying(kind, tmp_path):
    source = blm.scan(sources(tmp_path)[kind], batch_rows=25)
    fit = quietly("y ~ scale(x) + log(x) + C(t) + (1 | g)", source).reml()
    fitted = pd.concat(blm.fitted_batches(fit))
    for other in copies(fit):
        assert other.loglik == fit.loglik
        if kind == "duckdb" and other.model.design.source._reader.relation is None:
            with pytest.raises(blm.DataError, match="another process"):  # where its connection is
                next(blm.fitted_batches(other))
        else:
            pd.testing.assert_frame_equal(pd.concat(blm.fitted_batches(other)), fitted)


def loglik_of(model: blm.LMM) -> float:
    return model.reml().loglik


def raise_ours(model: blm.LMM) -> None:
    raise blm.DataError(f"nothing wrong with {model.design.response}")


def test_models_and_errors_of_ours_go_through_a_pool_of_spawned_processes():
    models = [made(kind) for kind in ("calls", "states", "function")]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as workers:
        found = list(workers.map(loglik_of, models))
        with pytest.raises(blm.DataError, match="nothing wrong with y"):
            workers.submit(raise_ours, models[0]).result()
    assert found == pytest.approx([loglik_of(model) for model in models], rel=1e-12)


def test_models_go_through_joblib():
    joblib = pytest.importorskip("joblib")
    model = quietly("y ~ half(x) + (1 | g)", data(), namespace={"half": lambda v: v / 2})
    call = joblib.delayed(lambda m: m.reml().loglik)  # sent as code, which pickle cannot do
    found = joblib.Parallel(n_jobs=2)([call(m) for m in (made("calls"), model)])
    assert found == pytest.approx([loglik_of(made("calls")), loglik_of(model)], rel=1e-12)
