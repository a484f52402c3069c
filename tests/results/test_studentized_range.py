"""Tukey's distribution against scipy's and where it is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bayeslmm.results.studentized_range import studentized_range_ppf, studentized_range_sf


def test_two_means_are_a_t_test():
    q = np.array([1e-3, 0.5, 2.0, 6.0, 40.0, 3000.0])
    for df in (0.3, 2.0, 17.5, 4e4, np.inf):
        np.testing.assert_allclose(
            studentized_range_sf(q, 2, df),
            2 * stats.t.sf(q / np.sqrt(2), df),
            rtol=1e-8,
            atol=1e-30,
        )
        upper = studentized_range_ppf(0.95, 2, np.array([df]))
        assert upper[0] == pytest.approx(np.sqrt(2) * stats.t.ppf(0.975, df), rel=1e-8)


@pytest.mark.parametrize(("k", "df"), [(3, 10.0), (4, 2.5), (12, 37.0), (40, 200.0)])
def test_several_means_are_as_in_scipy(k, df):
    q = np.array([0.7, 3.0, 5.5])
    expected = stats.studentized_range.sf(q, k, df)
    # scipy promises 1e-5 or so of a probability with many means
    np.testing.assert_allclose(studentized_range_sf(q, k, df), expected, atol=2e-7, rtol=1e-5)


def test_known_variances_give_the_range_of_normals():
    # P(range of 3 normals <= q): 0.95 at 3.314493 (Harter 1960, table of the range)
    assert studentized_range_ppf(0.95, 3, np.array([np.inf]))[0] == pytest.approx(
        3.314493, abs=1e-6
    )


def test_quantiles_invert_probabilities_and_nan_stays():
    df = np.array([3.0, np.nan, 80.0, np.inf, 0.8])
    for level in (0.5, 0.95, 0.9999):
        q = studentized_range_ppf(level, 7, df)
        back = studentized_range_sf(q, 7, df)
        np.testing.assert_allclose(back[[0, 2, 3, 4]], 1 - level, rtol=1e-8)
        assert np.isnan(q[1])
        assert np.isnan(back[1])
    assert np.isnan(studentized_range_sf(np.array([np.nan]), 7, np.array([5.0])))[0]
    assert studentized_range_sf(np.array([0.0]), 7, np.array([5.0]))[0] == 1.0
