"""The site's Sphinx extension: the pages of docs/ as they are, and what only a site has.

The sidebar comes from docs/README.md, as `tools.twins` reads it: a heading is a caption, and the pages that the index
describes are the pages of the site, in that order.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.parsers.rst.states import Inliner
from docutils.utils import new_document
from myst_parser.sphinx_ import Parser as MystParser
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

from tools.twins import MODULES, ROOT, blocks_marked, for_the_site, llms_txt, pages_of, sections, twin_of


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect what is below to the build."""
    app.add_role("saga", name_role)
    app.connect("source-read", read_source)
    app.add_directive("page", Page)
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", mark_code, priority=100)
    app.connect("autodoc-process-signature", name_factories)
    ModuleAnalyzer.analyze = without_overloads(ModuleAnalyzer.analyze)
    app.connect("env-check-consistency", check_names)
    app.connect("html-page-context", link_to_twin)
    app.connect("build-finished", write_twins)
    return {"parallel_read_safe": True}


# --- pages -----------------------------------------------------------------------------------------------------------


def read_source(app: Sphinx, docname: str, content: list[str]) -> None:
    """Give the index its table of contents, and every page its links."""
    if docname != "index":
        content[0] = for_the_site(content[0])
        return
    for caption, section in sections((ROOT / "docs/README.md").read_text()):
        pages = pages_of(section) + (["reference/index"] if caption == "Reference" else [])
        if not pages:
            continue
        lines = "\n   ".join(pages)
        content[0] += f"\n.. toctree::\n   :hidden:\n   :caption: {caption}\n\n   {lines}\n"


class Page(Directive):
    """Shows a Markdown file of the repository."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the file. Sphinx's `include` gives a file of another syntax no chance to have its links changed."""
        path = ROOT / self.arguments[0]
        document = new_document(str(path), self.state.document.settings)
        parser = MystParser()
        parser.parse(for_the_site(path.read_text()), document)
        document.transformer.populate_from_components((parser,))
        document.transformer.apply_transforms()
        self.state.document.settings.record_dependencies.add(str(path))
        return document.children


# --- docstrings ------------------------------------------------------------------------------------------------------


def without_overloads(analyze: Callable[[ModuleAnalyzer], None]) -> Callable[[ModuleAnalyzer], None]:
    """Let a function be shown by one signature, its own. Its overloads are for type checkers: ten of them say less."""

    def run(self: ModuleAnalyzer) -> None:
        analyze(self)
        self.overloads = {}

    return run


def name_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Link a name of the library, and show everything else as code."""
    if re.fullmatch(r"[A-Za-z_][\w.]*", text):
        role = inliner.document.settings.env.domains["py"].role("obj")
        return role("py:obj", rawtext, text, lineno, inliner)
    return [nodes.literal(rawtext, text)], []


def mark_code(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make a code block of what is indented, unless it belongs to a section such as `Args:`."""
    lines[:] = blocks_marked([line for line in lines if line != "PYTEST_DONT_REWRITE"], markdown=False)


def name_factories(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Write a default that a factory makes as `...`: Sphinx cannot parse `<factory>`, and shows the signature raw."""
    return signature and signature.replace("<factory>", "..."), returned


def check_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of a public name that the reference has not, which fails the build."""
    described = {name for name, *_ in env.domains["py"].get_objects()}
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            if f"{module}.{name}" not in described:
                logging.getLogger(__name__).warning("%s.%s is not in the reference", module, name)


# --- twins -----------------------------------------------------------------------------------------------------------


def link_to_twin(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Say in a page's head where its twin is."""
    if doctree is not None:
        twin = f'<link rel="alternate" type="text/markdown" href="{page.rpartition("/")[2]}.md">'
        context["metatags"] = context.get("metatags", "") + twin


def write_twins(app: Sphinx, error: Exception | None) -> None:
    """Write the twins and `llms.txt` beside the pages."""
    if error is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    for name in sorted(app.env.found_docs):
        (out / f"{name}.md").write_text(twin_of(name))
    (out / "llms.txt").write_text(llms_txt(app.config.html_baseurl))
