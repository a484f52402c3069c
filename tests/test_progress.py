"""Progress bars: over rows, late, and only where somebody looks."""

from __future__ import annotations

import pytest

from bayeslmm import progress


@pytest.mark.parametrize(
    ("looking", "patience", "show", "expected"),
    [
        (True, -1.0, True, True), (True, 1e6, True, False), (False, -1.0, True, False),
        (True, -1.0, False, False),
    ],
)  # fmt: skip
def test_a_bar_over_rows_appears_late_and_to_somebody(
    monkeypatch, capsys, looking, patience, show, expected
):
    monkeypatch.setattr(progress, "_somebody_looks", lambda: looking)
    monkeypatch.setattr(progress, "_PATIENCE", patience)
    made, original = [], progress._bar
    monkeypatch.setattr(progress, "_bar", lambda: made.append(original()) or made[-1])
    batches = [[1, 2, 3], [], [4, 5]]
    assert list(progress.watched(batches, "Reading", 5, show=show)) == batches
    assert len(made) == expected
    if expected:
        assert made[0].tasks[0].completed == 5
        assert made[0].finished
