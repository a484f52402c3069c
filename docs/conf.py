"""The documentation site: ``uv run --group docs python docs/build.py``."""

from __future__ import annotations

from latex2mathml.converter import convert

import bayeslmm

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
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
intersphinx_mapping = {}  # no network while building

html_theme = "pydata_sphinx_theme"
html_title = "bayeslmm"
html_static_path = ["_static"]
html_css_files = ["bayeslmm.css"]
templates_path = ["_templates"]
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
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


def setup(app):
    """Called by Sphinx."""
    inline, block = (_mathematics(display) for display in ("inline", "block"))
    app.add_html_math_renderer("mathml", (inline, None), (block, None))


html_math_renderer = "mathml"

# shell commands of notebooks over several lines are not quite IPython to the lexer
suppress_warnings = ["misc.highlighting_failure"]
