"""Random numbers of all draws by all columns, a few columns at a time.

A generator fills an array of draws by columns draw by draw, and a table of predictions needs all
draws of a few rows. The places of the generator's stream at which each draw reaches a block of
columns are noted in a first pass; a block is drawn again from there when it is asked for. The
numbers are those of the whole array, whatever the size of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bayeslmm.errors import SamplingError

__all__ = ["RandomColumns", "seed_of"]

#: Numbers up to which the array is simply kept.
_KEPT = 2**21
_WORD = 2**64


class RandomColumns:
    """An (m, k) array of random numbers of which columns can be asked for.

    Parameters
    ----------
    rng : numpy.random.Generator
        Goes on behind the array afterwards.
    sample : callable
        ``sample(rng, draws, shape)`` gives the numbers of a slice of draws, drawn row by row.
    m, k : int
    chunk : int
        Columns between two places of the stream; best as many as are asked for at a time.
    """

    def __init__(self, rng: np.random.Generator, sample: Callable, m: int, k: int, chunk: int):
        self._sample, self.m, self.k, self._chunk = sample, m, k, chunk
        self._whole = None
        if m * k <= _KEPT or not isinstance(rng.bit_generator, np.random.PCG64):
            self._whole = sample(rng, slice(None), (m, k))
            return
        self._start = rng.bit_generator.state
        self._places = np.empty((m, -(-k // chunk), 2), dtype=np.uint64)
        for draw in range(m):
            for at in range(self._places.shape[1]):
                place = rng.bit_generator.state["state"]["state"]
                self._places[draw, at] = divmod(place, _WORD)
                sample(rng, slice(draw, draw + 1), (1, self._size(at)))

    def _size(self, at: int) -> int:
        return min(self._chunk, self.k - at * self._chunk)

    def columns(self, columns: np.ndarray) -> np.ndarray:
        """Columns (m, len(columns)) at the positions given."""
        if self._whole is not None:
            return self._whole[:, columns]
        out = np.empty((self.m, len(columns)))
        rng = np.random.Generator(np.random.PCG64())
        start, chunks = self._start, columns // self._chunk
        for at in np.unique(chunks):
            mine = np.flatnonzero(chunks == at)
            within = columns[mine] - at * self._chunk
            for draw in range(self.m):
                high, low = (int(v) for v in self._places[draw, at])
                place = start["state"] | {"state": high * _WORD + low}
                rng.bit_generator.state = start | {"state": place}
                numbers = self._sample(rng, slice(draw, draw + 1), (1, self._size(at)))
                out[draw, mine] = numbers[0, within]
        return out


def seed_of(random_seed: int | None) -> int:
    """The seed given, or one drawn, so that every fit can be repeated."""
    if random_seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_seed, bool) or not isinstance(random_seed, int | np.integer):
        raise SamplingError(f"random_seed must be a whole number, not {random_seed!r}.")
    if random_seed < 0:
        raise SamplingError("random_seed must not be negative.")
    return int(random_seed)
