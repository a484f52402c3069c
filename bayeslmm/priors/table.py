"""Priors: what a user may say, the defaults, and what is in force for every parameter.

Defaults are weakly informative on the scale of the data, in the spirit of Gelman, Jakulin,
Pittau and Su (2008, Annals of Applied Statistics 2(4)) and of rstanarm and brms; see
:func:`default_priors` for the formulas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bayeslmm.errors import PriorError, listed, suggestion
from bayeslmm.formula import Design
from bayeslmm.parts.parameters import CLASSES, Component, Parameter, coef_key
from bayeslmm.parts.prior import Prior
from bayeslmm.priors.defaults import Defaults
from bayeslmm.priors.effect_maps import EffectMaps
from bayeslmm.priors.parameters import check_prior, parameters_of
from bayeslmm.priors.responses import RESPONSE_KINDS, response_notes
from bayeslmm.priors.shrinkage import Shrinkage, shrinkage_of

__all__ = ["Priors", "default_priors", "sigma_is_given"]


#: Prior and source of what the formula says is known.
_KNOWN = ("Fixed", "default")


@dataclass(frozen=True)
class _Entry:
    prior: Prior
    source: str


class Priors(Mapping):
    """The priors in force, one per parameter; prints as a table, and can be edited.

    Keys are coefficients (``"Days"``; ``"Intercept"`` is the intercept at the predictors'
    means), variance components (``"sd(Days | Subject)"``, ``"sigma"``), the correlations of
    a grouping factor (``"corr(Subject)"``) and the degrees of freedom of Student-t residuals
    (``"nu"``) or random effects (``"nu(Subject)"``). Assigning to a class (``"beta"``: all
    coefficients but the intercept, ``"sd"``, ``"corr"``) sets each of its members.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Reaction ~ Days + (1 | Subject)", blm.load_dataset("sleepstudy"))
    >>> model.priors["Days"] = blm.Prior("Normal", mu=0, sigma=10)
    >>> model.priors["Days"]
    Normal(mu=0, sigma=10)
    """

    def __init__(
        self,
        design: Design,
        user: Mapping[str, Prior] | None = None,
        *,
        family: str = "gaussian",
        random: str = "gaussian",
    ):
        self._design, self._families = design, {"family": family, "random": random}
        if _names_may_clash(design, family):
            _refuse_same_keys(self._found)
        user = {} if user is None else user
        if not isinstance(user, Mapping):
            raise PriorError('priors must be a dict such as {"Days": blm.Prior("Normal", ...)}.')
        # classes first, so that a component's own prior wins whatever the order written
        keys = sorted(user, key=lambda key: key not in self._classes)
        if isinstance(user, Priors):  # what was a default there is a default here
            keys = [key for key in keys if not user.is_default(key)]
        for key in keys:
            self[key] = user[key]

    # Defaults are made when they are first looked at: a likelihood fit never does.

    @cached_property
    def _defaults(self) -> Defaults:
        return _defaults_of(self._design)

    @cached_property
    def _response_notes(self) -> list[str]:
        return response_notes(self._design)

    @cached_property
    def _found(self) -> list[Parameter]:
        return parameters_of(self._design, self._defaults, **self._families)

    @cached_property
    def _parameters(self) -> dict[str, Parameter]:
        return {parameter.key: parameter for parameter in self._found}

    @cached_property
    def _classes(self) -> dict[str, list[str]]:
        return {kind: [p.key for p in self._found if p.kind == kind] for kind in CLASSES}

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """corr(a, b | g) may stand for corr(g) where g has just that one correlation."""
        return {
            p.components[0].name: p.key
            for p in self._found
            if p.kind == "corr" and p.factor is not None and len(p.components) == 1
        }

    @cached_property
    def _entries(self) -> dict[str, _Entry]:
        return {p.key: _Entry(p.default, "default") for p in self._found}

    def fixed(self) -> dict[str, Prior]:
        """The priors that fix a value, by key; no default does but that of known sigma.

        Returns
        -------
        dict of str to Prior
        """
        known = "_entries" in vars(self) or self._design.se_name is not None
        entries = self._entries if known else {}
        return {key: entry.prior for key, entry in entries.items() if entry.prior.name == "Fixed"}

    def __getitem__(self, key: str) -> Prior:
        return self._entries[self._key(key)].prior

    def __setitem__(self, key: str, prior: Prior) -> None:
        if not isinstance(prior, Prior):
            raise PriorError(
                f'The prior of {key!r} must be blm.Prior("Normal", mu=0, sigma=1) or another '
                f"distribution, not {prior!r}."
            )
        keys = self._classes.get(key) if isinstance(key, str) else None
        if keys is None:
            keys = [self._key(key)]
        elif not keys:
            also = f" The coefficient is {coef_key(key)!r}." if coef_key(key) in self else ""
            raise PriorError(f"This model has no parameter of class {key!r}.{also}")
        for target in keys:
            check_prior(self._parameters[target], prior)
        self._entries.update({target: _Entry(prior, "user") for target in keys})
        self._fill_in()

    def _fill_in(self) -> None:
        """The defaults of what is not set, given what is."""
        for key, record in self._defaults.given(self._is_set).items():
            if not self._is_set(key):
                self._entries[key] = _Entry(Prior.from_dict(record), "default")

    def _is_set(self, key: str) -> bool:
        return key in self._entries and self._entries[key].source != "default"

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        shown = self.shown()
        width = max((len(key) for key in shown), default=0)
        lines = [
            f"  {key:<{width}}  {self[key]!r}" + ("" if self.is_default(key) else "  (set)")
            for key in shown
        ]
        return "\n".join(["Priors", *lines, *(f"  {note}" for note in self.notes())])

    def shown(self) -> list[str]:
        """Keys to print: what the formula says is known has no prior to show.

        Returns
        -------
        list of str
        """
        return [k for k, e in self._entries.items() if (e.prior.name, e.source) != _KNOWN]

    def notes(self) -> list[str]:
        """What the priors are about, where that is not the parameter in the formula's columns.

        Returns
        -------
        list of str
            Sentences, below the table where priors are printed.
        """
        notes = [*self._defaults.notes(self._is_set), *self._response_notes]
        try:
            together = self.shrinkage
        except PriorError as err:  # a table is printed whatever is in it
            return [*notes, str(err)]
        return notes if together is None else [*notes, together.text]

    def is_default(self, key: str) -> bool:
        """Whether the prior of `key` was filled in rather than set.

        Parameters
        ----------
        key : str
            Of a parameter, not of a class.

        Returns
        -------
        bool
        """
        return self._entries[self._key(key)].source == "default"

    def combinations(self) -> np.ndarray:
        """A (p, p), so that the priors of the coefficients are independent ones of A beta.

        Row j belongs to coefficient j: the coefficient itself where its prior was set, the value
        at the means of the predictors for the intercept, and for a default the coefficient in the
        model whose later columns have the earlier ones taken out; see
        ``bayeslmm.priors.defaults``.
        """
        return self._defaults.combinations(self._is_set)[0]

    @property
    def shrinkage(self) -> Shrinkage | None:
        """The prior that several coefficients have together, in numbers; None without one.

        Raises
        ------
        PriorError
            If it does not suit the model.
        """
        own = self._defaults.coefficients
        return shrinkage_of(self._design, self, own.spread, own.unit)

    @property
    def means(self) -> np.ndarray:
        """Where the intercept and thresholds are meant: the means (p,) of the predictors."""
        return self._defaults.coefficients.means

    def effect_maps(self) -> EffectMaps:
        """What the priors on random effects are about, beside the effects in the formula."""
        return EffectMaps(tuple(K for K, _ in self._defaults.effects_given(self._is_set)))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What there are priors of, in the order printed."""
        return tuple(self._parameters.values())

    def of(self, kind: str, factor: str | None = None) -> list[Prior]:
        """The priors of one kind of parameter of one grouping factor or covariate, in order.

        Parameters
        ----------
        kind : str
            Such as ``"sd"`` or ``"corr"``.
        factor : str, optional
            The grouping factor or covariate; none for priors that belong to neither.

        Returns
        -------
        list of Prior

        Examples
        --------
        >>> import bayeslmm as blm
        >>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", blm.load_dataset("sleepstudy"))
        >>> model.priors.of("corr", "Subject")
        [LKJ(eta=2)]
        """
        return [self[p.key] for p in self.parameters if (p.kind, p.factor) == (kind, factor)]

    def components(self) -> dict[str, tuple[Parameter, Component]]:
        """What tables show of the parameters, coefficients first, by name."""
        return {c.name: (p, c) for p in self.parameters for c in p.components}

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Keys of the coefficients' priors."""
        return self._defaults.keys

    def other_coordinates(self, other: Priors) -> list[str]:
        """Grouping factors whose effects, the same in both, have priors about other columns."""
        found = []
        theirs = {own[:2]: K for own, K in other._located()}
        for (name, effects, _), K in self._located():
            twin = theirs.get((name, effects), K)
            if (K is None) != (twin is None) or (K is not None and not np.allclose(K, twin)):
                found.append(name)
        return found

    def _located(self):
        matrices = self.effect_maps().matrices
        return list(zip(self._defaults.factors, matrices, strict=True))

    def copy(self) -> Priors:
        """An independent copy.

        Returns
        -------
        Priors
        """
        twin = object.__new__(Priors)
        twin._design, twin._families = self._design, self._families
        twin._defaults, twin._found = self._defaults, self._found
        twin._response_notes = self._response_notes
        twin._entries = dict(self._entries)
        return twin

    def to_dict(self) -> dict[str, dict]:
        """As plain data for a file, sources included.

        Returns
        -------
        dict of str to dict
        """
        return {
            key: {**entry.prior.to_dict(), "source": entry.source}
            for key, entry in self._entries.items()
        }

    def defaults_to_dict(self) -> dict[str, Any]:
        """What the defaults were made from, as plain data for a file."""
        return self._defaults.to_dict()

    def restore(
        self, record: Mapping[str, Mapping], defaults: Mapping[str, Any] | None = None
    ) -> None:
        """Take over the numbers of :meth:`to_dict`, as they were when the file was written.

        Parameters
        ----------
        record : dict
        defaults : dict, optional
            Of :meth:`defaults_to_dict`; files of version 0.1.0 have none.

        Raises
        ------
        ValueError
            If they are not of this model's parameters.
        """
        entries, own = self._entries, self._defaults
        self._defaults = own.alone() if defaults is None else own.restored(defaults)
        for key, values in record.items():
            values = dict(values)
            source = values.pop("source", "user")
            entries[self._key(key)] = _Entry(Prior.from_dict(values), source)

    def _key(self, key: str) -> str:
        key = self._aliases.get(key, key)
        if key in self._entries:
            return key
        squeezed = {"".join(k.split()): k for k in [*self._entries, *self._aliases]}
        found = squeezed.get("".join(str(key).split()))
        if found is not None:
            return self._aliases.get(found, found)
        hint = suggestion(str(key), [*self._entries, *self._classes])
        raise PriorError(
            f"There is no parameter {key!r} to set a prior on.{hint} Parameters: "
            f"{listed(self._entries)}. Classes: {', '.join(CLASSES)}."
        )


def default_priors(
    design: Design, *, family: str = "gaussian", random: str = "gaussian"
) -> dict[str, Prior]:
    """Weakly informative defaults on the scale of the data.

    With s_y the standard deviation of the response (less its offset) and s_x that of a column:

    - intercept, at the means of the predictors: Normal(mean y, 2.5 s_y);
    - other coefficients: Normal(0, 2.5 s_y / s_x), with s_x of what the columns before leave of
      the column. It is the prior of the column's coefficient where later columns have the earlier
      ones taken out; jointly N(0, (2.5 s_y)^2 S^-1), S the covariance matrix of the columns, which
      does not depend on their order, origin, unit or coding (see ``bayeslmm.priors.defaults``).
      Without an intercept, columns that add up to a constant (a mean per cell) have the same
      prior as with one;
    - sigma: HalfStudentT(3, s_y), times the root of the mean weight where there are weights;
    - sd of an effect with covariate z: HalfStudentT(3, s_y / s_z), s_z of what the columns that
      are marginal to it leave; HalfStudentT(3, s_y) for an intercept or a 0/1 column, whose s_z
      says only how rare it is;
    - correlations: LKJ(2), Lewandowski, Kurowicka and Joe (2009). Standard deviations and
      correlations are those at the means of the covariates: of each column with the columns
      marginal to it taken out;
    - a covariate x with unknown values: its mean, at the means of its predictors,
      Normal(mean x, 2.5 s_x), its slope on a column w Normal(0, 2.5 s_x / s_w), its standard
      deviation and that of random intercepts HalfStudentT(3, s_x), over the observed values; of
      two values, on the logit scale, Normal(0, 1.5) and Normal(0, 2.5 / s_w);
    - degrees of freedom of Student-t residuals or random effects: Gamma(2, 0.1), Juarez and
      Steel (2010).
    - residual structures: see :func:`bayeslmm.priors.residual_priors.residual_parameters`;
    - responses that are not Gaussian: the same with the unit of the linear predictor in place of
      s_y and its center in place of mean y (:mod:`bayeslmm.priors.responses`), without sigma, and
      with the parameters of :func:`bayeslmm.priors.responses.response_parameters`.

    All standard deviations have the divisor n - 1.

    Parameters
    ----------
    design : Design
    family, random : {"gaussian", "student"}
        Distribution of the residuals and of the random effects; of a response that is not
        Gaussian the design says it.

    Returns
    -------
    dict of str to Prior
        In the order in which parameters are printed.

    References
    ----------
    - Coefficients: Zellner (1986), in Goel and Zellner, Bayesian Inference and Decision Techniques
    - Their scale: Gelman, Jakulin, Pittau and Su (2008), Annals of Applied Statistics 2(4);
      https://doi.org/10.1214/08-AOAS191
    - Standard deviations: Gelman (2006), Bayesian Analysis 1(3); https://doi.org/10.1214/06-BA117A
    - Correlations: Lewandowski, Kurowicka and Joe (2009), Journal of Multivariate Analysis 100(9);
      https://doi.org/10.1016/j.jmva.2009.04.008
    - Degrees of freedom: Juarez and Steel (2010), Journal of Business and Economic Statistics
      28(1); https://doi.org/10.1198/jbes.2009.07145
    """
    found = parameters_of(design, _defaults_of(design), family=family, random=random)
    return {parameter.key: parameter.default for parameter in found}


def _names_may_clash(design: Design, family: str) -> bool:
    """Whether a coefficient may be called as another parameter is: calls are, as sd(x | g) is,
    and parameters of residuals have names of their own.
    """
    own = design.residual is not None or family != "gaussian"
    return own or any("(" in name for name in design.coef_names)


def _refuse_same_keys(found: list[Parameter]) -> None:
    keys = [parameter.key for parameter in found]
    for parameter in found:
        if keys.count(parameter.key) > 1:
            what = "response" if parameter.key in RESPONSE_KINDS else "residuals"
            raise PriorError(
                f"{parameter.key!r} is both a coefficient and a parameter of the "
                f"{what}, and a prior has one name: rename the column."
            )


def _defaults_of(design: Design) -> Defaults:
    return Defaults.of(design, tuple(coef_key(name) for name in design.coef_names))


def sigma_is_given(priors: object) -> bool:
    """Whether the priors that a user gave fix sigma."""
    sigma = priors.get("sigma") if isinstance(priors, Mapping) else None
    return isinstance(sigma, Prior) and sigma.name == "Fixed"
