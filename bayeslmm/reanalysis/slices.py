"""The likelihood of one effect, nothing integrated out in closed form, as a mixture of slices.

Parameters and effects are z, in which their joint posterior is near a standard normal, and the
effect is linear in z: e = origin + size u'z with a unit vector u. So the posterior is that of e and
of the part of z across u, which is nearly independent of e: along u everything else follows e as
Laplace's approximation says it does. A draw of that part has the exact conditional likelihood

    L_i(e) = p(y, z_i + (t - u'z_i) u) / p_base(e),   t = (e - origin) / size,

a slice of the joint density with the prior on e taken out. Under another prior its weight is
multiplied by int L_i p_new / int L_i p_base (as for the normal components of
:mod:`bayeslmm.reanalysis.integrated`), and p(e | y) is the weighted mean of L_i p_new over its
integral (Gelfand and Smith 1990, JASA 85(410), section 2.6, of conditional densities).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from bayeslmm.bayes.nuts import processors
from bayeslmm.bayes.whitening import WhitenedPosterior
from bayeslmm.errors import PriorError
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.scales import scale_terms, scales
from bayeslmm.reanalysis.integrated import EffectLikelihood
from bayeslmm.reanalysis.posteriors import grid_of, integrated, log_prior_density, prior_tails
from bayeslmm.reanalysis.response_evidence import JointDraws

__all__ = ["SliceLikelihood", "Slices"]

#: Nodes of the slices, in standard deviations of Laplace's approximation.
_NODES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.5, 8.0])
#: A slice times a prior is followed until its log has fallen by this much, in steps that grow, of
#: which there are this many at most.
_FALL, _GROWTH, _MOST = 60.0, 1.3, 80
#: Distance of nodes about the end of a slice, in the same standard deviations, how far below its
#: top a slice may end unseen, and a fall between two nodes that no cubic resolves.
_CLOSE, _SEEN, _CLIFF = 0.06, 20.0, 60.0

#: A log likelihood that is as good as none, and how far one may rise from the last node to its end.
_NOTHING, _RISE = -1e10, 1.0


@dataclass
class Slices:
    """Log likelihoods of e, one per draw of everything else; exact at nodes that all share.

    Attributes
    ----------
    density : WhitenedPosterior
    across : (n, n_dim) array
        z where u'z = 0.
    along : (n_dim,) array
        u.
    origin, size : float
    base : Prior
        On e, in the density.
    cores : int
    nodes : (m,) array
    values, slopes : (m, n) arrays
        Log likelihoods at the nodes, and their derivatives in e.
    """

    density: WhitenedPosterior
    across: np.ndarray
    along: np.ndarray
    origin: float
    size: float
    base: Prior
    cores: int
    nodes: np.ndarray = field(init=False)
    values: np.ndarray = field(init=False)
    slopes: np.ndarray = field(init=False)

    def __post_init__(self):
        self._known: dict[float, tuple[np.ndarray, np.ndarray]] = {}
        self.nodes = np.zeros(0)
        self._add(self.origin + self.size * np.concatenate([-_NODES[:0:-1], _NODES]))

    def z(self, e: np.ndarray) -> np.ndarray:
        """Points (n, m, n_dim) of the slices at values (n or 1, m)."""
        t = (e - self.origin) / self.size
        return self.across[:, None] + t[:, :, None] * self.along

    def at(self, e: float) -> np.ndarray:
        """Log likelihoods (n,) at one value: nothing is interpolated."""
        return self._at(e)[0]

    def _at(self, e: float) -> tuple[np.ndarray, np.ndarray]:
        """Log likelihoods (n,) at one value, and their derivatives in e."""
        if e not in self._known:
            parts = np.array_split(self.z(np.array([[e]]))[:, 0], self.cores)
            with single_threaded_blas(), ThreadPoolExecutor(self.cores) as pool:
                found = list(pool.map(lambda Z: self.density.along(Z, self.along), parts))
            values, slopes = (np.concatenate(part) for part in zip(*found, strict=True))
            log_p, d_log_p, _, _ = scale_terms(scales([self.base]), np.array([e]))
            values, slopes = values - log_p, slopes / self.size - d_log_p
            finite = np.isfinite(slopes) & (values > _NOTHING)
            self._known[e] = np.where(finite, values, -np.inf), np.where(finite, slopes, 0.0)
        return self._known[e]

    def _add(self, nodes: np.ndarray) -> None:
        self.nodes = np.sort(np.concatenate([self.nodes, nodes]))
        found = [self._at(float(e)) for e in self.nodes]
        self.values, self.slopes = (np.array(part) for part in zip(*found, strict=True))

    def follow(self, prior: Prior) -> None:
        """Reach as far as there is any probability under a prior.

        Raises
        ------
        PriorError
            If there is some however far.
        """
        tails = prior_tails(prior)
        for end, bound, way in ((0, tails[0], -1.0), (-1, tails[1], 1.0)):
            for _ in range(_MOST):
                logs = self.values + log_prior_density(prior, self.nodes)[:, None]
                fallen = (logs.max(axis=0) - logs[end]).min() >= _FALL
                if fallen or way * (bound - self.nodes[end]) <= 0:
                    break
                step = _GROWTH * abs(self.nodes[end] - self.nodes[end - int(way)])
                last = self.nodes[end] + way * step
                self._add(np.array([min(last, bound) if way > 0 else max(last, bound)]))
            else:
                if not np.isfinite(bound):
                    raise PriorError(
                        f"Under {prior!r} the posterior does not fall off towards "
                        f"{'plus' if way > 0 else 'minus'} infinity. Use a proper prior."
                    )

        self._near_walls(prior)

    def _near_walls(self, prior: Prior) -> None:
        """Nodes close to where means leave their range, or bend away from its end."""
        while True:
            logs = self.values + log_prior_density(prior, self.nodes)[:, None]
            some = np.maximum(logs[1:], logs[:-1]) > logs.max(axis=0) - _SEEN
            some &= self._falls() > _CLIFF
            wide = some.any(axis=1) & (np.diff(self.nodes) > _CLOSE * self.size)
            if not wide.any():
                return
            self._add(0.5 * (self.nodes[1:] + self.nodes[:-1])[wide])

    def _falls(self) -> np.ndarray:
        """How far each slice (n,) rises or falls between neighboring nodes (m - 1,)."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(np.abs(np.diff(self.values, axis=0)), posinf=np.inf)

    def on(self, grid: np.ndarray, rows: slice) -> np.ndarray:
        """Log likelihoods (n, m) at points (m,) between the nodes, by Hermite's cubics.

        They are of fourth order, exact for quadratics, and what is far away does not matter. Where
        a slice ends between two nodes, it is taken to go on to the middle: right on the average
        over slices. On a cliff slopes are held to three times that between its ends, so that no
        cubic rises above them (Fritsch and Carlson 1980, SIAM J. Numer. Anal. 17(2)); no
        quadratic that rises or falls all the way is steeper than twice that.
        """
        left = np.clip(np.searchsorted(self.nodes, grid, "right") - 1, 0, len(self.nodes) - 2)
        right = left + 1
        width = self.nodes[right] - self.nodes[left]
        t = (grid - self.nodes[left]) / width
        values, slopes = self.values[:, rows].T, self.slopes[:, rows].T
        ends = values[:, left], values[:, right]
        rise = slopes[:, left], slopes[:, right]
        finite = np.isfinite(values)
        cliff = (self._falls() > _CLIFF)[:, rows].T[:, left]
        if finite.all() and not cliff.any():
            return _hermite(t, width, ends, rise)
        with np.errstate(invalid="ignore"):
            steepest = 3.0 * (ends[1] - ends[0]) / width
            bounds = np.minimum(steepest, 0.0), np.maximum(steepest, 0.0)
            # the last node before an end may be where a logarithm is as steep as can be
            beyond = np.maximum(left - 1, 0), np.minimum(right + 1, len(self.nodes) - 1)
            last = (~finite[:, at] | cliff for at in beyond)
            low, high = (
                np.where(near, np.clip(slope, *bounds), slope)
                for near, slope in zip(last, rise, strict=True)
            )
            out = _hermite(t, width, ends, (low, high))
        out = np.where(np.isfinite(out), out, -np.inf)
        for near, far, distance in ((left, right, t), (right, left, 1 - t)):
            rising = slopes[:, near] * (grid - self.nodes[near])
            half = finite[:, near] & ~finite[:, far] & (distance < 0.5)
            out = np.where(half, values[:, near] + np.minimum(rising, _RISE), out)
        return out


def _hermite(t: np.ndarray, width: np.ndarray, ends, slopes) -> np.ndarray:
    """Cubics (n, m) at shares t (m,) of intervals, from values and slopes (n, m) at their ends."""
    out = ends[0] * ((1 + 2 * t) * (1 - t) ** 2) + ends[1] * (t**2 * (3 - 2 * t))
    out += slopes[0] * (width * t * (1 - t) ** 2)
    out += slopes[1] * (width * t**2 * (t - 1))
    return out


@dataclass(frozen=True)
class SliceLikelihood(EffectLikelihood):
    """L(e) as a weighted mixture of slices; see :class:`EffectLikelihood`.

    Attributes
    ----------
    mean, variance : (n,) arrays
        Of the slices under the base prior.
    slices : Slices
    """

    slices: Slices | None = None

    normal: ClassVar[bool] = False
    #: Slices hardly differ in their places, so that few say where their mean is.
    enough: ClassVar[int] = 100

    @classmethod
    def of(cls, drawn: JointDraws, at: int, base: Prior, cores: int | None) -> SliceLikelihood:
        """Of draws under a base prior of the effect, coefficient ``at`` of the density."""
        density = drawn.density
        mode, d = density.mode, density.n_low
        j = d - len(density.laplace.coefficients.code) + at
        size = float(np.linalg.norm(mode.scale[j]))
        u = np.zeros(density.n_dim)
        u[:d] = mode.scale[j] / size
        across = drawn.z - np.outer(drawn.z @ u, u)
        n = len(across)
        slices = Slices(
            density, across, u, float(mode.x[j]), size, base,
            processors() if cores is None else cores,
        )  # fmt: skip
        slices.follow(base)
        grid = slices.origin + size * np.linspace(-8.0, 8.0, 401)
        logs = slices.on(grid, slice(None)) + log_prior_density(base, grid)
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        mean = weights @ grid
        variance = weights @ grid**2 - mean**2
        return cls(
            mean, variance, np.full(n, -np.log(n)),
            inefficiency=1.0 + n / drawn.effective,
            k_hat=drawn.k_hat,
            evidence=drawn.evidence,
            method=drawn.evidence.method,
            slices=slices,
        )  # fmt: skip

    @cached_property
    def flat_log_weights(self) -> np.ndarray:
        """As of :class:`EffectLikelihood`."""
        base = self._slices.base
        grid = grid_of(self, base)
        return self.log_weights - integrated(self, base, grid, self.log_weights)[0]

    @property
    def _slices(self) -> Slices:
        assert self.slices is not None  # a field after others that have defaults
        return self.slices

    def at(self, value: float) -> np.ndarray:
        """Log densities (n,) of the components at one value."""
        return self._slices.at(float(value))

    def on(self, grid: np.ndarray, rows: slice) -> np.ndarray:
        """Log densities (n, m) of some components on a grid (m,)."""
        return self._slices.on(grid, rows)

    def reach(self, prior: Prior) -> tuple[float, float]:
        """Between which values the components are more than nothing under a prior."""
        self._slices.follow(prior)
        return float(self._slices.nodes[0]), float(self._slices.nodes[-1])
