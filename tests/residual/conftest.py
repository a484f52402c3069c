"""One BLAS thread: the dense counterparts here are small matrices."""

from __future__ import annotations

import pytest

from bayeslmm.gaussian import single_threaded_blas


@pytest.fixture(autouse=True)
def _one_thread():
    with single_threaded_blas():
        yield
