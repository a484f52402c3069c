"""Dask frames: threads, processes, and a worker that dies."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

import bayeslmm as blm
from tests.sources.source_helpers import crossed_data
from tests.sources.test_equality import CROSSED, assert_same_model, model

dd = pytest.importorskip("dask.dataframe")
DATA = crossed_data()


def test_partitions_on_threads_give_the_same_model():
    reference = model(CROSSED, DATA)
    for data, partitions in ((DATA, 7), (DATA.sample(frac=1, random_state=2), 3)):
        frame = dd.from_pandas(data, npartitions=partitions, sort=False)
        streamed = model(CROSSED, frame)
        assert not streamed.design.rows_in_memory
        assert_same_model(reference, streamed)


class _SlowSurvey:
    """Partitions that take a while, so that a worker can be killed among them."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self, part):
        time.sleep(self.seconds)
        return part


@pytest.mark.slow  # two worker processes import everything, twice
def test_two_processes_give_the_same_model_though_one_is_killed():
    distributed = pytest.importorskip("distributed")
    reference = model(CROSSED, DATA)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        frame = dd.from_pandas(DATA, npartitions=12, sort=False)
        assert_same_model(reference, model(CROSSED, frame))
        workers = client.run(os.getpid)
        assert len(workers) == 2
        victim = next(iter(workers.values()))
        slow = frame.map_partitions(_SlowSurvey(0.3), meta=frame._meta)
        killer = threading.Timer(1.0, os.kill, (victim, signal.SIGKILL))
        killer.start()
        survived = model(CROSSED, slow)
        killer.join()
        assert_same_model(reference, survived)
        assert victim not in client.run(os.getpid).values()


def test_fitted_values_come_partition_by_partition():
    frame = dd.from_pandas(DATA, npartitions=4, sort=False)
    fit = model(CROSSED, frame).reml()
    batches = list(blm.fitted_batches(fit))
    assert len(batches) == 4
    expected = model(CROSSED, DATA).reml().fitted()
    fitted = np.concatenate([batch["fitted"] for batch in batches])
    np.testing.assert_allclose(fitted, expected, atol=1e-5)
