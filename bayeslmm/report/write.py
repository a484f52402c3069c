"""From a fit to an HTML file that needs nothing else."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslmm.errors import DataError, FileFormatError
from bayeslmm.files import file_name, write_text
from bayeslmm.report.content import Settings, sections

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.protocols import PosteriorResult

__all__ = ["check_effect", "render", "write_report"]


def write_report(
    fit: PosteriorResult,
    path: str | os.PathLike,
    *,
    effect=None,
    title: str | None = None,
    question: str = "",
    mcid: float | None = None,
    rope=None,
    direction: str = "higher is better",
    priors="standard",
    level: float = 0.95,
    source: str = "...  # the data frame",
) -> Path:
    """Write the report of a fit; see :meth:`bayeslmm.PosteriorFit.report`.

    Raises
    ------
    FileFormatError
        If the folder does not exist.
    DataError
        If an effect is to be reanalyzed and the rows are not in memory.
    ValueError
        If the effect or an option does not exist.
    """
    from bayeslmm.reanalysis.effects import effect_row
    from bayeslmm.reanalysis.prior_sets import EffectScale
    from bayeslmm.results.tables import check_level

    path = Path(file_name(path))
    if not path.parent.is_dir():
        raise FileFormatError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    check_level(level)
    design = fit.model.design
    check_effect(design, effect)
    if effect is None:  # refused before the work starts
        EffectScale.of(mcid, rope, direction, 1.0)
    else:
        EffectScale.in_design(design, effect_row(design, effect)[1], mcid, rope, direction)
    options = {"mcid": mcid, "rope": rope, "direction": direction, "priors": priors}
    settings = Settings(effect, options, question, level, source)
    what = "a linear mixed model" if design.family.gaussian else "a mixed model"
    heading = title or f"{design.response}: {what}"
    write_text(path, render(heading, sections(fit, settings)))
    return path


def check_effect(design: Design, effect) -> None:
    """Refuse an effect that does not exist or cannot be reanalyzed, before the work starts.

    Raises
    ------
    DataError
        If the rows are not in memory.
    ValueError
        If there is no such effect.
    """
    from bayeslmm.reanalysis.effects import effect_row

    if effect is None:
        return
    effect_row(design, effect)
    if not design.rows_in_memory:
        raise DataError(
            "Reanalysis of an effect needs the rows in memory, and these data are read in batches: "
            "leave effect out, or make the model from a data frame (a sample of the groups)."
        )


def render(title: str, found: list) -> str:
    """HTML of a list of sections; every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files("bayeslmm.report").joinpath("template.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text).render(title=title, sections=found)
