"""Summaries of random effects in place of their draws, where there are too many to hold.

4000 draws of 200,000 effects take 6.4 GB. Draws are made a few at a time (all effects of one draw
depend on each other), means and variances are accumulated, and single-precision copies go to a
temporary file, from which quantiles are read effect by effect: exact order statistics of the draws,
to seven digits. Memory stays at a few hundred megabytes; the file takes 4 bytes per draw and effect
and is removed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from threading import Lock

import numpy as np

from bayeslmm.errors import SamplingError

__all__ = ["PROBABILITIES", "EffectSink", "EffectSummary", "summarized"]

#: Quantiles that are kept: the median, and limits of 50, 80, 90, 95 and 99 % intervals.
PROBABILITIES = (0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.995)

#: Bytes of draws read at a time.
_READ_BYTES = 64e6
#: Effects and draws written at a time.
_WRITE_VALUES = 4_000_000


@dataclass(frozen=True)
class EffectSummary:
    """Posterior of the effects of one grouping factor, without its draws.

    Attributes
    ----------
    mean, sd : ndarray, shape (J, q)
        The divisor of the variance is the number of draws less one.
    quantiles : ndarray, shape (len(PROBABILITIES), J, q)
    """

    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray


def summarized(effects: list[np.ndarray]) -> list[EffectSummary]:
    """Summaries of draws that are in memory; one (n, J_k, q_k) array per factor."""
    sink = EffectSink(len(effects[0]) if effects else 0, [b.shape[1:] for b in effects])
    if effects:
        sink.put(0, effects)
    return sink.summaries()


class EffectSink:
    """Takes draws of all effects in any order, and gives summaries.

    Parameters
    ----------
    n : int
        Draws to come.
    shapes : list of (int, int)
        Levels and effects of each grouping factor.

    Raises
    ------
    SamplingError
        If there is no room for the temporary file.
    """

    def __init__(self, n: int, shapes: list[tuple[int, int]]):
        self.n, self.shapes = n, shapes
        self.size = sum(J * q for J, q in shapes)
        self.block = max(1, min(n, int(_WRITE_VALUES // max(self.size, 1))))
        self.file = tempfile.TemporaryFile(prefix="bayeslmm-effects-")  # noqa: SIM115
        self.lock = Lock()
        self.buffers: dict[int, tuple[np.ndarray, int]] = {}

    def put(self, start: int, parts: list[np.ndarray]) -> None:
        """Draws ``start``, ``start + 1``, ...; one (m, J_k, q_k) array per factor.

        They are gathered in blocks of consecutive draws, stored effect after effect.
        """
        draws = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
        done = 0
        while done < len(draws):
            number, offset = divmod(start + done, self.block)
            rows = min(self.block - offset, len(draws) - done)
            width = min(self.block, self.n - number * self.block)
            with self.lock:
                if number not in self.buffers:
                    self.buffers[number] = (np.empty((width, self.size), np.float32), 0)
                buffer, filled = self.buffers[number]
                self.buffers[number] = (buffer, filled + rows)
                complete = filled + rows == width
            buffer[offset : offset + rows] = draws[done : done + rows]
            if complete:
                self._write(number, buffer)
            done += rows

    def _write(self, number: int, buffer: np.ndarray) -> None:
        content = np.ascontiguousarray(buffer.T)
        with self.lock:
            del self.buffers[number]
            try:
                self.file.seek(4 * number * self.block * self.size)
                self.file.write(content)
            except OSError as err:
                raise SamplingError(
                    f"No room for the draws of {self.size} random effects in "
                    f"{tempfile.gettempdir()!r} ({err}): {4e-9 * self.n * self.size:.1f} GB are "
                    "needed. Set TMPDIR to a directory with more."
                ) from err

    def summaries(self) -> list[EffectSummary]:
        """One summary per grouping factor; the file is removed."""
        mean, sd = np.empty(self.size), np.empty(self.size)
        quantiles = np.empty((len(PROBABILITIES), self.size))
        step = max(1, int(_READ_BYTES / (4 * self.n)))
        with self.file:
            self.file.flush()
            for first in range(0, self.size, step):
                part = slice(first, min(first + step, self.size))
                draws = self._read(part).astype(np.float64)
                mean[part] = draws.mean(axis=1)
                sd[part] = draws.std(axis=1, ddof=1) if self.n > 1 else 0.0
                quantiles[:, part] = np.quantile(draws, PROBABILITIES, axis=1, overwrite_input=True)
        out, at = [], 0
        for J, q in self.shapes:
            part = slice(at, at + J * q)
            out.append(
                EffectSummary(
                    mean[part].reshape(J, q),
                    sd[part].reshape(J, q),
                    quantiles[:, part].reshape(-1, J, q),
                )
            )
            at += J * q
        return out

    def _read(self, part: slice) -> np.ndarray:
        """All draws of some effects, (effects, n)."""
        out = np.empty((part.stop - part.start, self.n), dtype=np.float32)
        for start in range(0, self.n, self.block):
            width = min(self.block, self.n - start)
            self.file.seek(4 * (start * self.size + part.start * width))
            content = self.file.read(4 * len(out) * width)
            out[:, start : start + width] = np.frombuffer(content, np.float32).reshape(-1, width)
        return out
