"""Independent residuals, what all correlation structures share, and bounded correlations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from bayeslmm.parts.correlations import CorrelationLayout, correlation_layout
from bayeslmm.parts.prior import Prior

__all__ = ["Bounded", "Structure", "Symbols", "gaps"]


class Symbols(Protocol):
    """How an equation is written, in LaTeX or in text."""

    def greek(self, letter: str) -> str: ...
    def name(self, text: str) -> str: ...
    def indexed(self, letter: str, at: list[str]) -> str: ...
    def power(self, base: str, exponent: str) -> str: ...
    def exponential(self, what: str) -> str: ...


@dataclass(frozen=True)
class Structure:
    """Independent residuals, and what all structures have in common.

    A structure turns unconstrained numbers w into its natural parameters c and pulls derivatives
    back; it knows the correlations that c means, for arrays and for tensors
    (:meth:`correlations`) and, one pair of rows at a time, for the compiled kernels (functions of
    its module, chosen by ``code`` in :mod:`bayeslmm.parts.structures`).

    Attributes
    ----------
    lower, upper : float
        Interval of the scalar parameter, where there is one.
    n_times : int
        Times of the unstructured kind.
    time_unit : float
        Typical distance of neighboring times, for starting values and priors.
    """

    lower: float = 0.0
    upper: float = 0.0
    n_times: int = 0
    time_unit: float = 1.0

    #: What a user writes.
    name: ClassVar[str] = "independent"
    #: What the kernels know it by.
    code: ClassVar[int] = 0
    #: Name of the scalar parameter, None where there is none.
    parameter: ClassVar[str | None] = None
    #: Posterior variable and dimension of c where it is a vector of components.
    vector: ClassVar[tuple[str, str] | None] = None
    #: Whether c depends on times at all (for sharing factorizations); the user then names them.
    uses_time: ClassVar[bool] = False
    #: What times are: any numbers or categories ("any"), whole numbers or categories in order
    #: ("whole"), numbers ("numbers"), or labels ("labels").
    times: ClassVar[str] = "any"

    @classmethod
    def interval(cls, largest: int) -> tuple[float, float]:
        """Where the scalar parameter may lie, `largest` being the rows of the largest group."""
        return -1.0, 1.0

    @classmethod
    def of_rows(cls, group, time, n_times: int, largest: int) -> Structure:
        """The structure of a model; see :func:`bayeslmm.parts.structures.make_structure`."""
        lower, upper = cls.interval(largest)
        return cls(lower=lower, upper=upper)

    @classmethod
    def default_priors(cls, group, time, largest: int) -> dict[str, Prior]:
        """Default priors of its parameters, by the key a user writes."""
        return {}

    @classmethod
    def obstacle(cls, group, time) -> str | None:
        """Why rows do not determine the parameters, None where they do."""
        return None

    @classmethod
    def component_names(cls, labels: tuple[str, ...], group, time) -> list[str]:
        """What a user sees of c; `labels` are those of the times."""
        return [cls.parameter] if cls.parameter else []

    @classmethod
    def component_values(cls, c: np.ndarray, n_times: int) -> np.ndarray:
        """Values of the components from c (..., k)."""
        return c

    @classmethod
    def formula(cls, write: Symbols, one: str, two: str) -> str:
        """Correlation of two rows of a group in symbols, `one` and `two` being their times."""
        return write.indexed("R", [one, two])

    @classmethod
    def random_variables(cls, pm, pt, priors, rows):
        """c as :meth:`correlations` takes it, added to the PyMC model in context.

        Parameters
        ----------
        pm, pt : module
            ``pymc`` and ``pytensor.tensor``.
        priors : mapping of str to Prior
        rows
            With ``group`` and ``time``, (n,) arrays.
        """
        key = cls.parameter
        return getattr(pm, priors[key].name)(key, **priors[key].parameters) if key else None

    @staticmethod
    def entries(c: np.ndarray, n_times: int) -> np.ndarray:
        """c (..., k) as :meth:`correlations` takes it, to be spread over (..., m, m)."""
        return np.ones((*c.shape[:-1], 1, 1))

    @staticmethod
    def correlations(xp, c, time: np.ndarray):
        """Correlations of the rows of one group.

        Parameters
        ----------
        xp : module
            ``numpy``, or ``pytensor.tensor`` for a symbolic c.
        c
            See :meth:`entries`.
        time : (..., m) array

        Returns
        -------
        (..., m, m)
        """
        return np.eye(time.shape[-1]) * c

    @property
    def layout(self) -> CorrelationLayout:
        """Layout of free correlations between times; of none for most structures."""
        return correlation_layout([])

    @property
    def scalar_keys(self) -> list[str]:
        """Key of the prior of every scalar that c is made of; free correlations have their own."""
        return [self.parameter] if self.parameter else []

    def scalars(self, c: np.ndarray) -> np.ndarray:
        """These scalars from c (k,): inverse of ``natural_parameters`` of the structures."""
        return c

    @property
    def n_free(self) -> int:
        """Unconstrained numbers."""
        return 1 if self.parameter else 0

    def natural(self, w: np.ndarray) -> np.ndarray:
        """Natural parameters c of unconstrained w."""
        return np.zeros(0)

    def pullback(self, w: np.ndarray, d_c: np.ndarray) -> np.ndarray:
        """dl/dw from dl/dc."""
        return np.zeros(0)

    def starts(self) -> list[np.ndarray]:
        """Unconstrained starting values."""
        return [np.zeros(0)]

    def informed_start(self, z: np.ndarray, group: np.ndarray, time: np.ndarray):
        """A starting value from standardized residuals, None where there is nothing better."""
        return None

    def boundary(self, c: np.ndarray) -> str | None:
        """In words, the bound that c has reached; None inside."""
        return None


@dataclass(frozen=True)
class Bounded(Structure):
    """One correlation rho in (lower, upper): logistic in w, uniform by default."""

    parameter = "rho"

    @classmethod
    def default_priors(cls, group, time, largest: int) -> dict[str, Prior]:
        low, high = cls.interval(largest)
        return {cls.parameter: Prior("Uniform", lower=low, upper=high)}

    @staticmethod
    def entries(c: np.ndarray, n_times: int) -> np.ndarray:
        return c[..., :1, None]

    def natural(self, w: np.ndarray) -> np.ndarray:
        return np.array([self.lower + (self.upper - self.lower) * _share(w[0])])

    def pullback(self, w: np.ndarray, d_c: np.ndarray) -> np.ndarray:
        return np.array([d_c[0] * (self.upper - self.lower) * _share(w[0]) * _share(-w[0])])

    def unconstrained(self, rho: float) -> np.ndarray:
        """w of a correlation."""
        share = (rho - self.lower) / (self.upper - self.lower)
        return np.array([np.log(share) - np.log1p(-share)])

    def starts(self) -> list[np.ndarray]:
        """A small and a large correlation."""
        return [self.unconstrained(v) for v in (0.2, 0.8)]

    def boundary(self, c: np.ndarray) -> str | None:
        width = self.upper - self.lower
        if c[0] - self.lower < 1e-6 * width:
            return f"{self.parameter} is estimated at its lower limit {self.lower:.4g}"
        if self.upper - c[0] < 1e-6 * width:
            return f"{self.parameter} is estimated at its upper limit {self.upper:.4g}"
        return None


def gaps(time: np.ndarray) -> np.ndarray:
    """|t - s| of every two rows, (..., m, m)."""
    return np.abs(time[..., :, None] - time[..., None, :])


def _share(x: float) -> float:
    e = np.exp(-abs(x))
    return 1.0 / (1.0 + e) if x >= 0 else e / (1.0 + e)
