"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Data = Annotated[
    list[str],
    typer.Argument(
        help="A data set's name; an Excel file; or Parquet or CSV files, a pattern or a directory "
        "of them."
    ),
]
Formula = Annotated[
    str,
    typer.Argument(
        help="Such as 'y ~ x + (x | group)'. In single quotes: names with spaces go in "
        "backquotes, which the shell would run inside double ones."
    ),
]
Sep = Annotated[
    str | None, typer.Option(help='What separates columns of a text file: ";", tab, ...')
]
Decimal = Annotated[str | None, typer.Option(help='Decimal sign of a text file: "." or ",".')]
Encoding = Annotated[
    str | None, typer.Option(help="Of a text file, such as cp1252 (Windows); UTF-8 by default.")
]
Na = Annotated[
    list[str] | None,
    typer.Option(help="A value that stands for a missing one; may be given several times."),
]
Sheet = Annotated[str | None, typer.Option(help="Sheet of an Excel file; the first by default.")]
Prior = Annotated[
    list[str] | None,
    typer.Option(help='Such as "Days=Normal(mu=0, sigma=10)"; may be given several times.'),
]
Priors = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help='JSON or TOML, such as {"Days": "Normal(mu=0, sigma=10)"}; --prior goes before it.',
    ),
]
Weights = Annotated[str | None, typer.Option(help="Column of prior weights.")]
Relationship = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FACTOR=FILE",
        help="Covariance of a factor's levels: a labelled matrix, or a pedigree with columns id, "
        "sire, dam (others: FACTOR=FILE:animal,father,mother).",
    ),
]
Residual = Annotated[
    str | None, typer.Option(help='Correlated residuals, such as "ar1(time | group)".')
]
Sigma = Annotated[
    str | None, typer.Option(help='Unequal residual variances, such as "~ treatment".')
]
Family = Annotated[
    str,
    typer.Option(
        help="Response: gaussian, student, bernoulli, binomial, poisson, negativebinomial, gamma, "
        "beta, lognormal, ordinal, zero_inflated_poisson, zero_inflated_negativebinomial."
    ),
]
Link = Annotated[
    str | None,
    typer.Option(help="Of the mean: logit, probit, cloglog, log, identity or inverse."),
]
Random = Annotated[str, typer.Option(help="Random effects: gaussian or student.")]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        help="Rows with missing values: drop, raise, model (covariates), or the formula of a "
        'covariate, "age ~ sex + (1 | site)", which may be given several times.'
    ),
]
Reference = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=LEVEL",
        help="The level the others are compared with; may be given several times.",
    ),
]
Level = Annotated[float, typer.Option(help="Probability inside the intervals.")]
Draws = Annotated[int, typer.Option(min=4, help="Draws kept per chain.")]
Chains = Annotated[int, typer.Option(min=1, help="Independent chains.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Makes the run repeatable.")]
Method = Annotated[str, typer.Option(help="nuts or importance.")]
BatchRows = Annotated[
    int | None, typer.Option(min=1, help="Read files in batches of so many rows.")
]
Progress = Annotated[bool, typer.Option(help="Show progress bars.")]
Format = Annotated[str, typer.Option(help="Of what is printed: table, csv, json or markdown.")]
