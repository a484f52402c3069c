"""Progress bars: over rows, late, and only where somebody looks."""

from __future__ import annotations

import sys

import pytest

import bayeslmm as blm
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


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_of_chains_end_their_line_on_a_terminal(monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    model = blm.LMM("score ~ Machine + (1 | Worker)", blm.load_dataset("machines"))
    model.fit(draws=20, tune=20, chains=1, random_seed=1, progressbar=True)
    assert capsys.readouterr().err.count("\n") == terminal
