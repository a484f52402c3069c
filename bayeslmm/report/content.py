"""What a report says, section by section."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import BayesLMMError, DataWarning
from bayeslmm.report.mathematics import equation_rows
from bayeslmm.report.pictures import Picture, draw
from bayeslmm.report.reproduce import reproducing_code
from bayeslmm.report.tables import Table, table

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult
    from bayeslmm.reanalysis.reanalyze import Reanalysis
    from bayeslmm.reanalysis.sensitivity import Sensitivity

__all__ = ["Section", "Settings", "sections"]

#: Draws or rows beyond which pictures are bitmaps.
_MANY_ROWS = 3000


@dataclass(frozen=True)
class Section:
    """A heading and what follows it.

    Attributes
    ----------
    title : str
    paragraphs : list of str
    equation : list of (str, str)
        MathML of left and right sides.
    tables : list of Table
    pictures : list of Picture
    code : str
    """

    title: str
    paragraphs: list[str] = field(default_factory=list)
    equation: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    code: str = ""


@dataclass(frozen=True)
class Settings:
    """What the user chose for a report.

    Attributes
    ----------
    effect : object
        A coefficient, a contrast, or None.
    options : dict
        ``mcid``, ``rope``, ``direction``, ``priors``.
    question : str
    level : float
    source : str
        Python that gives the data.
    """

    effect: object
    options: dict
    question: str
    level: float
    source: str


def sections(fit: PosteriorResult, settings: Settings) -> list[Section]:
    """All sections of the report of a posterior fit.

    Parameters
    ----------
    fit : PosteriorResult
    settings : Settings

    Raises
    ------
    ValueError
        If there is no such effect.
    """
    likelihood, notes = _likelihood(fit)
    found = [
        _model(fit, settings),
        _data(fit.model.design),
        _findings(fit),
        _priors(fit),
        _diagnostics(fit),
        _estimates(fit, likelihood, notes, settings.level),
        _components(fit, likelihood, settings.level),
        _explained(fit, settings.level),
        _groups(fit, settings.effect),
        _checks(fit),
    ]
    if settings.effect is not None:
        found += _effect_sections(fit, settings)
    found += [_power_scaling(fit), _reproduce(fit, settings)]
    return [section for section in found if section is not None]


def _likelihood(fit: PosteriorResult) -> tuple[LikelihoodResult | None, list[str]]:
    """The fit to compare with: REML, of a response that is not Gaussian ML."""
    gaussian = fit.model.design.family.gaussian
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = fit.model.reml() if gaussian else fit.model.ml()
            found.fixef("kenward-roger" if gaussian else "normal")
        except (BayesLMMError, ValueError) as err:
            name = "REML" if gaussian else "ML"
            return None, [f"There is no {name} fit to compare with: {err}"]
    said = [str(w.message) for w in caught if not issubclass(w.category, DataWarning)]
    return found, list(dict.fromkeys(said))  # _findings says what the data have


def _model(fit: PosteriorResult, settings: Settings) -> Section:
    design = fit.model.design
    words = [settings.question] if settings.question else []
    words.append(in_words(design))
    rows = []
    try:
        rows = equation_rows(fit.model.equation())
    except BayesLMMError as err:
        words.append(str(err))
    words.append(f"Formula: {design.formula.text}")
    return Section("Question and model", words, equation=rows)


def in_words(design: Design) -> str:
    """The model in a sentence or two."""
    predictors = [name for name in design.coef_names if name != "Intercept"]
    text = f"{design.response} of {design.n_rows} rows is described by "
    text += f"{_listed(predictors)}." if predictors else "its mean."
    if not design.family.gaussian:
        target = "categories" if design.family.name == "ordinal" else "mean"
        text += (
            f" Its distribution is {design.family.name.replace('_', ' ')}, and what describes it "
            f"acts on the {target} through the {design.family.link.name} link."
        )
    if not design.blocks:
        return text + " All rows are treated as independent."
    for block in design.blocks:
        slopes = [effect for effect in block.effects if effect != "Intercept"]
        what = []
        if "Intercept" in block.effects:
            what.append("its own level")
        if slopes:
            what.append(f"its own effect of {_listed(slopes)}")
        text += (
            f" Each of the {block.n_levels} levels of {block.name} has {' and '.join(what)}, "
            "drawn from a common normal distribution."
        )
    return text


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _data(design: Design) -> Section:
    dropped = design.missing.describe()
    words = [
        f"{design.n_rows} rows are used."
        + (f" {dropped}." if dropped else " No row was left out for missing values.")
    ]
    if design.se_name is not None:
        words.append(f"The standard error of every row is known: {design.se_name}.")
    elif design.weights is not None:
        words.append(f"Rows are weighted by {design.weights_name}.")
    if not design.rows_in_memory:
        words.append(
            "The rows were read in batches and not kept: lines of groups, residuals and predictive "
            "checks, which need them, are left out."
        )
    tables = [table(_response_summary(design), "Response", "variable")]
    missing = {column: count for column, count in design.missing.by_column.items() if count}
    if missing:
        frame = pd.DataFrame({"rows missing": missing})
        tables.append(table(frame, "Missing values by column", "column"))
    if design.blocks:
        rows = {}
        for block, found in zip(design.blocks, design.statistics.blocks, strict=True):
            counts = found.counts
            rows[block.name] = {
                "levels": block.n_levels,
                "fewest rows": int(counts.min()),
                "median rows": float(np.median(counts)),
                "most rows": int(counts.max()),
            }
        frame = pd.DataFrame.from_dict(rows, orient="index").astype(object)
        tables.append(table(frame, "Groups", "grouping factor"))
    return Section("Data", words, tables=tables)


def _response_summary(design: Design) -> pd.DataFrame:
    if design.categories:
        counts = np.bincount(design.y.astype(np.int64), minlength=len(design.categories))
        return pd.DataFrame([counts], [design.response], list(design.categories)).astype(object)
    statistics = design.statistics
    less = " less offset" if statistics.has_offset else ""
    values = {f"mean{less}": statistics.mean_y, f"standard deviation{less}": statistics.sd_y}
    if design.rows_in_memory:
        y = pd.Series(design.y)
        values = {"mean": y.mean(), "standard deviation": y.std()}
        values |= {"smallest": y.min(), "median": y.median(), "largest": y.max()}
        if design.trials is not None:
            values |= {"sum": y.sum(), "trials": design.trials.sum()}
    return pd.DataFrame({design.response: values}).T


def _findings(fit: PosteriorResult) -> Section:
    """What to look at first, in sentences."""
    found = fit.check()
    words = [
        f"{row['finding']} {row['what to do']}" for row in found.to_dict(orient="records")
    ] or [
        "Nothing was found: no value far outside of all others, no row far from what the others "
        "predict, no group that carries the fit, no predictive check that fails, no prior that the "
        "data contradict."
    ]
    return Section("Before trusting the fit", words)


def _priors(fit: PosteriorResult) -> Section:
    rows = [
        [key, repr(fit.priors[key]), "default" if fit.priors.is_default(key) else "set"]
        for key in fit.priors.shown()
    ]
    words = [f"{note.strip()}." for note in fit.priors.notes()]
    return Section("Priors", words, tables=[Table(["parameter", "prior", ""], rows)])


def _diagnostics(fit: PosteriorResult) -> Section:
    info = fit.info
    words = [
        f"{info.chains} x {info.draws} draws by {info.method} ({info.parameterization}), "
        f"{info.tune} warm-up draws per chain, seed {info.random_seed}, {info.seconds:.1f} s.",
        *info.problems,
    ]
    if info.k_hat is not None:
        words.append(
            f"Importance sampling: k-hat {info.k_hat:.2f} (trusted below 0.7), "
            f"{info.effective_draws:.0f} effective draws."
        )
    if not info.problems:
        words.append("No divergences, r-hat below 1.01 and enough effective draws everywhere.")
    diagnosed = fit.summary()[["ess_bulk", "ess_tail", "r_hat"]]
    worst = pd.DataFrame(
        {
            "worst": [
                float(diagnosed["r_hat"].max()),
                float(diagnosed["ess_bulk"].min()),
                float(diagnosed["ess_tail"].min()),
            ]
        },
        index=["largest r-hat", "smallest bulk effective sample size", "smallest tail one"],
    )
    pictures = _pictures([(fit.plot_rank, "Ranks of the draws by chain", False)], fit.model.design)
    return Section("Diagnostics", words, tables=[table(worst, first="")], pictures=pictures)


def _estimates(fit, likelihood: LikelihoodResult | None, notes, level: float) -> Section:
    percent = f"{100 * level:g} %"
    posterior = fit.fixef(level=level)
    columns = {"posterior": _with_interval(posterior, "mean")}
    if "ratio_lower" in posterior:
        ratio = str(posterior.columns[posterior.columns.get_loc("ratio_lower") - 1])
        shown = ["lower", "upper"]
        bounds = posterior[[ratio, "ratio_lower", "ratio_upper"]].set_axis([ratio, *shown], axis=1)
        columns[ratio.replace("_", " ")] = _with_interval(bounds, ratio)
    tables = [table(pd.DataFrame(columns), f"Posterior, {percent} intervals", "coefficient")]
    if likelihood is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            beside = _beside(likelihood, level)
        tables += [
            table(frame, f"{name}, {percent} intervals", "coefficient")
            for name, frame in beside.items()
        ]
    pictures = _pictures([(fit.plot_forest, "Coefficients", False)], fit.model.design)
    return Section("Coefficients", notes, tables=tables, pictures=pictures)


def _beside(likelihood: LikelihoodResult, level: float) -> dict[str, pd.DataFrame]:
    """Estimates of the likelihood fit: of REML with both degrees of freedom.

    Tables of their own, narrow enough for a phone.
    """
    kinds = {"REML, Satterthwaite": "satterthwaite", "REML, Kenward-Roger": "kenward-roger"}
    if not likelihood.model.design.family.gaussian:
        kinds = {"Maximum likelihood": "normal"}
    found = {}
    for name, ddf in kinds.items():
        fixed = likelihood.fixef(ddf, level=level)
        columns = {"estimate": _with_interval(fixed, "estimate")}
        if ddf != "normal":
            columns["df"] = fixed["df"]
        found[name] = pd.DataFrame(columns | {"p": fixed["p"]})
    return found


def _with_interval(frame: pd.DataFrame, center: str) -> pd.Series:
    """Estimates with their intervals as text."""
    rows = frame[[center, "lower", "upper"]].to_numpy(dtype=float)
    text = [
        "–"
        if np.isnan(row[0])
        else f"{row[0]:.4g}" + ("" if np.isnan(row[1:]).any() else f" ({row[1]:.4g}, {row[2]:.4g})")
        for row in rows
    ]
    return pd.Series(text, index=frame.index)


def _components(fit, likelihood: LikelihoodResult | None, level: float) -> Section:
    percent = f"{100 * level:g} %"
    columns = {f"posterior ({percent})": _with_interval(fit.varcomp(level=level), "mean")}
    words = []
    if likelihood is not None:
        name = "REML" if fit.model.design.family.gaussian else "ML"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wald = likelihood.varcomp(level=level)
        columns[f"{name} (Wald {percent})"] = _with_interval(wald, "estimate")
        if likelihood.singular:
            words = [f"{name} is at a boundary: " + "; ".join(likelihood.singular_components) + "."]
    frame = pd.DataFrame(columns).reindex(fit.varcomp(level=level).index)
    return Section("Variance components", words, tables=[table(frame, first="component")])


def _explained(fit, level: float) -> Section | None:
    try:
        shares = pd.concat([fit.r2(level=level), fit.icc(level=level)])
    except BayesLMMError:
        return None
    columns = ["mean", "sd", "lower", "upper"]
    shares.index = [_SHARES.get(name, f"intraclass correlation, {name}") for name in shares.index]
    words = [
        "Marginal R2 is the share of the variance that the fixed part explains, conditional R2 "
        "that of fixed and random part; the intraclass correlation is the share of the groups."
    ]
    return Section("Variance explained", words, tables=[table(shares[columns])])


_SHARES = {
    "marginal": "R2, marginal",
    "conditional": "R2, conditional",
    "adjusted": "intraclass correlation, adjusted",
    "unadjusted": "intraclass correlation, unadjusted",
}


def _groups(fit, effect) -> Section | None:
    if not fit.model.design.blocks or not fit.model.design.rows_in_memory:
        return None
    pictures = _pictures(
        [
            (
                _trajectories(fit, effect),
                "Lines of the groups, each at its own values of the predictors, and of the "
                "population, at the values named in the picture",
                True,
            ),
            (fit.plot_shrinkage, "Shrinkage: no pooling to partial pooling", True),
        ],
        fit.model.design,
    )
    return Section("Groups", pictures=pictures) if pictures else None


def _trajectories(fit, effect):
    """The fan over what varies within groups, split by the factor of the effect."""
    design = fit.model.design
    block = design.blocks[0]
    options = {}
    if not set(block.effects) - {"Intercept"}:  # with a random slope the default is right
        within = [name for name in design.coef_names if _varies_within(design, name, block)]
        options["x"] = next((name for name in within if name in design.columns), None)
    if isinstance(effect, str) and (factor := _factor_of(effect)) in design.columns:
        options["by"] = factor if factor != effect else None

    def draw_lines():
        try:
            return fit.plot_trajectories(**options)
        except BayesLMMError:
            return fit.plot_trajectories()

    return draw_lines


def _factor_of(effect: str) -> str:
    """The factor in a coefficient's name; of a slope by a factor that factor too."""
    return effect.split("[")[0].rpartition(":")[2]


def _varies_within(design: Design, name: str, block) -> bool:
    column = design.X[:, list(design.coef_names).index(name)]
    sums = np.bincount(block.codes, column, minlength=block.n_levels)
    mean = sums / np.maximum(np.bincount(block.codes, minlength=block.n_levels), 1)
    return bool(np.any(np.abs(column - mean[block.codes]) > 1e-9 * (1 + np.abs(column))))


def _checks(fit) -> Section | None:
    if not fit.model.design.rows_in_memory:
        return None
    pictures = _pictures(
        [
            (
                partial(fit.plot_ppc, random_seed=fit.info.random_seed),
                "Responses seen, and replicated by the model",
                True,
            ),
            (fit.plot_residuals, "Residuals", True),
        ],
        fit.model.design,
    )
    words = ["If the model holds, replicated responses look like those seen."]
    found = fit.check()
    failed = found.loc[found["check"] == "predictive check", "finding"].tolist()
    words += failed or ["No statistic of the data is outside of what the model replicates."]
    return Section("Posterior predictive checks", words, pictures=pictures) if pictures else None


def _effect_sections(fit, settings: Settings) -> list[Section]:
    from bayeslmm.reanalysis.reanalyze import reanalyze
    from bayeslmm.reanalysis.sensitivity import sensitivity

    options = dict(settings.options)
    priors = options.pop("priors", "standard")
    seed = fit.info.random_seed
    result = reanalyze(
        fit, settings.effect, priors, level=settings.level, random_seed=seed, **options
    )
    curve = sensitivity(fit, settings.effect, level=settings.level, random_seed=seed, **options)
    design = fit.model.design
    return [_reanalysis(result, design), _curve(curve, design), _bayes_factors(result)]


def _reanalysis(result: Reanalysis, design: Design) -> Section:
    s = result.scale
    better = "higher" if s.sign > 0 else "lower"
    unit, beside = np.exp if s.ratio else float, "REML" if design.family.gaussian else "ML"
    size = unit(s.sign * s.mcid) if s.ratio else s.mcid
    words = [
        f"The effect of {result.effect} ({better} is better) under a set of priors, all others as "
        f"above, beside {beside}. "
        f"Minimal important difference {size:.4g}; region of practical equivalence "
        f"{unit(s.rope[0]):.4g} to {unit(s.rope[1]):.4g}"
        + (" (ratios; priors are on the logarithm)." if s.ratio else "."),
        *result.notes,
    ]
    priors = [[name, repr(prior)] for name, prior in result.priors.items()]
    pictures = _pictures(
        [
            (result.plot, f"{result.effect}: means and {100 * result.level:g} % intervals", False),
            (lambda: result.plot("density"), "Prior (gray) and posterior (blue)", False),
        ],
        design,
    )
    tables = [
        Table(["name", "prior on the effect"], priors, "Priors"),
        table(result.table.drop(columns=["bf10"]), "Posteriors", "prior"),
    ]
    if result.risks is not None:
        tables.append(table(result.risks, "Averages over rows and groups", "prior"))
    return Section("Reanalysis", words, tables=tables, pictures=pictures)


def _curve(curve: Sensitivity, design: Design) -> Section:
    words = curve.describe().splitlines()[:2]
    pictures = _pictures([(curve.plot, "As the scale of the prior grows", False)], design)
    return Section("Sensitivity to the prior", words, pictures=pictures)


def _bayes_factors(result: Reanalysis) -> Section:
    words = [
        "For an effect under each prior against no effect at all. A Bayes factor depends on the "
        "prior however many data there are; above 1 it speaks for an effect."
    ]
    frame = result.bayes_factors.rename(columns={"relative_error": "Monte Carlo error (relative)"})
    return Section("Bayes factors", words, tables=[table(frame, first="prior")])


def _power_scaling(fit) -> Section | None:
    from bayeslmm.reanalysis.power_scaling import power_scaling

    try:
        frame = power_scaling(fit)
    except (BayesLMMError, ValueError):
        return None
    words = [
        "How far the posterior of each parameter moves when all priors, or the likelihood, are "
        "raised to a power near one; above 0.05 it depends on them (Kallioinen et al. 2024)."
    ]
    shown = frame[["prior", "likelihood", "diagnosis"]]
    shown.columns = ["all priors", "likelihood", "diagnosis"]
    return Section("Power-scaling", words, tables=[table(shown, first="parameter")])


def _reproduce(fit, settings: Settings) -> Section:
    from bayeslmm.bayes.fitting import versions

    rows = [[name, value] for name, value in versions().items()]
    words = [f"Seed {fit.info.random_seed}."]
    if fit.model.design.rows_in_memory:
        digest = hashlib.sha256(
            np.ascontiguousarray(fit.model.design.y).tobytes()
            + np.ascontiguousarray(fit.model.design.X).tobytes()
        ).hexdigest()[:16]
        words = [f"{words[0]} Fingerprint of response and model matrix: {digest}."]
    return Section(
        "How to make this again",
        words,
        tables=[Table(["package", "version"], rows, "Versions")],
        code=reproducing_code(fit, settings.source, settings.effect, settings.options),
    )


def _pictures(wanted, design: Design) -> list[Picture]:
    """Those that can be drawn; dense ones of many rows as bitmaps."""
    labels = [design.response, *design.coef_names, *(block.name for block in design.blocks)]
    plain = any("$" in label for label in labels)
    drawn = [
        draw(make, caption, bitmap=dense and design.n_rows > _MANY_ROWS, plain=plain)
        for make, caption, dense in wanted
    ]
    return [picture for picture in drawn if picture is not None]
