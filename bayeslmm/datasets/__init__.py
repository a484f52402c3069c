"""Classic public data sets, one function each, with variables, units and source.

>>> import bayeslmm as blm
>>> blm.load_dataset("sleepstudy").columns.tolist()
['Reaction', 'Days', 'Subject']
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import resources

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, suggestion

__all__ = ["describe_dataset", "list_datasets", "load_dataset"]


def list_datasets() -> list[str]:
    """Names of the data sets that come with the package.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> "penicillin" in blm.list_datasets()
    True
    """
    return sorted(_LOADERS)


def load_dataset(name: str) -> pd.DataFrame:
    """A data set as a pandas frame; factors are categoricals.

    Parameters
    ----------
    name : str
        One of :func:`list_datasets`, in any case.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    DataError
        If there is no data set of that name.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> blm.load_dataset("dyestuff").shape
    (30, 2)
    """
    return _loader(name)()


def describe_dataset(name: str) -> str:
    """What a data set is: variables, units, source.

    Raises
    ------
    DataError
        If there is no data set of that name.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> blm.describe_dataset("sleepstudy").splitlines()[0]
    'Reaction times over ten days, most of them with restricted sleep.'
    """
    return inspect.getdoc(_loader(name)) or ""


def _loader(name: str) -> Callable[[], pd.DataFrame]:
    loader = _LOADERS.get(str(name).lower())
    if loader is None:
        hint = suggestion(str(name).lower(), _LOADERS, 1)
        raise DataError(
            f"There is no data set {name!r}.{hint} Available: {', '.join(list_datasets())}."
        )
    return loader


def _read(name: str, factors: tuple[str, ...]) -> pd.DataFrame:
    folder = resources.files("bayeslmm.datasets")
    file = folder / f"{name}.csv"
    compression = None
    if not file.is_file():
        file, compression = folder / f"{name}.csv.gz", "gzip"
    with file.open("rb") as stream:
        frame = pd.read_csv(stream, compression=compression, dtype=dict.fromkeys(factors, "str"))
    for factor in factors:
        frame[factor] = pd.Categorical(frame[factor], categories=_level_order(frame[factor]))
    return frame


_ROMAN = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X"]


def _level_order(column: pd.Series) -> list[str]:
    """Levels that are numbers (Arabic or Roman) in numeric order, others alphabetically."""
    levels = sorted(map(str, column.unique()))
    if all(level in _ROMAN for level in levels):
        return sorted(levels, key=_ROMAN.index)
    return sorted(levels, key=int) if all(level.isdecimal() for level in levels) else levels


def sleepstudy() -> pd.DataFrame:
    """Reaction times over ten days, most of them with restricted sleep.

    Variables
    ---------
    Reaction : average reaction time of the day (ms).
    Days : day of the study, 0 to 9; days 0 and 1 were adaptation and training, day 2 was the
        baseline, and after it time in bed was restricted to 3 hours a night.
    Subject : 18 subjects.

    Source
    ------
    Belenky, G. et al. (2003). Patterns of performance degradation and restoration during sleep
    restriction and subsequent recovery: a sleep dose-response study. Journal of Sleep
    Research 12, 1-12.
    https://doi.org/10.1046/j.1365-2869.2003.00337.x
    """
    return _read("sleepstudy", ("Subject",))


def dyestuff() -> pd.DataFrame:
    """Yield of dyestuff from six batches of an intermediate product, five preparations each.

    Variables
    ---------
    Batch : 6 batches of the intermediate product.
    Yield : yield of the preparation (grams of standard color).

    Source
    ------
    Davies, O. L. and Goldsmith, P. L. (1972). Statistical Methods in Research and Production,
    4th ed., section 6.4. Oliver and Boyd.
    """
    return _read("dyestuff", ("Batch",))


def dyestuff2() -> pd.DataFrame:
    """Made-up companion of dyestuff in which the batches do not differ (a singular fit).

    Variables
    ---------
    Batch : 6 batches.
    Yield : simulated yield (no unit).

    Source
    ------
    Box, G. E. P. and Tiao, G. C. (1973). Bayesian Inference in Statistical Analysis,
    section 5.1.2. Addison-Wesley.
    """
    return _read("dyestuff2", ("Batch",))


def penicillin() -> pd.DataFrame:
    """Six samples of penicillin tested on each of 24 plates (crossed factors).

    Variables
    ---------
    diameter : diameter of the zone in which growth is inhibited (mm).
    plate : 24 plates.
    sample : 6 samples of penicillin.

    Source
    ------
    Davies, O. L. and Goldsmith, P. L. (1972). Statistical Methods in Research and Production,
    4th ed., section 6.6. Oliver and Boyd.
    """
    return _read("penicillin", ("plate", "sample"))


def pastes() -> pd.DataFrame:
    """Strength of a chemical paste: casks within batches, two assays per cask (nested).

    Variables
    ---------
    strength : strength of the paste.
    batch : 10 delivery batches.
    cask : a, b, c within each batch (the label repeats across batches).
    sample : the combination of batch and cask, 30 levels.

    Source
    ------
    Davies, O. L. and Goldsmith, P. L. (1972). Statistical Methods in Research and Production,
    4th ed., section 6.5. Oliver and Boyd.
    """
    return _read("pastes", ("batch", "cask", "sample"))


def cake() -> pd.DataFrame:
    """Breakage angle of chocolate cakes: recipes by oven temperature (a split-plot design).

    Variables
    ---------
    replicate : 15 replicates (a mix of one recipe, split into six cakes, is recipe:replicate).
    recipe : A, B, C.
    temperature : oven temperature as a factor (degrees Fahrenheit).
    angle : angle at which the cake broke (degrees).
    temp : oven temperature as a number (degrees Fahrenheit).

    Source
    ------
    Cochran, W. G. and Cox, G. M. (1957). Experimental Designs, 2nd ed., p. 300. Wiley.
    Lee, Y., Nelder, J. A. and Pawitan, Y. (2006). Generalized Linear Models with Random
    Effects, section 5.5. Chapman and Hall.
    https://doi.org/10.1201/9781420011340
    """
    return _read("cake", ("replicate", "recipe", "temperature"))


def machines() -> pd.DataFrame:
    """Productivity of six workers on three machines, each pair tried three times.

    Variables
    ---------
    Worker : 6 workers, drawn from the factory's employees.
    Machine : A, B, C, the brands to be compared.
    score : productivity score (number and quality of pieces).

    Source
    ------
    Pinheiro, J. C. and Bates, D. M. (2000). Mixed-Effects Models in S and S-PLUS,
    section 1.3. Springer.
    https://doi.org/10.1007/b98882
    """
    return _read("machines", ("Worker", "Machine"))


def orthodont() -> pd.DataFrame:
    """Growth of a distance in the skull of 27 children between ages 8 and 14.

    Variables
    ---------
    distance : from the pituitary to the pterygomaxillary fissure (mm).
    age : 8, 10, 12 or 14 (years).
    Subject : 27 children.
    Sex : Female or Male.

    Source
    ------
    Potthoff, R. F. and Roy, S. N. (1964). Biometrika 51, 313-326; as in Pinheiro, J. C. and
    Bates, D. M. (2000), section 1.4.
    https://doi.org/10.1093/biomet/51.3-4.313
    """
    return _read("orthodont", ("Subject", "Sex"))


def oats() -> pd.DataFrame:
    """Yield of oats: varieties on whole plots, nitrogen on subplots (a split-plot design).

    Variables
    ---------
    Block : 6 blocks.
    Variety : 3 varieties, the whole-plot treatment.
    nitro : nitrogen (hundredweight per acre), the subplot treatment.
    yield : yield (bushels per acre).

    Source
    ------
    Yates, F. (1935). Complex experiments. Journal of the Royal Statistical Society
    (Supplement) 2, 181-247; as in Pinheiro, J. C. and Bates, D. M. (2000), section 1.6.
    https://doi.org/10.2307/2983638
    """
    return _read("oats", ("Block", "Variety"))


def ergostool() -> pd.DataFrame:
    """Effort needed to get up from four types of stool, nine subjects each.

    Variables
    ---------
    effort : effort on the Borg scale.
    Type : T1 to T4.
    Subject : 9 subjects.

    Source
    ------
    Wretenberg, P., Arborelius, U. P. and Lindberg, F. (1993). Ergonomics 36, 519-526; as in
    Pinheiro, J. C. and Bates, D. M. (2000), section 1.2.
    https://doi.org/10.1007/b98882
    """
    return _read("ergostool", ("Type", "Subject"))


def mathachieve() -> pd.DataFrame:
    """Mathematics achievement of 7,185 students in 160 schools (High School and Beyond, 1982).

    Variables
    ---------
    School : 160 schools.
    Minority : whether the student belongs to a minority, No or Yes.
    Sex : Female or Male.
    SES : socio-economic status of the student (centered scale).
    MathAch : mathematics achievement score.
    MEANSES : mean SES of the school.

    Source
    ------
    Raudenbush, S. W. and Bryk, A. S. (2002). Hierarchical Linear Models, 2nd ed., chapter 4.
    Sage; as in Pinheiro, J. C. and Bates, D. M. (2000).
    https://doi.org/10.1007/b98882
    """
    return _read("mathachieve", ("School", "Minority", "Sex"))


def insteval() -> pd.DataFrame:
    """73,421 ratings of lectures at ETH Zurich by students (crossed, large).

    Variables
    ---------
    s : 2,972 students.
    d : 1,128 instructors.
    studage : semesters the student has been enrolled (2, 4, 6, 8).
    lectage : semesters back the lecture rated was held (1 to 6).
    service : 1 for a lecture outside the instructor's department, else 0.
    dept : 14 departments, anonymous codes.
    y : rating, 1 (poor) to 5 (very good).

    Source
    ------
    Lecture evaluations at ETH Zurich, 1992 to 2002, anonymized by the university; published
    with the R package lme4 (Bates, D. et al. 2015, Journal of Statistical Software 67(1)).
    https://doi.org/10.18637/jss.v067.i01
    """
    return _read("insteval", ("s", "d", "studage", "lectage", "service", "dept"))


def chem97() -> pd.DataFrame:
    """A-level chemistry scores of 31,022 students in 2,410 schools (England, 1997).

    Variables
    ---------
    lea : 131 local education authorities.
    school : 2,410 schools.
    student : students.
    score : point score of the A-level in chemistry (0, 2, 4, 6, 8, 10).
    gender : F or M.
    age : age in months, centered at 222 months (18.5 years).
    gcsescore : mean score of the GCSE exams two years before.
    gcsecnt : the same, centered at its mean.

    Source
    ------
    Fielding, A., Yang, M. and Goldstein, H. (2003). Multilevel ordinal models for examination
    grades. Statistical Modelling 3, 127-153; Rasbash, J. et al. (2000), MLwiN user's guide.
    """
    return _read("chem97", ("lea", "school", "student", "gender"))


def beatblues() -> pd.DataFrame:
    """A randomized trial of computerized therapy for depression: 97 patients, up to four visits.

    Variables
    ---------
    subject : 97 patients with at least one visit (100 were randomized).
    treatment : TAU (treatment as usual) or BtheB (the program "Beat the Blues").
    drug : whether the patient took anti-depressant drugs, No or Yes.
    length : length of the current episode, <6m or >6m (months).
    bdi_pre : Beck Depression Inventory II before treatment.
    month : 2, 3, 5 or 8 months after randomization.
    bdi : Beck Depression Inventory II at that visit; lower is better.

    Source
    ------
    Proudfoot, J. et al. (2003). Computerized, interactive, multimedia cognitive-behavioural
    program for anxiety and depression in general practice. Psychological Medicine 33, 217-227;
    the part of the trial in Everitt, B. S. and Hothorn, T. (2010). A Handbook of Statistical
    Analyses Using R, 2nd ed., chapter 12. Chapman and Hall;
    https://doi.org/10.1201/9781420079340
    """
    frame = _read("beatblues", ("subject", "treatment", "drug", "length"))
    frame["treatment"] = frame["treatment"].cat.reorder_categories(["TAU", "BtheB"])
    return frame


def flock() -> pd.DataFrame:
    """Weights of the sheep of a flock over six lamb crops, up to three each. Simulated.

    Variables
    ---------
    id : sheep, as in the pedigree (data set flock_pedigree).
    sex : ewe or ram.
    age : age at weighing (years).
    year : year of weighing, 2012 to 2019.
    weight : body weight (kg).

    Source
    ------
    Simulated for this package (benchmarks/simulate_flock.py): no sheep were weighed. The true
    variances are 9 (additive genetic), 5 (permanent environment), 4 (years) and 11 (residual), so
    that the heritability is 0.36 of the variance within years.
    """
    return _read("flock", ("id", "sex", "year"))


def flock_pedigree() -> pd.DataFrame:
    """Pedigree of the sheep of the data set flock. Simulated.

    Variables
    ---------
    id : 580 sheep, 40 of them founders without weights.
    sire : father, "0" where unknown.
    dam : mother, "0" where unknown.

    Source
    ------
    Simulated for this package (benchmarks/simulate_flock.py), some matings between relatives.
    """
    return _read("flock_pedigree", ("id", "sire", "dam"))


def cbpp() -> pd.DataFrame:
    """New cases of contagious bovine pleuropneumonia in 15 herds over four quarters.

    Zebu cattle of newly infected herds in the Boji district of Ethiopia were tested every quarter;
    4 of the 60 quarters of a herd are missing (lost to follow-up).

    Variables
    ---------
    herd : 15 commercial herds.
    incidence : animals that became seropositive in the quarter.
    size : animals of the herd at the beginning of the quarter.
    period : quarter of the survey, 1 to 4, as a factor.
    failures : size - incidence.

    Source
    ------
    Lesnoff, M. et al. (2004). Within-herd spread of contagious bovine pleuropneumonia in
    Ethiopian highlands. Preventive Veterinary Medicine 64, 27-40; published with the R package
    lme4.
    https://doi.org/10.1016/j.prevetmed.2004.03.005
    """
    return _read("cbpp", ("herd", "period"))


def contraception() -> pd.DataFrame:
    """Use of contraception by 1,934 women in 60 districts of Bangladesh (Fertility Survey, 1989).

    Variables
    ---------
    woman : 1,934 women.
    district : 60 districts, numbered 1 to 61 without 54.
    use : 1 for a woman who used contraception at the time of the survey, else 0.
    livch : number of living children: 0, 1, 2 or 3+, as a factor.
    age : age at the time of the survey, minus the mean (years).
    urban : whether the woman lives in a town, N or Y.

    Source
    ------
    Huq, N. M. and Cleland, J. (1990). Bangladesh Fertility Survey 1989 (Main Report). National
    Institute of Population Research and Training, Dhaka; a subsample, published with the R
    package mlmRev.
    """
    return _read("contraception", ("woman", "district", "livch", "urban"))


def epilepsy() -> pd.DataFrame:
    """Seizures of 59 patients with epilepsy in a randomized trial, four periods of two weeks.

    Variables
    ---------
    y : seizures in the two weeks.
    trt : placebo or progabide.
    base : seizures in the eight weeks before randomization.
    age : age of the patient (years).
    V4 : 1 in the fourth period, else 0.
    subject : 59 patients.
    period : period of two weeks, 1 to 4.
    lbase : log(base / 4), the logarithm of the seizures in two weeks before the trial.
    lage : log(age).

    Source
    ------
    Thall, P. F. and Vail, S. C. (1990). Some covariance models for longitudinal count data with
    overdispersion. Biometrics 46, 657-671; published with the R package MASS, where lbase and
    lage are centered.
    https://doi.org/10.2307/2532086
    """
    return _read("epilepsy", ("trt", "subject"))


def grouseticks() -> pd.DataFrame:
    """Ticks on the heads of 403 red grouse chicks: chicks in broods, broods in locations.

    Variables
    ---------
    INDEX : 403 chicks, a level per row.
    TICKS : number of ticks on the chick's head.
    BROOD : 118 broods.
    HEIGHT : height above sea level (m).
    YEAR : 95, 96 or 97 (1995 to 1997), as a factor.
    LOCATION : 63 locations.
    cHEIGHT : height minus the mean of the chicks (100 m).

    Source
    ------
    Elston, D. A., Moss, R., Boulinier, T., Arrowsmith, C. and Lambin, X. (2001). Analysis of
    aggregation, a worked example: numbers of ticks on red grouse chicks. Parasitology 122,
    563-569; published with the R package lme4.
    https://doi.org/10.1017/S0031182001007740
    """
    return _read("grouseticks", ("INDEX", "BROOD", "YEAR", "LOCATION"))


def wine() -> pd.DataFrame:
    """Bitterness of white wine: nine judges rate the same eight bottles (an ordinal response).

    Temperature and contact of juice and skins were controlled when the grapes were crushed, two
    bottles from each of the four combinations.

    Variables
    ---------
    response : bitterness as marked on a scale from 0 to 100.
    rating : the same in five ordered categories of width 20, 1 (least bitter) to 5.
    temp : temperature, cold or warm.
    contact : contact of juice and skins, no or yes.
    bottle : 8 bottles.
    judge : 9 judges.

    Source
    ------
    Randall, J. H. (1989). The analysis of sensory data by generalized linear model. Biometrical
    Journal 31, 781-793; published with the R package ordinal.
    https://doi.org/10.1002/bimj.4710310703
    """
    frame = _read("wine", ("rating", "temp", "contact", "bottle", "judge"))
    frame["rating"] = frame["rating"].cat.as_ordered()
    return frame


def bcg() -> pd.DataFrame:
    """Thirteen trials of the BCG vaccine against tuberculosis, for a meta-analysis.

    Variables
    ---------
    trial : 13 trials.
    author : who published it.
    year : when.
    tpos : vaccinated with tuberculosis.
    tneg : vaccinated without.
    cpos : not vaccinated with tuberculosis.
    cneg : not vaccinated without.
    ablat : distance of the trial from the equator (degrees of latitude).
    alloc : how people were allocated: random, alternate or systematic.
    yi : logarithm of the risk ratio, below 0 where the vaccine protects.
    sei : its standard error, the root of 1/tpos - 1/(tpos + tneg) + 1/cpos - 1/(cpos + cneg).

    Source
    ------
    Colditz, G. A., Brewer, T. F., Berkey, C. S., Wilson, M. E., Burdick, E., Fineberg, H. V. and
    Mosteller, F. (1994). Efficacy of BCG vaccine in the prevention of tuberculosis: meta-analysis
    of the published literature. JAMA 271(9), 698-702; published with the R package metafor.
    https://doi.org/10.1001/jama.1994.03510330076038
    """
    frame = _read("bcg", ("trial", "alloc"))
    treated, control = frame["tpos"] + frame["tneg"], frame["cpos"] + frame["cneg"]
    frame["yi"] = np.log(frame["tpos"] / treated) - np.log(frame["cpos"] / control)
    variance = 1 / frame["tpos"] - 1 / treated + 1 / frame["cpos"] - 1 / control
    frame["sei"] = np.sqrt(variance)
    return frame


_LOADERS: dict[str, Callable[[], pd.DataFrame]] = {
    loader.__name__: loader
    for loader in (
        sleepstudy,
        dyestuff,
        dyestuff2,
        penicillin,
        pastes,
        cake,
        machines,
        orthodont,
        oats,
        ergostool,
        mathachieve,
        insteval,
        chem97,
        beatblues,
        flock,
        flock_pedigree,
        cbpp,
        contraception,
        epilepsy,
        grouseticks,
        wine,
        bcg,
    )
}
