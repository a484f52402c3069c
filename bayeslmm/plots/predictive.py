"""Checks drawn by ArviZ: replicated data, LOO-PIT, and the chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.errors import PlotError
from bayeslmm.plots.estimates import how_many, pick
from bayeslmm.plots.prior_posterior import parameter_draws
from bayeslmm.plots.reference import has_levels
from bayeslmm.plots.responses import RESPONSE_KINDS, default_kind, draw_response_check
from bayeslmm.plots.style import ALONE, CYCLE, GROUP, caption

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.formula import Design
    from bayeslmm.protocols import Model, PosteriorResult

__all__ = [
    "plot_loo_pit",
    "plot_ppc",
    "plot_prior_predictive",
    "plot_rank",
    "plot_trace",
]

_STATISTICS = ("mean", "median", "std", "var", "min", "max", "iqr", "mad")
_MOST_PANELS, _MOST_PARAMETERS = 12, 16
_WIDEST = 9.6  # inches: ArviZ makes grids of 19, and a page that shrinks them halves their text
_DIST_SAMPLES, _STAT_SAMPLES = 50, 1000
_MOST_ROWS = 5000


def plot_ppc(
    fit: PosteriorResult,
    kind: str | None = None,
    *,
    stat: str | float | Callable = "mean",
    by: str | None = None,
    groups=None,
    random_seed: int | None = None,
    **options,
) -> np.ndarray:
    """Replicated data (same rows, same groups) against those observed.

    Parameters
    ----------
    fit : PosteriorResult
        Its ``posterior_predictive`` group is used where there is one, otherwise replicates are
        drawn for the picture.
    kind : {"dist", "stat", "rootogram", "binned", "bars", "quantile"}, optional
        Densities of whole data sets (``az.plot_ppc_dist``), or a statistic of each
        (``az.plot_ppc_tstat``). Counts: a hanging rootogram, the default. Responses of 0 and 1 and
        counts of trials: mean residuals in bins of fitted values, the default. Ordered categories:
        bars, the default. All that are not Gaussian: randomized quantile residuals. Bands have 95 %
        of replicated data.
    stat : str, number or callable
        "mean", "median", "std", "var", "min", "max", "iqr", "mad", a quantile between 0 and
        1, or a function of the responses.
    by : str, optional
        A grouping factor or a factor of the formula: one panel per level, 12 at most.
    groups : int or list, optional
        How many of its levels, or which.
    random_seed : int, optional
    **options
        For ArviZ.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    PlotError
        If there is no such kind, statistic, factor or level, or the kind is not one for the
        family.
    """
    kind = default_kind(fit.model.design) if kind is None and by is None else kind or "dist"
    if kind in RESPONSE_KINDS:
        return _response_check(fit, kind, by, random_seed, options)
    _check_kind(kind, stat, by)
    tree = _replicates(fit, _DIST_SAMPLES if kind == "dist" else _STAT_SAMPLES, random_seed)
    response = fit.names.response
    note = None
    if by is not None:
        tree, note = _by_level(fit.model.design, tree, response, by, groups)
    label = fit.model.design.response
    return _draw_check(tree, "posterior_predictive", kind, stat, label, options, note)


def _response_check(fit: PosteriorResult, kind: str, by, random_seed, options) -> np.ndarray:
    if by is not None or options:
        given = "by" if by is not None else next(iter(options))
        raise PlotError(f'{given}= goes with kind="dist" and kind="stat" only.')
    tree = _replicates(fit, _STAT_SAMPLES, random_seed)
    replicated = tree["posterior_predictive"].to_dataset()[fit.names.response].to_numpy()
    flat = replicated.reshape(-1, replicated.shape[-1])
    return draw_response_check(fit, kind, flat, random_seed)


def plot_prior_predictive(
    model: Model,
    kind: str = "dist",
    *,
    stat: str | float | Callable = "mean",
    draws: int = 100,
    random_seed: int | None = None,
    **options,
) -> np.ndarray:
    """Data drawn from the priors alone against those observed.

    Priors on standard deviations have heavy tails, so the horizontal axis covers the central
    98 % of what was drawn, and at least the data.

    Parameters
    ----------
    model : Model
    kind, stat, random_seed, **options
        As in :func:`plot_ppc`; by default distribution functions, which need no bandwidth.
    draws : int
        Data sets drawn.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    PlotError
        As :func:`plot_ppc`.
    PriorError
        If a prior is flat.
    """
    _check_kind(kind, stat, None)
    tree = model.prior_predictive(draws, random_seed)
    name = model.names.response
    if "observed_data" in tree:  # readings of covariates are data too
        tree["observed_data"] = tree["observed_data"].to_dataset()[[name]]
    if kind == "dist":
        options.setdefault("kind", "ecdf")
        options.setdefault("num_samples", min(draws, _DIST_SAMPLES))
    axes = _draw_check(tree, "prior_predictive", kind, stat, model.design.response, options)
    if kind == "dist":
        drawn = np.quantile(tree["prior_predictive"][name].to_numpy(), [0.01, 0.99])
        y = model.design.y
        axes[0].set_xlim(min(drawn[0], y.min()), max(drawn[1], y.max()))
    return axes


def plot_loo_pit(fit: PosteriorResult, *, random_seed: int | None = None, **options) -> np.ndarray:
    """Probability integral transforms of the rows left out, by ``az.plot_loo_pit``.

    For a calibrated model they are uniform and the line stays near 0. They rest on
    Pareto-smoothed importance sampling of the likelihood given the random effects, in a sample
    of 5,000 rows where there are more. Of a response that is not Gaussian, and of Student-t
    residuals, they are those of ``loo_pit`` without refits, by ``az.plot_ecdf_pit``.

    Parameters
    ----------
    fit : PosteriorResult
    random_seed : int, optional
        For the replicates, where the fit has none yet.
    **options
        For ArviZ, such as ``coverage=True``.

    Returns
    -------
    ndarray of Axes
    """
    import arviz as az
    import xarray as xr

    from bayeslmm.bayes.tree import log_likelihood
    from bayeslmm.results.response_left_out import by_quadrature

    design = fit.model.design
    if by_quadrature(fit):
        return _plot_family_pit(fit, random_seed, options)
    tree = _replicates(fit, _draws_within(fit, 1e7), random_seed)
    posterior = _like(fit.posterior, tree["posterior_predictive"].to_dataset())
    density = log_likelihood(design, fit.names, posterior)
    note = None
    if design.n_rows > _MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(design.n_rows, _MOST_ROWS, replace=False))
        tree = tree.map_over_datasets(lambda node: node.isel(obs=rows) if "obs" in node else node)
        density = density.isel(obs=rows)
        note = f"a sample of {_MOST_ROWS:,} of {design.n_rows:,} rows"
    tree["posterior"] = xr.DataTree(posterior)
    tree["log_likelihood"] = xr.DataTree(density)
    options["visuals"] = {"title": False} | options.get("visuals", {})
    collection = _quietly(lambda: az.plot_loo_pit(tree, backend="matplotlib", **options))
    axes = _axes(collection, options)
    for ax in axes:  # room for the p value above the line
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.2 * (high - low))
        caption(ax, note)
        for text in ax.texts:
            text.set(x=0.02, y=0.97, transform=ax.transAxes, va="top", ha="left")
    return axes


def _plot_family_pit(fit: PosteriorResult, random_seed: int | None, options: dict) -> np.ndarray:
    import arviz as az

    from bayeslmm.results.loo_pit import loo_pit

    draws = max(25, min(fit.posterior.sizes["draw"], _draws_within(fit, 2e6) // 4))
    tree = loo_pit(fit, draws=draws, exact=False, random_seed=random_seed, progressbar=False)
    options = {"group": "loo_pit", "sample_dims": ["obs"], "backend": "matplotlib"} | options
    options["visuals"] = {"title": False} | options.get("visuals", {})
    return _axes(_quietly(lambda: az.plot_ecdf_pit(tree, **options)), options)


def plot_rank(
    fit: PosteriorResult, parameters: str | list[str] | None = None, **options
) -> np.ndarray:
    """Ranks of the draws of each chain among all, by ``az.plot_rank``: uniform if they agree.

    Parameters
    ----------
    fit : PosteriorResult
    parameters : str or list of str, optional
        Rows of ``fit.summary()``; by default all, up to 16.
    **options
        For ArviZ.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    PlotError
        If there is no such parameter.
    """
    return _chains(fit, parameters, "plot_rank", options)


def plot_trace(
    fit: PosteriorResult, parameters: str | list[str] | None = None, **options
) -> np.ndarray:
    """Draws in their order, chain by chain, by ``az.plot_trace``.

    Parameters
    ----------
    fit : PosteriorResult
    parameters, **options
        As of :func:`plot_rank`.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    PlotError
        If there is no such parameter.
    """
    return _chains(fit, parameters, "plot_trace", options)


def _check_kind(kind: str, stat, by: str | None) -> None:
    if kind not in ("dist", "stat"):
        raise PlotError(
            f'kind must be "dist" or "stat", not {kind!r}; of posteriors also '
            f"{', '.join(RESPONSE_KINDS)} where the response is not Gaussian."
        )
    if kind == "dist" or (callable(stat) and by is None):
        return
    if callable(stat):
        raise PlotError("With by= the statistic must be a name or a quantile, not a function.")
    if isinstance(stat, str) and stat in _STATISTICS:
        return
    try:
        known = 0 < float(stat) < 1
    except (TypeError, ValueError):
        known = False
    if not known:
        raise PlotError(
            f"There is no statistic {stat!r}. There are: {', '.join(_STATISTICS)}, a quantile "
            "between 0 and 1, or a function."
        )


def _replicates(fit: PosteriorResult, total: int, random_seed: int | None) -> xr.DataTree:
    """A tree with replicates, about `total` of them over all chains, and the data observed."""
    import xarray as xr

    from bayeslmm.bayes.added_groups import ADDED
    from bayeslmm.bayes.predictive import posterior_predictive

    posterior = fit.posterior
    per_chain = max(1, min(posterior.sizes["draw"], -(-total // posterior.sizes["chain"])))
    kept = fit.idata.children.get("posterior_predictive")
    if kept is not None and ADDED not in kept.attrs:
        replicated = kept.to_dataset()
    else:
        replicated = posterior_predictive(
            fit.model.design, fit.names, posterior, draws=per_chain, random_seed=random_seed
        )
    observed = fit.idata["observed_data"].to_dataset()
    return xr.DataTree.from_dict({"posterior_predictive": replicated, "observed_data": observed})


def _draws_within(fit: PosteriorResult, values: float) -> int:
    return max(100, int(values // fit.model.design.n_rows))


def _like(posterior: xr.Dataset, replicated: xr.Dataset) -> xr.Dataset:
    """The posterior draws that replicates were made from."""
    return posterior.sel(draw=replicated["draw"], chain=replicated["chain"])


def _by_level(design: Design, tree: xr.DataTree, name: str, by: str, groups):
    """One variable per level, each with rows of its own, which ArviZ draws as panels; and a note
    where not all levels are drawn.
    """
    import xarray as xr

    labels = _labels_of(design, by)
    levels = list(dict.fromkeys(sorted(labels, key=_natural)))
    chosen = _some(by, levels, groups)
    groups_of = {}
    for group in ("posterior_predictive", "observed_data"):
        whole = tree[group].to_dataset()[name]
        variables = {}
        for i, level in enumerate(chosen):
            rows = np.flatnonzero(labels == level)
            part = whole.isel(obs=rows).drop_vars("obs").rename(obs=f"obs_{i}")
            variables[f"{by} {level}"] = part
        groups_of[group] = xr.Dataset(variables)
    note = f"{len(chosen)} of {len(levels):,} levels of {by}"
    return xr.DataTree.from_dict(groups_of), note if len(chosen) < len(levels) else None


def _labels_of(design: Design, by: str) -> np.ndarray:
    blocks = {block.name: block for block in design.blocks}
    if by in blocks:
        block = blocks[by]
        return np.array([str(level) for level in block.levels], dtype=object)[block.codes]
    factors = [name for name in design.columns.columns if has_levels(design.predictors[name])]
    pick("factor for by=", [by], [*blocks, *factors])
    return design.predictors[by].astype(str).to_numpy(dtype=object)


def _natural(label: str):
    """Numbers in their order, before text."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _some(by: str, levels: list, groups) -> list:
    count = how_many(groups, _MOST_PANELS)
    if count is None:
        return pick(f"level of {by}", groups, levels)
    if count >= len(levels):
        return levels
    at = np.linspace(0, len(levels) - 1, count).astype(int)
    return [levels[i] for i in at]


def _draw_check(
    tree, group: str, kind: str, stat, response: str, options: dict, note: str | None = None
) -> np.ndarray:
    import arviz as az

    several = len(tree["observed_data"].data_vars) > 1
    options.setdefault("backend", "matplotlib")
    if several:
        options.setdefault("col_wrap", 4)
    if kind == "dist":
        sizes = tree[group].sizes
        if _few_values(tree):
            options.setdefault("kind", "ecdf")
        options.setdefault("num_samples", min(_DIST_SAMPLES, sizes["chain"] * sizes["draw"]))
        visuals: dict[str, Any] = {
            "predictive_dist": {"color": GROUP, "alpha": 0.25},
            "observed_dist": {"color": ALONE, "width": 2},
        }
        if not several:
            visuals["title"] = False
        options["visuals"] = visuals | options.get("visuals", {})
        axes = _axes(_quietly(lambda: az.plot_ppc_dist(tree, group=group, **options)), options)
        label = response
    else:
        visuals = {"dist": {"color": GROUP}, "observed_tstat": {"color": ALONE, "size": 60}}
        visuals["title"] = {} if several else False
        options["visuals"] = visuals | options.get("visuals", {})
        made = _quietly(lambda: az.plot_ppc_tstat(tree, group=group, t_stat=stat, **options))
        axes = _axes(made, options)
        label = f"{_statistic_name(stat)} of {response}"
    figure = axes[0].get_figure()
    if several:
        figure.supxlabel(label, fontsize="medium")
    else:
        axes[0].set_xlabel(label)
    source = "posterior" if group == "posterior_predictive" else "prior"
    handles = [axes[0].plot([], [], color=GROUP)[0]]
    style = {"linewidth": 2} if kind == "dist" else {"linestyle": "none", "marker": "o"}
    handles += axes[0].plot([], [], color=ALONE, **style)
    figure.legend(
        handles,
        [f"{source} predictive", "observed"],
        loc="outside upper center",
        title=note,
        ncols=2,
        frameon=False,
        fontsize="small",
        title_fontsize="small",
    )
    return axes


def _few_values(tree) -> bool:
    """Whether the response has so few values that a density of it would be spikes."""
    observed = tree["observed_data"].to_dataset()
    return any(len(np.unique(values)) <= 12 < values.size for values in observed.values())


def _statistic_name(stat) -> str:
    if callable(stat):
        return getattr(stat, "__name__", "statistic")
    return stat if stat in _STATISTICS else f"quantile {stat}"


def _chains(fit: PosteriorResult, parameters, plot: str, options: dict) -> np.ndarray:
    """ArviZ's plot of the named parameters' draws, constants left out, with divergences."""
    import arviz as az
    import xarray as xr

    draws = parameter_draws(fit)
    if parameters is None:
        chosen = [name for name, values in draws.items() if np.ptp(values) > 0][:_MOST_PARAMETERS]
    else:
        chosen = pick("parameter", parameters, list(draws))
    coords = {dim: fit.posterior[dim] for dim in ("chain", "draw")}
    data = xr.Dataset({n: (("chain", "draw"), draws[n]) for n in chosen}, coords=coords)
    groups = {"posterior": data}
    if "sample_stats" in fit.idata.children:
        stats = fit.idata["sample_stats"].to_dataset()
        if "diverging" in stats:
            groups["sample_stats"] = stats[["diverging"]]
    options = {"col_wrap": 3, "color": list(CYCLE), "backend": "matplotlib"} | options
    return _axes(getattr(az, plot)(xr.DataTree.from_dict(groups), **options), options)


def _axes(collection, options: dict) -> np.ndarray:
    """The axes of a PlotCollection that are in use."""
    figure = collection.get_viz("figure")
    if "figure_kwargs" not in options:
        figure.set_size_inches(min(figure.get_figwidth(), _WIDEST), figure.get_figheight())
    figure.set_layout_engine("constrained")  # ArviZ leaves titles on top of tick labels
    return np.array([ax for ax in figure.axes if ax.get_visible() and ax.axison], dtype=object)


def _quietly(run: Callable):
    """Without ArviZ's remark that whole numbers are drawn as densities."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*discrete.*")
        return run()
