"""The documentation site: ``uv run --group docs python docs/build.py``."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert

import bayeslmm
from bayeslmm import plots

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from members import pages  # noqa: E402

# autodoc calls a class under another name an alias: the page of LMM is the full one
bayeslmm.LMM.__name__ = "LMM"

project = "bayeslmm"
author = "The bayeslmm developers"
copyright = "2026, The bayeslmm developers"
release = version = bayeslmm.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
# the sources are the repository itself, so that tutorials and changelog stand in one place only
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/api/**",
    "tutorials/*.ipynb",
    "tutorials/solutions/*.ipynb",
    "tutorials/*.md",
    "CHANGELOG.md",
]
exclude_patterns = ["docs/_build", ".venv", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_url_schemes = ("http", "https", "mailto")
nb_execution_mode = "off"  # notebooks are executed by tests and stored with their outputs
nb_merge_streams = True

autosummary_generate = True
autosummary_context = {"classes": pages()}
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
intersphinx_mapping = {}  # no network while building

html_theme = "pydata_sphinx_theme"
html_title = "bayeslmm"
html_static_path = ["_static"]
html_css_files = ["bayeslmm.css"]
# an absolute path: autosummary looks below the directory of the sources, which is the repository
templates_path = [str(HERE / "_templates")]
# a page without neighbors, and two with wide tables
html_sidebars = {"docs/getting-started": [], "docs/comparison": [], "docs/bridge": []}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": {"**": ["page-toc"], "docs/comparison": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _mathematics(display: str):
    """A visitor that writes formulas as MathML: nothing is loaded from the network."""

    def visit(self, node):
        from docutils import nodes

        latex = node.astext()
        self.body.append(convert(latex, display=display))
        if display == "block":
            self.body.append("\n")
        raise nodes.SkipNode

    return visit


def _drawn_by(what: str, name: str):
    """The function of bayeslmm.plots behind a plot method whose docstring is a pointer to it."""
    last = name.rpartition(".")[2]
    return getattr(plots, last, None) if what == "method" and last in plots.__all__ else None


def _docstring(app, what, name, obj, options, lines):
    """Parameters, errors and examples of a plot stand at its function: the fit is the method's."""
    if name == "bayeslmm.MixedModel":
        lines[:] = ["Another name of :class:`bayeslmm.LMM`.", ""]
    function = _drawn_by(what, name)
    if function is not None and "Parameters" not in lines:
        text = re.sub(r"^(?:fit|model) :.*\n(?: +.*\n)*", "", inspect.getdoc(function), flags=re.M)
        lines[:] = [*text.splitlines(), ""]


def _signature_of_plot(app, what, name, obj, options, signature, returned):
    function = _drawn_by(what, name)
    if function is None or "Parameters" in inspect.getdoc(obj):
        return None
    first, *others = inspect.signature(function).parameters.values()
    parameters = [first, *others] if first.kind is first.VAR_POSITIONAL else others
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(plain)), returned


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _docstring, priority=100)
    app.connect("autodoc-process-signature", _signature_of_plot)
    inline, block = (_mathematics(display) for display in ("inline", "block"))
    app.add_html_math_renderer("mathml", (inline, None), (block, None))


html_math_renderer = "mathml"

# shell commands of notebooks over several lines are not quite IPython to the lexer
suppress_warnings = ["misc.highlighting_failure"]
