"""The Bayesian fit: draws, the model they came from, and the tables they give."""

from __future__ import annotations

import os

import pandas as pd

from bayeslmm.bayes.fitting import FitInfo
from bayeslmm.fits.checks import findings_of, said
from bayeslmm.fits.effects import Effects
from bayeslmm.fits.plotting import PosteriorPlots
from bayeslmm.fits.posterior_checks import PosteriorChecks
from bayeslmm.fits.posterior_predictions import PosteriorPredictions
from bayeslmm.fits.posterior_tables import PosteriorTables
from bayeslmm.fits.posterior_variance import PosteriorVariance
from bayeslmm.fits.shared import SharedResults
from bayeslmm.results.printing import Shown, joined, returns_tables

__all__ = ["PosteriorFit"]


@returns_tables
class PosteriorFit(
    PosteriorPlots, Effects, SharedResults, PosteriorTables, PosteriorPredictions,
    PosteriorVariance, PosteriorChecks, Shown,
):  # fmt: skip
    """Posterior of a mixed model.

    Made by :meth:`bayeslmm.LMM.fit` and :func:`bayeslmm.load`.

    Attributes
    ----------
    model : Model
        The model, able to predict and to be fitted again.
    priors : Priors
        The priors this posterior was made with.
    idata : xarray.DataTree
        Groups posterior, sample_stats, observed_data, constant_data, log_likelihood, log_prior,
        posterior_predictive and others; what ArviZ takes.
    info : FitInfo
    conditioning : Conditioning or None
        What :meth:`condition_on` added.

    References
    ----------
    - NUTS: Hoffman and Gelman (2014), Journal of Machine Learning Research 15;
      https://jmlr.org/papers/v15/hoffman14a.html
    - Importance sampling: Geweke (1989), Econometrica 57(6), section 5;
      https://doi.org/10.2307/1913710
    - Pareto's k-hat: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Journal of Machine Learning
      Research 25(72); https://jmlr.org/papers/v25/19-556.html
    - R-hat and effective sample sizes: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021),
      Bayesian Analysis 16(2), section 4; https://doi.org/10.1214/20-BA1221

    Examples
    --------
    The examples of the methods go on from here.

    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", data)
    >>> post = model.fit(method="importance", draws=250, random_seed=1)
    >>> sorted(post.idata.children)[:3]
    ['constant_data', 'log_likelihood', 'log_prior']
    """

    def report(self, path: str | os.PathLike, *, effect=None, **options) -> os.PathLike:
        """Write one self-contained HTML file about this fit, to hand over.

        Model in words and mathematics, data and missingness, priors, diagnostics, estimates
        beside REML (beside ML where the response is not Gaussian), pictures, predictive checks,
        versions, seed and the code that makes it again; with an effect also its reanalysis,
        sensitivity and Bayes factors.

        Parameters
        ----------
        path : path
            Overwritten if it exists.
        effect : str, dict or array, optional
            A coefficient or a contrast to reanalyze.
        **options
            ``title``, ``question`` (a sentence of your own), ``level``; ``mcid``, ``rope``,
            ``direction`` and ``priors`` as in :func:`bayeslmm.reanalyze`; ``source``, Python code
            that gives the data.

        Returns
        -------
        pathlib.Path

        Raises
        ------
        FileFormatError
            If the folder does not exist.
        ValueError
            If the effect or an option does not exist.
        """
        from bayeslmm.report.write import write_report

        return write_report(self, path, effect=effect, **options)

    def save(self, path: str | os.PathLike) -> None:
        """Write fit and model to one NetCDF file; see :func:`bayeslmm.load`.

        Parameters
        ----------
        path : path
            Overwritten if it exists.

        Raises
        ------
        FileFormatError
            If the file cannot be written.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "fit.nc"
        >>> post.save(path)
        >>> blm.load(path).fixef().equals(post.fixef())
        True
        """
        from bayeslmm.storage import save_fit

        save_fit(self, path)

    def describe(self, *, level: float = 0.95) -> str:
        """How the posterior was made, and its tables, as text.

        Parameters
        ----------
        level : float
            Level of the intervals.

        Returns
        -------
        str

        Examples
        --------
        >>> post.describe().splitlines()[0]
        'Posterior of Reaction ~ Days + (Days | Subject)'
        """
        return joined(self._parts(level))

    def _parts(self, level: float = 0.95) -> list[str | pd.DataFrame]:
        info, design = self.info, self.model.design
        lines = [
            f"Posterior of {design.formula.text}",
            f"{design.n_rows} rows; {_how(info)}; {info.parameterization} ({info.reason}); "
            f"{info.seconds:.1f} s; seed {info.random_seed}",
        ]
        if not design.family.gaussian:
            lines.append(f"family {design.family.name}, link {design.family.link.name}")
        if text := design.missing.describe():
            lines.append(f"Note: {text}.")
        parts = ["\n".join(lines), self.fixef(level=level), self.varcomp(level=level)]
        warned = [f"Warning: {problem}" for problem in info.problems] + said(findings_of(self))
        return [*parts, "\n".join(warned)] if warned else parts


def _how(info: FitInfo) -> str:
    """The method, its size and what it says of itself."""
    if info.method == "importance":
        size = info.chains * info.draws
        text = (
            f"{size} draws by importance sampling, {info.effective_draws:.0f} effective, "
            f"k-hat {info.k_hat:.2f}"
        )
        if info.log_marginal_likelihood is not None:
            text += (
                f"; log marginal likelihood {info.log_marginal_likelihood:.2f} "
                f"(standard error {info.log_marginal_likelihood_error:.2g})"
            )
        return text
    return f"{info.chains} chains x {info.draws} draws after {info.tune} warm-up, {info.sampler}"
