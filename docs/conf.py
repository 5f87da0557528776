"""Sphinx's settings for the site, which `make docs` builds. The pages are plain Markdown, to be read on GitHub too."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "temporal-saga"
author = "temporal-saga contributors"
copyright = author
version = release = installed_version("temporal-saga")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pages"]
exclude_patterns = ["README.md"]  # index.rst shows it

myst_heading_anchors = 6

default_role = "saga"  # the role of `name` in a docstring
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # the fields of a class are members too
napoleon_use_rtype = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 100
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"temporal-saga {release}"
html_baseurl = "https://temporal-saga.github.io/temporal-saga/"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False  # each page has a Markdown twin instead
html_theme_options = {
    "source_repository": "https://github.com/temporal-saga/temporal-saga/",
    "source_branch": "main",
    "source_directory": "docs/",
    "navigation_with_keys": True,
}
pygments_style = "friendly"
pygments_dark_style = "monokai"
