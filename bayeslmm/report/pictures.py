"""Figures as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeslmm.errors import BayesLMMError

__all__ = ["Picture", "draw"]


@dataclass(frozen=True)
class Picture:
    """An image with its caption.

    Attributes
    ----------
    uri : str
        Empty where it could not be drawn; the caption then says why.
    caption : str
    """

    uri: str
    caption: str


def draw(
    make: Callable, caption: str, *, bitmap: bool = False, plain: bool = False
) -> Picture | None:
    """What ``make`` draws, or None where it refuses.

    Parameters
    ----------
    make : callable
        Returns matplotlib axes, or an array of them.
    caption : str
    bitmap : bool
        PNG instead of SVG.
    plain : bool
        Take dollar signs in names for what they are, not for mathematics.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    settings: Any = {
        "svg.fonttype": "path",
        "svg.hashsalt": "bayeslmm",
        "text.parse_math": not plain,
    }
    try:
        with (
            matplotlib.rc_context(settings),
            plt.ioff(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            try:
                axes = make()
            except BayesLMMError:  # says that there is nothing to draw
                return None
            except Exception as err:  # one picture must not cost the whole report
                return Picture("", f"{caption}: could not be drawn ({type(err).__name__}: {err})")
            figure = np.asarray(axes).ravel()[0].get_figure()
            stream = io.BytesIO()
            kind = "png" if bitmap else "svg"
            options = {} if bitmap else {"metadata": {"Date": None, "Creator": None}}
            figure.savefig(stream, format=kind, dpi=150, bbox_inches="tight", **options)
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    mime = "image/png" if bitmap else "image/svg+xml"
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:{mime};base64,{data}", caption)
